"""Patches: the stock PIL processor's own numbers, for pictures of every shape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from cocoa.backbones.nano import NANO_GRID
from cocoa.backbones.patches import PatchGrid
from cocoa.errors import ImageError
from cocoa.planning.ledger import LiveBytes, fake

MakePicture = Callable[..., Image.Image]
QWEN_GRID = PatchGrid(min_pixels=56 * 56, max_pixels=28 * 28 * 256)
QWEN3_GRID = PatchGrid(
    min_pixels=64 * 64, max_pixels=32 * 32 * 256, patch_size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)
GRIDS = {"nano": NANO_GRID, "qwen": QWEN_GRID, "qwen3": QWEN3_GRID}
SIZES = [
    (28, 28),
    (56, 56),
    (84, 84),
    (85, 83),
    (70, 98),  # halves of a unit, where rounding goes to even
    (1, 1),
    (5, 90),
    (90, 5),
    (13, 1000),
    (1000, 13),
    (31, 639),
    (27, 500),
    (224, 224),
    (333, 517),
    (900, 40),
    (640, 480),
]


def stock_cut(grid: PatchGrid, picture: Image.Image) -> tuple[np.ndarray, tuple[int, ...]]:
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": grid.min_pixels, "longest_edge": grid.max_pixels},
        patch_size=grid.patch_size,
        merge_size=grid.merge_size,
        temporal_patch_size=grid.temporal_patch_size,
        image_mean=grid.mean,
        image_std=grid.std,
    )
    output = processor(picture, return_tensors="np")
    return output["pixel_values"], tuple(output["image_grid_thw"][0].tolist())


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_patches_are_the_stock_processors_own(picture: MakePicture, size: tuple[int, int], grid: str) -> None:
    one = picture(*size)
    patches, shape = GRIDS[grid].cut(one)
    pixels = GRIDS[grid].normalised(torch.from_numpy(patches)).numpy()
    expected, expected_shape = stock_cut(GRIDS[grid], one)
    assert shape == expected_shape
    assert pixels.dtype == np.float32
    assert pixels.shape == expected.shape == (shape[1] * shape[2], GRIDS[grid].values_per_patch)
    assert np.abs(pixels - expected).max() <= 1e-5


def normalised_before_cutting(grid: PatchGrid, picture: Image.Image) -> np.ndarray:
    """The arithmetic of numpy alone: the whole picture is normalised, its frame doubled, then it is cut."""
    size = grid.resized(*picture.size)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    scale = np.array([1 / (255 * std) for std in grid.std], np.float32)
    shift = np.array([mean / std for mean, std in zip(grid.mean, grid.std, strict=True)], np.float32)
    pixels = np.array(picture, np.float32) * scale - shift
    rows, columns = size[1] // grid.patch_size, size[0] // grid.patch_size
    merge, patch = grid.merge_size, grid.patch_size
    blocks = pixels.reshape(rows // merge, merge, patch, columns // merge, merge, patch, 3)
    blocks = blocks.transpose(0, 3, 1, 4, 6, 2, 5)
    blocks = np.repeat(blocks[:, :, :, :, :, None], grid.temporal_patch_size, axis=5)
    return blocks.reshape(rows * columns, grid.values_per_patch)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_bytes_become_to_the_bit_what_a_picture_normalised_as_a_whole_does(
    picture: MakePicture, size: tuple[int, int], grid: str
) -> None:
    one = picture(*size)
    patches, shape = GRIDS[grid].cut(one)
    assert patches.dtype == np.uint8
    assert patches.shape == (shape[1] * shape[2], GRIDS[grid].bytes_per_patch)
    pixels = GRIDS[grid].normalised(torch.from_numpy(patches))
    assert np.array_equal(pixels.numpy(), normalised_before_cutting(GRIDS[grid], one))


@pytest.mark.parametrize("grid", GRIDS)
def test_every_byte_of_every_channel_is_normalised_to_the_bit(grid: str) -> None:
    side = GRIDS[grid].patch_size * GRIDS[grid].merge_size
    every = np.resize(np.arange(256, dtype=np.uint8), (side, side))[:, :, None].repeat(3, 2)
    patches, _ = GRIDS[grid].cut(Image.fromarray(every).resize((2 * side, 2 * side), Image.Resampling.NEAREST))
    assert len(np.unique(patches)) == 256
    pixels = GRIDS[grid].normalised(torch.from_numpy(patches)).numpy()
    again = normalised_before_cutting(GRIDS[grid], Image.fromarray(GRIDS[grid].uncut(patches, (1, 4, 4))))
    assert np.array_equal(pixels, again)


def test_floats_are_taken_as_normalised_already() -> None:
    pixels = torch.randn(4, NANO_GRID.values_per_patch)
    assert NANO_GRID.normalised(pixels) is pixels


def test_a_still_picture_of_more_frames_is_the_same_in_each(picture: MakePicture) -> None:
    grid = PatchGrid(min_pixels=56 * 56, max_pixels=112 * 112, temporal_patch_size=3)
    patches, _ = grid.cut(picture(90, 57))
    pixels = grid.normalised(torch.from_numpy(patches))
    frames = pixels.reshape(len(patches), 3, 3, -1)
    assert torch.equal(frames[:, :, 0], frames[:, :, 1]) and torch.equal(frames[:, :, 0], frames[:, :, 2])
    assert np.array_equal(pixels.numpy(), normalised_before_cutting(grid, picture(90, 57)))


def test_patches_are_normalised_without_content_too() -> None:
    pixels = NANO_GRID.normalised(fake(torch.zeros(8, NANO_GRID.bytes_per_patch, dtype=torch.uint8)))
    assert isinstance(pixels, FakeTensor)
    assert (pixels.shape, pixels.dtype) == ((8, NANO_GRID.values_per_patch), torch.float32)


def test_normalising_holds_one_copy_of_the_numbers() -> None:
    patches = torch.zeros(512, NANO_GRID.bytes_per_patch, dtype=torch.uint8)
    with LiveBytes() as memory:
        pixels = NANO_GRID.normalised(patches)
    assert memory.peak == pixels.nbytes == 8 * patches.nbytes


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("size", [(84, 84), (200, 90), (31, 639)], ids=str)
def test_a_blank_is_a_cut_without_content(picture: MakePicture, size: tuple[int, int], grid: str) -> None:
    (cut, grid_of_cut), (blank, grid_of_blank) = GRIDS[grid].cut(picture(*size)), GRIDS[grid].blank(*size)
    assert (blank.shape, blank.dtype, grid_of_blank) == (cut.shape, cut.dtype, grid_of_cut)


def test_sizes_are_the_stock_processors_own_for_any_picture() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    rng = np.random.default_rng(0)
    for _ in range(2000):
        width, height = (int(side) for side in np.exp(rng.uniform(0, 7.5, 2)).round())
        if max(width, height) > 200 * min(width, height):
            continue
        for grid in GRIDS.values():
            unit = grid.patch_size * grid.merge_size
            expected = smart_resize(height, width, unit, grid.min_pixels, grid.max_pixels)
            assert grid.resized(width, height) == expected[::-1], (width, height)


@pytest.mark.parametrize("size", [(84, 84), (56, 112), (200, 90), (31, 639)], ids=str)
def test_uncut_gives_the_resized_picture_back(picture: MakePicture, size: tuple[int, int]) -> None:
    one = picture(*size)
    resized = one.resize(NANO_GRID.resized(*size), Image.Resampling.BICUBIC)
    patches, grid = NANO_GRID.cut(one)
    assert np.array_equal(NANO_GRID.uncut(patches, grid), np.asarray(resized))
    pixels = NANO_GRID.normalised(torch.from_numpy(patches)).numpy()
    assert np.array_equal(NANO_GRID.uncut(pixels, grid), np.asarray(resized)), "and so are normalised ones"


def test_the_patches_of_one_token_are_neighbours() -> None:
    pixels = np.zeros((56, 84, 3), np.uint8)
    pixels[28:, 56:] = 255  # the last of 2 x 3 tokens
    patches, grid = NANO_GRID.cut(Image.fromarray(pixels))
    assert grid == (1, 4, 6)
    bright = (patches > 0).all(1)
    assert bright.tolist() == [False] * 20 + [True] * 4


@pytest.mark.parametrize("size", [(201, 1), (1, 201), (2001, 10)], ids=str)
def test_a_picture_longer_than_1_to_200_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=r"\[E_IMAGE_RATIO\]"):
        NANO_GRID.resized(*size)


@pytest.mark.parametrize("size", [(200, 1), (1, 200)], ids=str)
def test_a_picture_of_1_to_200_is_not(size: tuple[int, int]) -> None:
    assert min(NANO_GRID.resized(*size)) == 28


def test_a_thin_picture_keeps_at_least_one_unit() -> None:
    _, grid = QWEN_GRID.cut(Image.new("RGB", (31, 639)))
    assert grid == (1, 46, 2)
    width, height = QWEN_GRID.resized(31, 639)
    assert QWEN_GRID.min_pixels <= width * height <= QWEN_GRID.max_pixels
    # Shrunk below one unit, its short side stays one unit, as in the stock rule: the area then passes the limit.
    assert NANO_GRID.resized(31, 639) == (28, 364)
