"""The decoder shows what people see, and says what is wrong."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from cocoa.errors import ImageError
from cocoa.images import ArchivedImage, ImageLimits, ImageSource, image_key, open_rgb, picture_size
from picture_files import NOISE, chunk, encode, png, spoil_member
from profiles import WIDE_PRIMARIES, rgb_profile

SCENE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_picture_that_is_not_loaded_yet_may_be_read_by_several_threads_at_once(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    drawn = np.random.default_rng(1).integers(0, 256, (500, 700, 3), dtype=np.uint8)
    data = encode(Image.fromarray(drawn), kind, exif=exif)
    expected = (shown(data).tobytes(), image_key(Image.open(io.BytesIO(data))), (500, 700))
    for _ in range(3):
        lazy = Image.open(io.BytesIO(data))
        together = threading.Barrier(9)

        def read(number: int, lazy: Image.Image = lazy, together: threading.Barrier = together) -> object:
            together.wait()
            return [lambda: shown(lazy).tobytes(), lambda: image_key(lazy), lambda: picture_size(lazy)][number % 3]()

        with ThreadPoolExecutor(9) as threads:
            assert list(threads.map(read, range(9))) == list(expected) * 3


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "no-pixels-pil": (lambda: Image.new("RGB", (0, 3)), "E_IMAGE_OPEN"),
    "none": (lambda: None, "E_IMAGE_OPEN"),
    "relative": (lambda: "no/such.png", "E_IMAGE_MISSING"),
    "file-as-folder": (lambda: Path(__file__) / "a.png", "E_IMAGE_MISSING"),
    "ratio": (lambda: Image.new("L", (201, 1)), "E_IMAGE_RATIO"),
    "eps-lazy-pil": (lambda: Image.open(io.BytesIO(encode(NOISE, "EPS"))), "E_IMAGE_FORMAT"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_file_of_a_picture_has_its_code_and_place(case: str) -> None:
    make, code = BAD[case]
    source = make()
    with pytest.raises(ImageError) as caught:
        open_rgb(source, where="cats.jsonl:7")  # type: ignore[arg-type]
    assert caught.value.code == code
    assert str(caught.value).startswith("cats.jsonl:7: image ")
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


@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_of_an_archive_is_a_picture_that_does_not_open(tmp_path: Path, packed: int) -> None:
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w", packed) as file:
        for name in ("a.png", "b.png"):
            file.writestr(name, encode(NOISE, "BMP"))
    spoil_member(archive, "a.png")
    with pytest.raises(ImageError, match=r"images.zip!a.png.*E_IMAGE_OPEN"):
        open_rgb(ArchivedImage(archive, "a.png"))
    assert open_rgb(ArchivedImage(archive, "b.png")).size == NOISE.size


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


def test_a_profile_is_part_of_what_a_picture_is() -> None:
    plain, tinted = Image.new("RGB", (2, 2), "teal"), Image.new("RGB", (2, 2), "teal")
    tinted.info["icc_profile"] = rgb_profile(WIDE_PRIMARIES, 2.2)
    assert image_key(plain) != image_key(tinted)
    once = open_rgb(tinted)
    assert once.getpixel((0, 0)) != open_rgb(plain).getpixel((0, 0))
    assert open_rgb(once).getpixel((0, 0)) == once.getpixel((0, 0))


def test_sizes_come_from_headers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        kind: [encode(NOISE.crop((0, 0, 40, 30)), kind), encode(NOISE.crop((0, 0, 40, 30)), kind, exif=exif)]
        for kind in ("PNG", "JPEG", "WEBP")
    }

    def load(self: Image.Image) -> None:
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    for upright, turned in files.values():
        assert (picture_size(upright), picture_size(turned)) == ((40, 30), (30, 40))
    monkeypatch.undo()
    # A note behind the pixels of a PNG turns it too, and is found.
    plain = encode(NOISE.crop((0, 0, 40, 30)), "PNG")
    note = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    late = plain.replace(chunk(b"IEND", b""), note + chunk(b"IEND", b""))
    assert picture_size(late) == open_rgb(late).size == (30, 40)
