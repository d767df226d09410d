"""What a file of a picture says of itself, read without a decoder, so that nothing that it says can cost much.

Pillow walks over the parts of a file one by one and makes an object of each note, strip and tile on the way: a file of
a few megabytes can keep it for many seconds and fill the memory before it knows the size. Files that no camera and no
program writes are told apart here first. Damage is not looked for: reading stops at it, and Pillow says what it is.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from cocoa.images.limits import Fail, ImageLimits, check_size

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WEBP"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "BigTIFF"),
    (0, b"MM\0+", "BigTIFF"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphe", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "EPS"),
    (0, b"8BPS", "PSD"),
    (0, b"\0\0\1\0", "ICO"),
)

_MOST_PARTS = 20_000
"""Chunks, segments, blocks, strips or tiles; a PNG of 20 MB in the usual chunks of 8 KB has 2,500."""
_MOST_SCANS = 100
"""Passes over all pixels of a progressive JPEG; usual are 10."""
_MOST_NOTE_BYTES = 1_048_576
"""What the packed notes and the profile of a PNG may unpack to, together; Pillow's own limit for each."""
_MOST_FIELDS = 1_000
"""Entries of a TIFF page; usual are 20."""
_MOST_TILE_PIXELS = 4096 * 4096
"""A TIFF of one pixel may say that it lies in a tile of any size, which memory is taken for; usual are 256 x 256."""


@dataclass(slots=True)
class Header:
    """What a file says of itself: `size` is (width, height) as stored, None where it was not found.

    `num_frames` counts up to the first that is too many. `end` is where the picture ends, where that is known.
    `late_notes`: a PNG keeps notes behind its pixels, which may turn it.
    """

    size: tuple[int, int] | None = None
    num_frames: int = 1
    end: int | None = None
    late_notes: bool = False


class _TooMuchError(Exception):
    """The file has more of something than any picture needs."""


def kind_of(data: bytes) -> str | None:
    """Returns the format by its first bytes, in Pillow's names where Pillow reads it; None for an unknown one."""
    kind = next((name for start, magic, name in _SIGNATURES if data.startswith(magic, start)), None)
    return "SVG" if kind is None and b"<svg" in data[:1024] else kind


def read_header(data: bytes, kind: str, limits: ImageLimits, fail: Fail) -> Header:
    """Returns what a file says of itself, held against the limits.

    Raises the errors of `check_size`, and E_IMAGE_TOO_LARGE for more frames or parts than are taken.
    """
    header = Header()
    reader = _READERS.get(kind)
    if reader is None:  # A format that only somebody's own limits offer.
        return header
    try:
        for _ in reader(data, header):
            if header.size is not None:
                check_size(header.size, limits, fail)
            if header.num_frames > limits.max_frames:
                raise _TooMuchError(f"frames or pages than {limits.max_frames}; save the first alone")
    except _TooMuchError as error:
        raise fail("E_IMAGE_TOO_LARGE", f"has more {error}") from None
    except (struct.error, IndexError):
        pass  # The file ends inside its header; Pillow's decoder says where, and it has little left to read.
    return header


# Each reader fills the header step by step, and yields where there is something to hold against the limits.


def _read_png(data: bytes, header: Header) -> Iterator[None]:
    place, num_chunks, note_bytes, in_pixels = 8, 0, 0, False
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        body = place + 8
        num_chunks += 1
        _check_parts(num_chunks)
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", data, body)
            header.size = (width, height)
            yield
        elif kind == b"acTL":
            header.num_frames = max(1, struct.unpack_from(">I", data, body)[0])
            yield
        elif kind == b"IDAT":
            in_pixels = True
        elif kind in (b"zTXt", b"iCCP", b"iTXt", b"tEXt", b"eXIf"):
            header.late_notes |= in_pixels
            note_bytes += _unpacked_size(kind, data[body : body + length], _MOST_NOTE_BYTES - note_bytes)
        place = body + length + 4
        if kind == b"IEND":
            header.end = place
            return


def _unpacked_size(kind: bytes, note: bytes, most: int) -> int:
    """The size of what a packed note or profile unpacks to; 0 for one that is not packed, or not rightly."""
    _, _, rest = note.partition(b"\0")
    if kind == b"iTXt":
        if not rest.startswith(b"\1\0"):
            return 0
        packed = rest[2:].split(b"\0", 2)[-1]
    elif kind in (b"zTXt", b"iCCP"):
        packed = rest[1:]
    else:
        return 0
    unpacker = zlib.decompressobj()
    try:
        size = len(unpacker.decompress(packed, max(1, most)))
    except zlib.error:
        return 0
    if unpacker.unconsumed_tail or size > most:
        raise _TooMuchError(f"than {_MOST_NOTE_BYTES} bytes of packed notes; take them out")
    return size


