"""Odd inputs, each with its code or its right vector; nothing is killed, nothing is told that it should not be."""

from __future__ import annotations

import re
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFile

import bombs
from bad_input import BadInput
from bad_inputs import BAD_INPUTS, of_kind
from cocoa.backbones import Backbone
from cocoa.embedder import Embedder
from cocoa.errors import CocoaError, ImageError
from cocoa.images import ImageLimits, open_rgb
from cocoa.model import EmbeddingModel
from cocoa.sample import Sample
from picture_files import NOISE, encode, tiff

LEAK = re.compile(r"0x[0-9a-f]{6,}|Traceback|site-packages|BytesIO|object at|PIL\.|libtiff|zlib")


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """Pillow warns of damaged notes; that is not what is looked at here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def outcome(call: Callable[[], object]) -> str | None:
    """Returns the code of the error of a call, None without one; any other error is one of the test."""
    try:
        call()
    except CocoaError as error:
        assert not LEAK.search(str(error))
        return error.code
    return None


def test_the_table_is_whole() -> None:
    assert len(BAD_INPUTS) >= 121
    assert len({str(case) for case in BAD_INPUTS}) == len(BAD_INPUTS)


@pytest.mark.parametrize("case", of_kind("image", "reference", "geometry"), ids=str)
def test_a_picture_has_its_code_or_its_pixels(case: BadInput, tmp_path: Path) -> None:
    source = case.make(tmp_path)
    start = time.process_time()
    code = outcome(lambda: open_rgb(source, where="cats.jsonl:7"))
    assert time.process_time() - start < 10.0
    assert case.is_right(code), code
    if code is None and case.same_as is not None:
        same = np.asarray(open_rgb(case.same_as(tmp_path))).astype(int)
        assert np.abs(np.asarray(open_rgb(source)) - same).max() <= 2


# A text of megabytes takes the tokenizer seconds, and is nothing special to it.
@pytest.mark.parametrize("case", [case for case in of_kind("text") if case.name != "10-megabytes"], ids=str)
def test_a_text_has_its_code_or_its_tokens(case: BadInput, tiny: Callable[..., Backbone], tmp_path: Path) -> None:
    item = case.make(tmp_path)
    sample = Sample(item["text"], tuple(item.get("images", ())), "cats.jsonl:7")
    backbone = tiny()
    assert case.is_right(outcome(lambda: backbone.encode(sample)))


@pytest.fixture(scope="module")
def embedder(tiny: Callable[..., Backbone], tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    folder = tmp_path_factory.mktemp("model")
    EmbeddingModel(tiny(), max_tokens=64).save(folder)
    return Embedder.load(folder)


def test_the_embedder_says_which_item_is_wrong_or_gives_its_right_vector(embedder: Embedder, tmp_path: Path) -> None:
    (cat,) = embedder.encode(["a cat"])
    for case in of_kind("image", "reference", "geometry"):
        item = {"image": case.make(tmp_path)}
        try:
            first, vector = embedder.encode(["a cat", item])
        except CocoaError as error:
            assert case.is_right(error.code), case
            assert error.where == "item 1"
            assert not LEAK.search(str(error))
            continue
        assert case.is_right(None), case
        np.testing.assert_allclose(first, cat, atol=1e-5)
        assert abs(np.linalg.norm(vector) - 1) < 1e-3
        if case.same_as is not None:
            plain = case.same_as(tmp_path)
            # A random model tells pictures apart that differ by one of 255; where losses are none, vectors are one.
            if np.array_equal(open_rgb(item["image"]), open_rgb(plain)):
                np.testing.assert_allclose(vector, embedder.encode([{"image": plain}])[0], atol=1e-5)


def test_the_bomb_is_refused_before_it_costs_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = bombs.real_169_million()
    assert len(bomb) < 25_000
    outcome(lambda: open_rgb(bomb))
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    tracemalloc.start()
    assert outcome(lambda: open_rgb(bomb)) == "E_IMAGE_TOO_LARGE"
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


FRAMES = {
    "gif": bombs.gif_frames,
    "png": bombs.png_frames,
    "webp": bombs.webp_frames,
    "tiff": lambda number: tiff([], num_pages=number),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_the_limit_of_frames_holds_at_the_edge(kind: str) -> None:
    limits = ImageLimits(max_frames=7)
    codes = [outcome(partial(open_rgb, FRAMES[kind](number), limits)) for number in (6, 7, 8)]
    assert codes == [None, None, "E_IMAGE_TOO_LARGE"]


PARTS: dict[str, tuple[Callable[[int], bytes], int]] = {
    "png-chunks": (bombs.many_chunks, 20_000 - 3),  # IHDR, IDAT and IEND are chunks too.
    "png-text": (bombs.text, 1_048_576),
    "png-profile": (bombs.profile, 1_048_576),
    "jpeg-scans": (bombs.many_scans, 100 - 9),  # Pillow writes 10 scans; the last is said again.
    "tiff-strips": (bombs.many_strips, 20_000),
}


@pytest.mark.parametrize("kind", PARTS)
def test_limits_of_parts_hold_at_the_edge(kind: str) -> None:
    make, most = PARTS[kind]
    codes = [outcome(partial(open_rgb, make(number))) for number in (most - 1, most, most + 1)]
    assert codes == [None, None, "E_IMAGE_TOO_LARGE"]


def mutated(random: np.random.Generator, whole: bytes) -> bytes:
    """A file with some bytes changed, a piece cut out, doubled or swapped, or its end missing."""
    data = bytearray(whole)
    for _ in range(random.integers(1, 6)):
        # Headers are where decoders decide what to do, so most changes go there.
        place = int(random.integers(min(len(data), 200) if random.random() < 0.7 else len(data)))
        length = int(random.integers(1, 40))
        match random.integers(5):
            case 0 | 1:
                data[place] = random.integers(256)
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = data[place : place + length]
            case 4:
                data[place : place + length] = random.bytes(length)
        if len(data) < 2:
            break
    return bytes(data[: random.integers(1, len(data) + 1)] if random.random() < 0.2 else data)


def fuzz(num_files: int) -> dict[str | None, int]:
    """Opens mutated files; returns how many there were of each code."""
    random = np.random.default_rng(11)
    small = NOISE.resize((24, 16))
    seeds = [encode(small, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]
    seeds += [case.make(Path()) for case in of_kind("image") if case.code is None and "trailing" not in case.name]
    seeds += [encode(small, "JPEG", progressive=True), encode(small, "TIFF", compression="tiff_lzw")]
    seeds += [encode(small, "TIFF", compression="jpeg"), bombs.gif_frames(5), bombs.png_frames(5), bombs.webp_frames(5)]
    limits = ImageLimits(max_pixels=1_000_000)
    codes: dict[str | None, int] = {}
    for number in range(num_files):
        data = mutated(random, seeds[number % len(seeds)])
        start = time.process_time()
        try:
            open_rgb(data, limits)
            code = None
        except ImageError as error:
            assert not LEAK.search(str(error))
            code = error.code
        assert time.process_time() - start < 10.0, data
        codes[code] = codes.get(code, 0) + 1
    return codes


def test_mutated_pictures_give_only_typed_errors() -> None:
    codes = fuzz(2_000)
    # Enough of them get past the header, and enough do not.
    assert codes[None] > 200
    assert {"E_IMAGE_OPEN", "E_IMAGE_TRUNCATED", "E_IMAGE_TOO_LARGE"} <= set(codes)


@pytest.mark.slow
def test_many_mutated_pictures_give_only_typed_errors() -> None:
    assert sum(fuzz(20_000).values()) == 20_000
