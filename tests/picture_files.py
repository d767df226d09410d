"""Files of pictures made byte by byte, so that their headers can lie, and archives of them that are damaged."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """Returns the file that Pillow writes of a picture."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """Returns a PNG file of raw `rows` (each with its filter byte); `extra` are chunks in front of the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    """Returns a PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(
    entries: list[tuple[int, int, int, int]], *, num_pages: int = 1, tail: bytes = b"", width: int = 1, height: int = 1
) -> bytes:
    """Returns a little-endian TIFF of grey pages that share one pixel, with more `(tag, type, count, value)` entries.

    `tail` stands at the end of the file; a value that is to point to it is the file's length without it.
    """
    base = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    strips = [(273, 4, 1, 8), (278, 4, 1, 1), (279, 4, 1, 1)]
    given = {entry[0] for entry in entries}
    fields = sorted([entry for entry in base + strips if entry[0] not in given] + entries)
    size = 2 + 12 * len(fields) + 4
    pages = b""
    for number in range(num_pages):
        following = 0 if number == num_pages - 1 else 12 + size * (number + 1)
        pages += struct.pack("<H", len(fields)) + b"".join(struct.pack("<HHII", *field) for field in fields)
        pages += struct.pack("<I", following)
    return b"II*\0" + struct.pack("<I", 12) + b"\x80\0\0\0" + pages + tail


def spoil_member(archive: Path, member: str) -> None:
    """Writes nonsense over the packed bytes of one member of a zip archive; its lists stay as they are."""
    with zipfile.ZipFile(archive) as file:
        start = file.getinfo(member).header_offset
    content = bytearray(archive.read_bytes())
    name_size, extra_size = struct.unpack_from("<HH", content, start + 26)
    start += 30 + name_size + extra_size
    content[start : start + 24] = b"\xff" * 24
    archive.write_bytes(content)