def _read_jpeg(data: bytes, header: Header) -> Iterator[None]:
    place, num_parts, is_progressive = 2, 0, False
    while (start := data.find(b"\xff", place)) >= 0:
        # Bytes between segments are read one by one, so each is a part.
        num_parts += 1 + start - place
        _check_parts(num_parts)
        marker = data[start + 1]
        if marker == 0xDA:
            # In packed pixels no other byte than 0 or a restart mark follows 255.
            if is_progressive and data.count(b"\xff\xda", start) > _MOST_SCANS:
                raise _TooMuchError(f"passes than {_MOST_SCANS}; save it as a plain JPEG")
            return
        if marker == 0xFF:
            place = start + 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:
            place = start + 2
        else:
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                height, width = struct.unpack_from(">HH", data, start + 5)
                header.size = (width, height)
                is_progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
                yield
            place = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")


def _read_gif(data: bytes, header: Header) -> Iterator[None]:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    header.size = (width, height)
    yield
    place, num_parts, header.num_frames = 13 + _table_size(flags), 0, 0
    while (mark := data[place]) in (0x21, 0x2C):
        if mark == 0x2C:
            header.num_frames += 1
            yield
            place += 11 + _table_size(data[place + 9])
        else:
            place += 2
        while length := data[place]:
            place += 1 + length
            num_parts += 1
            # Behind the first frame nobody walks over the blocks but this.
            if num_parts > _MOST_PARTS and header.num_frames:
                return
            _check_parts(num_parts)
        place += 1
    header.end = place + 1 if mark == 0x3B else None


def _table_size(flags: int) -> int:
    """The bytes of a GIF's colour table."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _read_webp(data: bytes, header: Header) -> Iterator[None]:
    header.end = 8 + int.from_bytes(data[4:8], "little")
    place, num_chunks, num_frames = 12, 0, 0
    while place + 8 <= min(len(data), header.end):
        kind, length = struct.unpack_from("<4sI", data, place)
        body = place + 8
        num_chunks += 1
        _check_parts(num_chunks)
        if kind == b"VP8X":
            header.size = (1 + _three_bytes(data, body + 4), 1 + _three_bytes(data, body + 7))
            yield
        elif kind == b"VP8 " and header.size is None:
            width, height = struct.unpack_from("<HH", data, body + 6)
            header.size = (width & 0x3FFF, height & 0x3FFF)
            yield
        elif kind == b"VP8L" and header.size is None:
            bits = int.from_bytes(data[body + 1 : body + 5], "little")
            header.size = (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
            yield
        elif kind == b"ANMF":
            num_frames += 1
            header.num_frames = num_frames
            yield
        place = body + length + length % 2


def _three_bytes(data: bytes, place: int) -> int:
    return int.from_bytes(data[place : place + 3], "little")


def _read_bmp(data: bytes, header: Header) -> Iterator[None]:
    # The oldest headers have 12 bytes and short numbers; a height below 0 says that the top row comes first.
    is_short = struct.unpack_from("<I", data, 14)[0] == 12
    width, height = struct.unpack_from("<HH" if is_short else "<ii", data, 18)
    header.size = (width, abs(height))
    yield


_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
_PIECES = (273, 279, 324, 325)  # Where strips and tiles are, and how long.


def _read_tiff(data: bytes, header: Header) -> Iterator[None]:
    order = "<" if data.startswith(b"II") else ">"
    (place,) = struct.unpack_from(order + "I", data, 4)
    header.num_frames = 0
    while place:
        (num_fields,) = struct.unpack_from(order + "H", data, place)
        header.num_frames += 1
        if header.num_frames == 1:
            if num_fields > _MOST_FIELDS:
                raise _TooMuchError(f"fields than {_MOST_FIELDS}; save it again")
            fields = _tiff_fields(data, order, place + 2, num_fields)
            header.size = (fields.get(_WIDTH, 0), fields.get(_HEIGHT, 0))
            if fields.get(_TILE_WIDTH, 1) * fields.get(_TILE_HEIGHT, 1) > _MOST_TILE_PIXELS:
                raise _TooMuchError(f"pixels in a tile than {_MOST_TILE_PIXELS}; save it again")
        yield
        (place,) = struct.unpack_from(order + "I", data, place + 2 + 12 * num_fields)


def _tiff_fields(data: bytes, order: str, place: int, num_fields: int) -> dict[int, int]:
    """The whole numbers of a page by their tags."""
    values = {}
    for start in range(place, place + 12 * num_fields, 12):
        tag, kind, count = struct.unpack_from(order + "HHI", data, start)
        if tag in _PIECES:
            _check_parts(count)
        values[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, start + 8)[0]
    return values


def _check_parts(num_parts: int) -> None:
    if num_parts > _MOST_PARTS:
        raise _TooMuchError(f"parts than {_MOST_PARTS}; save it again")


_READERS = {
    "PNG": _read_png,
    "JPEG": _read_jpeg,
    "GIF": _read_gif,
    "WEBP": _read_webp,
    "BMP": _read_bmp,
    "TIFF": _read_tiff,
}
