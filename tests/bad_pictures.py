"""Pictures that are none, that are damaged, that lie or explode, and pictures of odd shapes and colours."""

from __future__ import annotations

import base64
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import bombs
from bad_input import BadInput
from picture_files import NOISE, encode, png, tiff
from pixel_truth import TRUTHS, Truth

SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'


def image(name: str, code: str, make: Callable[[], bytes]) -> BadInput:
    return BadInput(name, "image", lambda _: make(), code)


def shown(truth: Truth) -> BadInput:
    """A file in odd colours, and a plain one that shows the same."""
    plain = lambda _: encode(Image.fromarray(truth.expected()), "PNG")  # noqa: E731
    return BadInput(truth.name, "image", lambda _: truth.make(), same_as=plain)


def half(kind: str) -> bytes:
    data = encode(NOISE, kind)
    return data[: len(data) // 2]


def broken_checksum() -> bytes:
    data = bytearray(encode(NOISE, "PNG"))
    data[data.index(b"IDAT") + 40] ^= 0xFF
    return bytes(data)


NOT_AN_IMAGE = [
    image("empty", "E_IMAGE_OPEN", lambda: b""),
    image("one-byte", "E_IMAGE_OPEN", lambda: b"x"),
    image("html", "E_IMAGE_OPEN", lambda: b"<!doctype html><html><body>404</body></html>"),
    image("json", "E_IMAGE_OPEN", lambda: b'{"error": "not found"}'),
    image("random", "E_IMAGE_OPEN", lambda: b"\x01" + np.random.default_rng(3).bytes(4095)),
    image("gzip-of-a-jpeg", "E_IMAGE_OPEN", lambda: gzip.compress(encode(NOISE, "JPEG"), mtime=0)),
    image("base64-text", "E_IMAGE_OPEN", lambda: base64.b64encode(encode(NOISE, "JPEG"))),
]
DAMAGED = [
    image("jpeg-start-only", "E_IMAGE_OPEN", lambda: b"\xff\xd8\xff"),
    image("jpeg-half", "E_IMAGE_TRUNCATED", lambda: half("JPEG")),
    image("jpeg-without-end", "E_IMAGE_TRUNCATED", lambda: encode(NOISE, "JPEG")[:-2]),
    image("png-half", "E_IMAGE_TRUNCATED", lambda: half("PNG")),
    image("png-checksum", "E_IMAGE_", broken_checksum),
    image("webp-half", "E_IMAGE_TRUNCATED", lambda: half("WEBP")),
    image("gif-half", "E_IMAGE_TRUNCATED", lambda: half("GIF")),
    image("bmp-half", "E_IMAGE_TRUNCATED", lambda: half("BMP")),
    image("tiff-half", "E_IMAGE_TRUNCATED", lambda: half("TIFF")),
]
NOT_OFFERED = [
    image("svg", "E_IMAGE_FORMAT", lambda: SVG),
    image("pdf", "E_IMAGE_FORMAT", lambda: b"%PDF-1.7"),
    image("eps", "E_IMAGE_FORMAT", lambda: encode(NOISE, "EPS")),
    image("heic", "E_IMAGE_FORMAT", lambda: b"\0\0\0\x18ftypheic" + bytes(40)),
    image("jpeg-2000", "E_IMAGE_FORMAT", lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40)),
    image("ico", "E_IMAGE_FORMAT", lambda: encode(NOISE, "ICO")),
    image("psd", "E_IMAGE_FORMAT", lambda: b"8BPS\0\1" + bytes(40)),
    image("avif", "E_IMAGE_FORMAT", lambda: b"\0\0\0\x1cftypavif" + bytes(40)),
]
LIARS = [
    image("declared-30000", "E_IMAGE_TOO_LARGE", lambda: png(30000, 30000, 8, 2, b"")),
    image("declared-most", "E_IMAGE_TOO_LARGE", lambda: png(2**31 - 1, 2**31 - 1, 8, 2, b"")),
    image("no-pixels", "E_IMAGE_OPEN", lambda: png(0, 0, 8, 0, b"")),
    image("declared-131-million", "E_IMAGE_TOO_LARGE", lambda: png(11450, 11450, 8, 2, b"")),
    image("webp-declared-16384", "E_IMAGE_TOO_LARGE", lambda: bombs.webp_canvas(16384, 16384)),
    image("tiff-declared-40000", "E_IMAGE_TOO_LARGE", lambda: tiff([], width=40000, height=40000)),
]


