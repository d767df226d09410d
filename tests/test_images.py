"""The decoder shows what people see, and says what is wrong."""

from __future__ import annotations

import io
import os
import struct
import threading
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from cocoa.errors import ImageError
from cocoa.images import ArchivedImage, ImageLimits, ImageSource, image_key, open_rgb

SCENE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG file, byte by byte, so that its header can lie."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def shown(source: ImageSource) -> np.ndarray:
    image = open_rgb(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def palette_with_clear_index() -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((1, 0), 1)
    return encode(image, "PNG", transparency=0)


def palette_with_alpha() -> Image.Image:
    image = Image.new("PA", (2, 1))
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putdata([(1, 0), (1, 255)])
    return image


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


def deep(mode: str, values: list[float], dtype: str) -> bytes:
    image = Image.fromarray(np.array([values], dtype))
    assert image.mode == mode
    return encode(image, "TIFF")


WHITE, BLACK = (255, 255, 255), (0, 0, 0)
KEY_16 = struct.pack(">HHH", 0x1234, 0x5678, 0x9ABC)
PIXELS: dict[str, tuple[Callable[[], ImageSource], list[tuple[int, int, int]]]] = {
    "alpha-0-hides-its-colour": (lambda: encode(Image.new("RGBA", (1, 1), (9, 9, 9, 0)), "PNG"), [WHITE]),
    "alpha-half-over-white": (lambda: encode(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), "PNG"), [(127, 127, 127)]),
    "webp-alpha": (lambda: encode(Image.new("RGBA", (1, 1), (0, 0, 0, 0)), "WEBP", lossless=True), [WHITE]),
    "premultiplied": (lambda: Image.new("RGBA", (1, 1), (200, 0, 0, 0)).convert("RGBa"), [WHITE]),
    "la": (lambda: encode(Image.new("LA", (1, 1), (50, 0)), "PNG"), [WHITE]),
    "la-solid": (lambda: encode(Image.new("LA", (1, 1), (50, 255)), "PNG"), [(50, 50, 50)]),
    "la-premultiplied": (lambda: Image.new("La", (1, 1), (0, 0)), [WHITE]),
    "pa": (palette_with_alpha, [WHITE, (10, 20, 30)]),
    "p-trns": (palette_with_clear_index, [WHITE, (10, 20, 30)]),
    "rgb-trns": (lambda: png(2, 1, 8, 2, bytes(range(7)), chunk(b"tRNS", b"\0\1\0\2\0\3")), [WHITE, (4, 5, 6)]),
    "rgb16-trns": (lambda: png(1, 1, 16, 2, b"\0" + KEY_16, chunk(b"tRNS", KEY_16)), [WHITE]),
    "l-trns": (lambda: png(2, 1, 8, 0, bytes([0, 7, 8]), chunk(b"tRNS", b"\0\7")), [WHITE, (8, 8, 8)]),
    "grey16": (lambda: png(3, 1, 16, 0, b"\0" + struct.pack(">HHH", 0, 32896, 65535)), [BLACK, (128,) * 3, WHITE]),
    "grey16-trns": (lambda: png(1, 1, 16, 0, b"\0\x12\x34", chunk(b"tRNS", b"\x12\x34")), [WHITE]),
    "grey16-dark-stays-dark": (lambda: deep("I;16", [0, 257], "uint16"), [BLACK, (1, 1, 1)]),
    "rgb16": (lambda: png(1, 1, 16, 2, b"\0" + struct.pack(">HHH", 0, 32896, 65535)), [(0, 128, 255)]),
    "float-unit": (lambda: deep("F", [0.0, 0.5, 1.0], "float32"), [BLACK, (128,) * 3, WHITE]),
    "float-bytes": (lambda: deep("F", [0.0, 100.0, 255.0], "float32"), [BLACK, (100,) * 3, WHITE]),
    "float-any": (lambda: deep("F", [-10.0, 0.0, 10.0], "float32"), [BLACK, (128,) * 3, WHITE]),
    "float-nan": (lambda: deep("F", [float("nan"), 1.0, float("inf")], "float32"), [BLACK, WHITE, WHITE]),
    "int-bytes": (lambda: deep("I", [0, 100, 255], "int32"), [BLACK, (100,) * 3, WHITE]),
    "int-16": (lambda: deep("I", [0, 32896, 65535], "int32"), [BLACK, (128,) * 3, WHITE]),
    "int-any": (lambda: deep("I", [-(2**30), 0, 2**30], "int32"), [BLACK, (128,) * 3, WHITE]),
    "one-bit": (lambda: png(2, 1, 1, 0, b"\0\x40"), [BLACK, WHITE]),
    "cmyk": (lambda: encode(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF"), [(255, 0, 0)]),
    "png-named-nothing": (lambda: encode(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG") + b"junk" * 999, [(1, 2, 3)]),
}  # fmt: skip


@pytest.mark.parametrize("case", PIXELS)
def test_pixels_are_what_a_viewer_shows(case: str) -> None:
    make, expected = PIXELS[case]
    assert np.abs(shown(make())[0].astype(int) - np.array(expected)).max() <= 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(kind: str) -> None:
    red = shown(animation(kind))[0, 0].astype(int)
    assert np.abs(red - (255, 0, 0)).max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(SCENE), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert np.array_equal(shown(data), upright)
    assert upright.shape[:2] == ((12, 20) if orientation < 5 else (20, 12))
    if kind != "JPEG":
        turned = {1: SCENE, 3: SCENE[::-1, ::-1], 6: np.rot90(SCENE, -1), 8: np.rot90(SCENE)}
        assert np.array_equal(upright, turned.get(orientation, upright))
    # By PIL picture, and again from its own result, nothing turns twice.
    lazy = Image.open(io.BytesIO(data))
    assert np.array_equal(shown(lazy), upright)
    assert np.array_equal(shown(open_rgb(lazy)), upright)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"x"])
def test_garbage_exif_does_not_cost_the_picture(exif: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert shown(encode(Image.fromarray(SCENE), "JPEG", exif=exif)).shape == (12, 20, 3)


def test_a_source_is_not_changed() -> None:
    image = Image.new("RGB", (2, 2), "red")
    open_rgb(image).putpixel((0, 0), (0, 0, 0))
    assert image.getpixel((0, 0)) == (255, 0, 0)


NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def half(kind: str) -> bytes:
    data = encode(NOISE, kind)
    return data[: len(data) // 2]


BIG_ZIP = zlib.compress(bytes(40_000_000))
BAD: dict[str, tuple[Callable[[], object], str]] = {
    "empty": (lambda: b"", "E_IMAGE_OPEN"),
    "one-byte": (lambda: b"x", "E_IMAGE_OPEN"),
    "html": (lambda: b"<!doctype html><html><body>404</body></html>", "E_IMAGE_OPEN"),
    "json": (lambda: b'{"error": "not found"}', "E_IMAGE_OPEN"),
    "jpeg-start-only": (lambda: b"\xff\xd8\xff", "E_IMAGE_OPEN"),
    "no-pixels": (lambda: png(0, 0, 8, 0, b""), "E_IMAGE_OPEN"),
    "no-pixels-pil": (lambda: Image.new("RGB", (0, 3)), "E_IMAGE_OPEN"),
    "none": (lambda: None, "E_IMAGE_OPEN"),
    "list": (lambda: [1, 2], "E_IMAGE_OPEN"),
    "nul-in-path": (lambda: "a\0b.png", "E_IMAGE_OPEN"),
    "device": (lambda: "/dev/zero", "E_IMAGE_OPEN"),
    "text-bomb": (lambda: png(1, 1, 8, 0, b"\0\0", chunk(b"zTXt", b"a\0\0" + BIG_ZIP)), "E_IMAGE_OPEN"),
    "missing": (lambda: "no/such.png", "E_IMAGE_MISSING"),
    "file-as-folder": (lambda: Path(__file__) / "a.png", "E_IMAGE_MISSING"),
    "jpeg-half": (lambda: half("JPEG"), "E_IMAGE_TRUNCATED"),
    "jpeg-without-end": (lambda: encode(NOISE, "JPEG")[:-2], "E_IMAGE_TRUNCATED"),
    "png-half": (lambda: half("PNG"), "E_IMAGE_TRUNCATED"),
    "webp-half": (lambda: half("WEBP"), "E_IMAGE_TRUNCATED"),
    "gif-half": (lambda: half("GIF"), "E_IMAGE_TRUNCATED"),
    "bmp-half": (lambda: half("BMP"), "E_IMAGE_TRUNCATED"),
    "tiff-half": (lambda: half("TIFF"), "E_IMAGE_TRUNCATED"),
    "declared-30000": (lambda: png(30000, 30000, 8, 2, b""), "E_IMAGE_TOO_LARGE"),
    "declared-8000": (lambda: png(8000, 8000, 8, 2, b""), "E_IMAGE_TOO_LARGE"),
    "declared-most": (lambda: png(2**31 - 1, 2**31 - 1, 8, 2, b""), "E_IMAGE_TOO_LARGE"),
    "real-bomb": (lambda: png(13000, 13000, 1, 0, bytes(13000 * 1626)), "E_IMAGE_TOO_LARGE"),
    "ratio": (lambda: Image.new("L", (201, 1)), "E_IMAGE_RATIO"),
    "ratio-high": (lambda: png(20, 4020, 8, 0, bytes(21 * 4020)), "E_IMAGE_RATIO"),
    "svg": (lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "E_IMAGE_FORMAT"),
    "pdf": (lambda: b"%PDF-1.7", "E_IMAGE_FORMAT"),
    "eps": (lambda: encode(NOISE, "EPS"), "E_IMAGE_FORMAT"),
    "eps-lazy-pil": (lambda: Image.open(io.BytesIO(encode(NOISE, "EPS"))), "E_IMAGE_FORMAT"),
    "ico": (lambda: encode(NOISE, "ICO"), "E_IMAGE_FORMAT"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_picture_has_its_code_and_place_at_once(case: str) -> None:
    make, code = BAD[case]
    source = make()
    start = time.perf_counter()
    with pytest.raises(ImageError) as caught:
        open_rgb(source, where="cats.jsonl:7")  # type: ignore[arg-type]
    assert time.perf_counter() - start < 1.0
    assert caught.value.code == code
    assert str(caught.value).startswith("cats.jsonl:7: image ")
    for leak in ("0x", "BytesIO", "Traceback", "site-packages"):
        assert leak not in caught.value.message
    if isinstance(source, str | Path):
        assert repr(str(source)) in caught.value.message


def test_a_bomb_is_an_error_even_where_pillow_only_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ImageError, match="E_IMAGE_TOO_LARGE"):
            open_rgb(png(10000, 10000, 1, 0, b""))


def test_limits_hold_at_the_edge(tmp_path: Path) -> None:
    data = encode(Image.new("RGB", (20, 10)), "PNG")
    file = tmp_path / "a.png"
    file.write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", data)
    exact = ImageLimits(max_bytes=len(data), max_pixels=200, max_ratio=2, formats=("PNG",))
    for source in (data, file, str(file), ArchivedImage(tmp_path / "a.zip", "a.png")):
        assert open_rgb(source, exact).size == (20, 10)
        for limits, code in (
            (ImageLimits(max_bytes=len(data) - 1), "E_IMAGE_TOO_LARGE"),
            (ImageLimits(max_pixels=199), "E_IMAGE_TOO_LARGE"),
            (ImageLimits(max_ratio=1.99), "E_IMAGE_RATIO"),
            (ImageLimits(formats=("JPEG", "WEBP")), "E_IMAGE_FORMAT"),
        ):
            with pytest.raises(ImageError) as caught:
                open_rgb(source, limits)
            assert caught.value.code == code


def test_folder_and_pipe_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path, tmp_path / "pipe.png"):
        with pytest.raises(ImageError, match="E_IMAGE_OPEN"):
            open_rgb(path)


def test_archive_members(tmp_path: Path) -> None:
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(20):
            file.writestr(f"{number}.png", encode(Image.new("RGB", (8, 8), (number, 0, 0)), "PNG"))
    seen: list[bool] = []

    def read(number: int) -> None:
        source = ArchivedImage(archive, f"{number}.png")
        seen.extend(open_rgb(source).getpixel((0, 0)) == (number, 0, 0) for _ in range(20))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 160
    assert all(seen)
    with pytest.raises(ImageError, match=r"images.zip!no.png.*E_IMAGE_MISSING"):
        open_rgb(ArchivedImage(archive, "no.png"))
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("0.png", encode(Image.new("RGB", (9, 9)), "PNG"))
    assert open_rgb(ArchivedImage(archive, "0.png")).size == (9, 9)
    archive.write_bytes(b"no zip")
    with pytest.raises(ImageError, match="E_IMAGE_OPEN"):
        open_rgb(ArchivedImage(archive, "0.png"))
    archive.unlink()
    with pytest.raises(ImageError, match="E_IMAGE_MISSING"):
        open_rgb(ArchivedImage(archive, "0.png"))


def test_key_is_equal_for_equal_content_only(tmp_path: Path) -> None:
    red, other = Image.new("P", (2, 2)), Image.new("P", (2, 2))
    red.putpalette([255, 0, 0])
    other.putpalette([0, 255, 0])
    sources: list[ImageSource] = [
        b"a", b"b", "a.png", "b.png", ArchivedImage(Path("a.zip"), "a.png"), red, other,
        Image.new("L", (2, 3)), Image.new("L", (3, 2)), Image.new("1", (2, 3)),
    ]  # fmt: skip
    assert len({image_key(source) for source in sources}) == len(sources)
    assert image_key("x/a.png") == image_key(Path("x/a.png"))
    assert image_key(red) == image_key(red.copy())
    assert image_key("\udcff.png").encode()


def test_damaged_bytes_give_only_typed_errors() -> None:
    random = np.random.default_rng(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
            whole = encode(NOISE, kind)
            for _ in range(150):
                data = bytearray(whole)
                for _ in range(3):
                    data[random.integers(min(len(data), 300))] = random.integers(256)
                try:
                    open_rgb(bytes(data[: random.integers(1, len(data) + 1)]))
                except ImageError:
                    continue
