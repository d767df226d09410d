"""The decoder shows what people see: every kind of file beside the pixels that it stands for."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms

from cocoa.images import open_rgb
from picture_files import NOISE, chunk, encode, png
from pixel_truth import SCENE, TRUTHS, Truth, scene_with
from profiles import SRGB_PRIMARIES, WIDE_PRIMARIES, grey_profile, rgb_profile


@pytest.mark.parametrize("truth", TRUTHS, ids=str)
def test_a_file_shows_what_it_stands_for(truth: Truth) -> None:
    expected = truth.expected().astype(int)
    data = truth.make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pillow says that notes are damaged.
        by_bytes, by_picture = open_rgb(data), open_rgb(Image.open(io.BytesIO(data)))
    assert by_bytes.mode == "RGB"
    for shown in (by_bytes, by_picture):
        assert np.asarray(shown).shape == expected.shape
        assert np.abs(np.asarray(shown) - expected).max() <= 2


def test_every_kind_of_picture_is_in_the_table() -> None:
    assert len(TRUTHS) >= 40
    assert len({truth.name for truth in TRUTHS}) == len(TRUTHS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_profile_that_says_srgb_changes_no_bit(kind: str) -> None:
    stock = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = np.asarray(open_rgb(encode(NOISE, kind)))
    assert np.array_equal(plain, np.asarray(open_rgb(encode(NOISE, kind, icc_profile=stock))))
    assert not np.array_equal(
        plain, np.asarray(open_rgb(encode(NOISE, kind, icc_profile=rgb_profile(WIDE_PRIMARIES, 2.2))))
    )


def test_what_is_passed_over_is_noted() -> None:
    frames = [Image.fromarray(SCENE), Image.new("RGB", (24, 16))]
    cases = {
        "profile_broken": scene_with("PNG", b"no profile" * 30),
        "profile_of_other_colours": scene_with("PNG", grey_profile(1.4)),
        "trailing_bytes": encode(NOISE, "PNG") + b"more",
        "first_frame": encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
    }
    for note, data in cases.items():
        assert open_rgb(data).info == {"notes": (note,)}
    assert open_rgb(encode(NOISE, "PNG")).info == {}


def test_a_damaged_profile_never_costs_the_picture() -> None:
    random = np.random.default_rng(5)
    whole = rgb_profile(SRGB_PRIMARIES[:, [1, 2, 0]], 2.2)
    for _ in range(300):
        profile = bytearray(whole[: random.integers(1, len(whole) + 1)] if random.random() < 0.3 else whole)
        for place in random.integers(len(profile), size=random.integers(1, 8)):
            profile[place] = random.integers(256)
        assert open_rgb(scene_with("PNG", bytes(profile))).size == (24, 16)


def test_a_profile_that_does_not_unpack_is_as_none() -> None:
    data = png(1, 1, 8, 2, b"\0\1\2\3", chunk(b"iCCP", b"a\0\0no zlib"))
    assert open_rgb(data).getpixel((0, 0)) == (1, 2, 3)
