"""Small files that would cost much memory or time, if their headers were not looked at first."""

from __future__ import annotations

import struct
import zlib

from PIL import Image

from picture_files import NOISE, chunk, encode, png, tiff


def real_169_million() -> bytes:
    """Returns 20 KB that unpack to 169 million pixels."""
    return png(13000, 13000, 1, 0, bytes(13000 * 1626))


def text(size: int = 80_000_000) -> bytes:
    """Returns a PNG whose note unpacks to `size` bytes."""
    return png(1, 1, 8, 0, b"\0\0", chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(size))))


def profile(size: int = 80_000_000) -> bytes:
    """Returns a PNG whose colour profile unpacks to `size` bytes."""
    return png(1, 1, 8, 0, b"\0\0", chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(size))))


def gif_frames(num_frames: int) -> bytes:
    """Returns a GIF of frames of one pixel."""
    one = encode(Image.new("P", (1, 1)), "GIF")
    start = one.index(b",\0\0\0\0")
    return one[:start] + one[start:-1] * num_frames + b";"


def png_frames(num_frames: int) -> bytes:
    """Returns an animated PNG of frames of one pixel."""
    end = chunk(b"IEND", b"")
    frames = [png(1, 1, 8, 0, b"\0\0", chunk(b"acTL", struct.pack(">II", num_frames, 0)))[: -len(end)]]
    pixel = zlib.compress(b"\0\0")
    for number in range(num_frames):
        frames.append(chunk(b"fcTL", struct.pack(">IIIIIHHBB", 2 * number, 1, 1, 0, 0, 1, 10, 0, 0)))
        frames.append(chunk(b"fdAT", struct.pack(">I", 2 * number + 1) + pixel))
    return b"".join([*frames, end])


def webp_frames(num_frames: int, width: int = 1, height: int = 1) -> bytes:
    """Returns an animated WebP of frames of one pixel, on a canvas that may be much larger."""
    one = encode(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    canvas = struct.pack("<I", 2) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    parts = b"VP8X" + struct.pack("<I", 10) + canvas + b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    parts += (b"ANMF" + struct.pack("<I", 16 + len(one)) + bytes(16) + one) * num_frames
    return b"RIFF" + struct.pack("<I", 4 + len(parts)) + b"WEBP" + parts


def webp_canvas(width: int, height: int) -> bytes:
    """Returns a WebP whose canvas is much larger than the picture in it."""
    return webp_frames(1, width, height)


def many_strips(num_strips: int = 4_000_000) -> bytes:
    """Returns a TIFF that says its one pixel is in millions of strips."""
    start = len(tiff([(273, 4, num_strips, 0)]))
    return tiff([(273, 4, num_strips, start)], tail=bytes(4 * num_strips))


def huge_tile() -> bytes:
    """Returns a TIFF of one pixel in a tile of 10,000 million."""
    return tiff([(322, 4, 1, 100_000), (323, 4, 1, 100_000), (324, 4, 1, 8), (325, 4, 1, 1), (259, 3, 1, 8)])


def many_chunks(num_chunks: int = 1_000_000) -> bytes:
    """Returns a PNG with empty chunks in front of its pixels."""
    return png(1, 1, 8, 0, b"\0\0", chunk(b"abCd", b"") * num_chunks)


def many_segments(num_segments: int = 4_000_000) -> bytes:
    """Returns a JPEG with empty segments in front of its pixels."""
    whole = encode(NOISE, "JPEG")
    return whole[:2] + b"\xff\xe9\0\2" * num_segments + whole[2:]


def many_scans(num_scans: int = 2_000) -> bytes:
    """Returns a progressive JPEG that says its last scan again and again; each costs a pass over all pixels."""
    whole = encode(NOISE, "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * num_scans + whole[-2:]
