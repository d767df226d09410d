"""Bytes, path, archive member or PIL picture to RGB: the one decoder, with limits and typed errors.

Colours are what a viewer shows on white paper, but for embedded colour profiles, which are not applied.
"""

from __future__ import annotations

import hashlib
import io
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from cocoa.archives import open_archive
from cocoa.errors import ImageError


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """One picture inside a zip archive; the archive is read in place, never extracted."""

    archive: Path
    member: str

    def __str__(self) -> str:
        return f"{self.archive}!{self.member}"


ImageSource = str | Path | bytes | Image.Image | ArchivedImage
"""Where a picture comes from: a path, the bytes of a file, a PIL picture or a member of a zip archive."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What a picture may cost; each limit is checked before any pixel is decoded.

    `max_ratio` is the long side over the short side. `formats` are Pillow's names.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    max_ratio: float = 200.0
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


DEFAULT_LIMITS = ImageLimits()

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WEBP"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphe", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "EPS"),
    (0, b"8BPS", "PSD"),
    (0, b"\0\0\1\0", "ICO"),
)

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def image_key(source: ImageSource) -> str:
    """Returns a stable identity of a source: its place for a reference, a digest of its content otherwise."""
    if isinstance(source, bytes):
        return "bytes:" + hashlib.sha256(source).hexdigest()
    if isinstance(source, Image.Image):
        digest = hashlib.sha256(f"{source.mode} {source.size} ".encode())
        digest.update(source.tobytes())
        # Equal indices under another palette, key colour or orientation are another picture.
        palette = source.getpalette("RGBA") if source.mode in ("P", "PA") else None
        digest.update(repr((palette, source.info.get("transparency"), _orientation(source))).encode())
        return "pixels:" + digest.hexdigest()
    place = f"zip:{source}" if isinstance(source, ArchivedImage) else f"file:{Path(source)}"
    return place.encode("utf-8", "backslashreplace").decode()


def open_rgb(source: ImageSource, limits: ImageLimits = DEFAULT_LIMITS, where: str = "") -> Image.Image:
    """Returns the picture in mode RGB as a viewer shows it: upright, over white, first frame, 8 bits.

    Args:
        source: the picture.
        limits: what it may cost; checked on the header, before decoding.
        where: the file and row that mention the picture, for the error.

    Raises:
        ImageError: with a code `E_IMAGE_*` and a message that names the picture.
    """
    name = _name(source)

    def fail(code: str, what: str) -> ImageError:
        return ImageError(code, f"image {name} {what}", where=where)

    if isinstance(source, Image.Image):
        image = source
        kind = "JPEG" if image.format == "MPO" else image.format
        if kind is not None and kind not in limits.formats:
            raise fail("E_IMAGE_FORMAT", f"is {kind}; convert it to one of {', '.join(limits.formats)}")
    else:
        image = _open(_read(source, limits, fail), limits, fail)
    _check_size(image.size, limits, fail)
    try:
        # TIFF is turned upright by Pillow itself here, so the orientation is read after this line, not before.
        image.load()
    except MemoryError as error:
        raise fail("E_IMAGE_TOO_LARGE", "does not fit in memory") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged data.
        raise fail("E_IMAGE_TRUNCATED", "is cut short or damaged; get the file again") from error
    turn = _TURNS.get(_orientation(image))
    try:
        rgb = _to_rgb(image)
    except (ValueError, OSError) as error:
        raise fail("E_IMAGE_FORMAT", f"has {image.mode} colours, which are not read; save it as RGB") from error
    # What is upright already must not carry a note that would turn it again.
    rgb.info.clear()
    return rgb if turn is None else rgb.transpose(turn)


def picture_size(source: ImageSource, limits: ImageLimits = DEFAULT_LIMITS) -> tuple[int, int]:
    """Returns (width, height) of a picture as `open_rgb` would give it, from its header; raises as `open_rgb` does."""

    def fail(code: str, what: str) -> ImageError:
        return ImageError(code, f"image {_name(source)} {what}")

    image = source if isinstance(source, Image.Image) else _open(_read(source, limits, fail), limits, fail)
    _check_size(image.size, limits, fail)
    width, height = image.size
    # Pillow gives the size of a TIFF as it will be when upright, that of all others as stored.
    turned = _orientation(image) in (5, 6, 7, 8) and image.format != "TIFF"
    return (height, width) if turned else (width, height)


_Fail = Callable[[str, str], ImageError]


def _name(source: object) -> str:
    if isinstance(source, Image.Image):
        return "(PIL picture)"
    if isinstance(source, bytes):
        return f"({len(source)} bytes)"
    if isinstance(source, str | Path | ArchivedImage):
        text = str(source)
        return repr(text if len(text) <= 300 else f"...{text[-300:]}")
    return f"({type(source).__name__})"


def _read(source: str | Path | bytes | ArchivedImage, limits: ImageLimits, fail: _Fail) -> bytes:
    """The bytes of a file, never more than the limit."""
    too_large = f"is larger than {limits.max_bytes} bytes; make it smaller"
    try:
        if isinstance(source, bytes):
            data = source
        elif isinstance(source, ArchivedImage):
            archive = open_archive(source.archive)
            info = archive.getinfo(source.member)
            # The declared size is a hard bound: zipfile never yields more than it.
            if info.file_size > limits.max_bytes:
                raise fail("E_IMAGE_TOO_LARGE", too_large)
            data = archive.read(info)
        elif isinstance(source, str | Path):
            # A pipe or a device could block for ever, so nothing but a plain file is opened.
            if not stat.S_ISREG(Path(source).stat().st_mode):
                raise fail("E_IMAGE_OPEN", "is not a file")
            with Path(source).open("rb") as file:
                data = file.read(limits.max_bytes + 1)
        else:
            raise fail("E_IMAGE_OPEN", "is not a path, bytes, an archive member or a PIL picture")
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError, KeyError) as error:
        raise fail("E_IMAGE_MISSING", "does not exist") from error
    except (OSError, ValueError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile) as error:
        raise fail("E_IMAGE_OPEN", "cannot be read from disk") from error
    if len(data) > limits.max_bytes:
        raise fail("E_IMAGE_TOO_LARGE", too_large)
    return data


def _open(data: bytes, limits: ImageLimits, fail: _Fail) -> Image.Image:
    """The picture with its header read and no pixel decoded."""
    offered = ", ".join(limits.formats)
    if not data:
        raise fail("E_IMAGE_OPEN", "is empty")
    kind = next((name for start, magic, name in _SIGNATURES if data.startswith(magic, start)), None)
    if kind is None and b"<svg" in data[:1024]:
        kind = "SVG"
    if kind is not None and kind not in limits.formats:
        raise fail("E_IMAGE_FORMAT", f"is {kind}; convert it to one of {offered}")
    if kind == "WEBP" and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise fail("E_IMAGE_TRUNCATED", "is cut short; get the file again")
    try:
        return Image.open(io.BytesIO(data), formats=limits.formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise fail("E_IMAGE_TOO_LARGE", f"has more than {limits.max_pixels} pixels; make it smaller") from error
    except UnidentifiedImageError as error:
        what = f"has a damaged {kind} header" if kind else f"is not a picture in one of {offered}"
        raise fail("E_IMAGE_OPEN", what) from error
    except Exception as error:  # Pillow's parsers raise nearly anything on damaged data.
        raise fail("E_IMAGE_OPEN", "has a damaged header") from error


def _check_size(size: tuple[int, int], limits: ImageLimits, fail: _Fail) -> None:
    width, height = size
    if min(size) < 1:
        raise fail("E_IMAGE_OPEN", "has no pixels")
    if width * height > limits.max_pixels:
        raise fail("E_IMAGE_TOO_LARGE", f"is {width} x {height}, more than {limits.max_pixels} pixels; make it smaller")
    if max(size) > limits.max_ratio * min(size):
        raise fail("E_IMAGE_RATIO", f"is {width} x {height}, longer than {limits.max_ratio:g} to 1; crop it")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 if there is none or it cannot be read: a broken note must not cost the picture."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow's EXIF parser raises nearly anything on garbage.
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """The same pixels in RGB, alpha composited over white, deep pixels scaled (Pillow would clip or drop them)."""
    if image.mode.startswith("I") or image.mode == "F":
        return _to_8_bits(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        # A 16-bit PNG keeps its key colour in 16 bits while Pillow reads its pixels in 8.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    straight = image.convert("LA") if image.mode == "La" else image
    rgba = straight.convert("RGBA")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _to_8_bits(image: Image.Image) -> Image.Image:
    """A grey picture of 8 bits: 16-bit pixels from 0..65535, others from the tightest of 0..1 (F only), 0..255,
    0..65535 or their own range that holds them."""
    pixels = np.asarray(image)
    finite = pixels[np.isfinite(pixels)] if image.mode == "F" else pixels
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    scales = {"F": (1.0, 255.0, 65535.0), "I": (255.0, 65535.0)}.get(image.mode, (65535.0,))
    top = next((scale for scale in scales if low >= 0 and high <= scale), None)
    low, span = (0.0, top) if top is not None else (low, high - low or 1.0)
    grey = np.empty(pixels.shape, np.uint8)
    for start in range(0, len(pixels), 256):  # In bands, so that a large picture needs little memory.
        band = np.nan_to_num(pixels[start : start + 256].astype(np.float64), nan=low, posinf=low + span, neginf=low)
        grey[start : start + 256] = np.rint((band - low) * (255.0 / span)).clip(0, 255).astype(np.uint8)
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey[pixels == key] = 255
    return Image.fromarray(grey)