BOMBS = [
    image("real-169-million", "E_IMAGE_TOO_LARGE", bombs.real_169_million),
    image("text", "E_IMAGE_TOO_LARGE", bombs.text),
    image("profile", "E_IMAGE_TOO_LARGE", bombs.profile),
    image("gif-10000-frames", "E_IMAGE_TOO_LARGE", lambda: bombs.gif_frames(10_000)),
    image("png-1000-frames", "E_IMAGE_TOO_LARGE", lambda: bombs.png_frames(1_000)),
    image("webp-1000-frames", "E_IMAGE_TOO_LARGE", lambda: bombs.webp_frames(1_000)),
    image("tiff-1000-pages", "E_IMAGE_TOO_LARGE", lambda: tiff([], num_pages=1_000)),
    image("tiff-many-strips", "E_IMAGE_TOO_LARGE", bombs.many_strips),
    image("tiff-huge-tile", "E_IMAGE_TOO_LARGE", bombs.huge_tile),
    image("png-many-chunks", "E_IMAGE_TOO_LARGE", bombs.many_chunks),
    image("jpeg-many-segments", "E_IMAGE_TOO_LARGE", bombs.many_segments),
    image("jpeg-many-scans", "E_IMAGE_TOO_LARGE", bombs.many_scans),
    image("more-than-20-megabytes", "E_IMAGE_TOO_LARGE", lambda: encode(NOISE, "PNG") + bytes(20_000_000)),
]


def folder_of(folder: Path) -> str:
    (folder / "folder.png").mkdir(exist_ok=True)
    return str(folder / "folder.png")


def locked(folder: Path) -> str:
    """A file that may not be read; it is empty too, so that the superuser gets the same error."""
    path = folder / "locked.png"
    path.write_bytes(b"")
    path.chmod(0)
    return str(path)


def pipe(folder: Path) -> str:
    """A pipe that nobody writes to: whoever opens it waits for ever."""
    path = folder / "pipe.png"
    if not path.exists():
        os.mkfifo(path)
    return str(path)


def page_as_jpeg(folder: Path) -> str:
    (folder / "page.jpg").write_bytes(b"<html></html>")
    return str(folder / "page.jpg")


def png_as_jpeg(folder: Path) -> str:
    (folder / "scene.jpg").write_bytes(encode(NOISE, "PNG"))
    return str(folder / "scene.jpg")


def link_out(folder: Path) -> str:
    (folder / "out.png").unlink(missing_ok=True)
    (folder / "out.png").symlink_to("/etc/hostname")
    return "out.png"


def reference(name: str, code: str | None, make: Callable[[Path], Any], **more: Any) -> BadInput:
    return BadInput(name, "reference", make, code, **more)


REFERENCES = [
    reference("missing", "E_IMAGE_MISSING", lambda folder: str(folder / "no-such.png")),
    reference("folder", "E_IMAGE_OPEN", folder_of),
    reference("locked", "E_IMAGE_OPEN", locked),
    reference("pipe", "E_IMAGE_OPEN", pipe),
    reference("device", "E_IMAGE_OPEN", lambda _: "/dev/zero"),
    reference("nul", "E_IMAGE_OPEN", lambda folder: f"{folder}/a\0b.png"),
    reference("html-named-jpg", "E_IMAGE_OPEN", page_as_jpeg),
    reference("number", "E_", lambda _: 7),
    reference("list", "E_", lambda _: [137, 80, 78, 71]),
    reference("png-named-jpg", None, png_as_jpeg, same_as=lambda _: encode(NOISE, "PNG")),
    BadInput("link-out", "row", link_out, "E_DATA_PATH"),
    BadInput("up-and-out", "row", lambda _: "../../etc/hostname", "E_DATA_PATH"),
    BadInput("absolute", "row", lambda _: "/etc/hostname", "E_DATA_PATH"),
]


def shape(name: str, width: int, height: int, code: str | None = None) -> BadInput:
    return BadInput(name, "geometry", lambda _: encode(Image.new("RGB", (width, height), "teal"), "PNG"), code)


GEOMETRY = [
    shape("1x1", 1, 1),
    shape("2x2", 2, 2),
    shape("27x200", 27, 200),
    shape("1x3000", 1, 3000, "E_IMAGE_RATIO"),
    shape("ratio-201", 20, 4020, "E_IMAGE_RATIO"),
    shape("ratio-200", 20, 4000),
    shape("31x639", 31, 639),
]

IMAGES = [*NOT_AN_IMAGE, *DAMAGED, *NOT_OFFERED, *LIARS, *BOMBS, *(shown(truth) for truth in TRUTHS)]
