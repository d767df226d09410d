"""Files in every colour that pictures come in, each beside the RGB pixels that a viewer shows, computed on its own.

Nothing here asks the decoder, or Pillow, what a pixel means: the expected arrays come from the numbers that went in.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from picture_files import chunk, encode, png
from profiles import (
    SRGB_PRIMARIES,
    WIDE_PRIMARIES,
    grey_meaning,
    grey_profile,
    ink_profile,
    lab_meaning,
    rgb_meaning,
    rgb_profile,
)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Truth:
    """A file and the RGB pixels [H, W, 3] that it shows."""

    name: str
    make: Callable[[], bytes]
    expected: Callable[[], Pixels]

    def __str__(self) -> str:
        return self.name


# Flat blocks of 8 x 8, so that JPEG's losses stay within rounding; every turn and mirror of it is another picture.
_COLOURS = np.array(
    [[[200, 30, 30], [30, 160, 60], [40, 60, 200]], [[230, 220, 40], [20, 20, 20], [240, 240, 240]]], np.uint8
)
SCENE: Pixels = _COLOURS.repeat(8, axis=0).repeat(8, axis=1)  # 16 rows, 24 columns
GREY: Pixels = SCENE[:, :, 0]
ALPHA: Pixels = np.arange(16 * 24, dtype=np.uint16).reshape(16, 24).astype(np.uint8)
FINE = {"quality": 100, "subsampling": 0}


def three(grey: Pixels) -> Pixels:
    """Returns grey [H, W] as RGB."""
    return np.repeat(grey[:, :, None], 3, axis=2)


def over_white(colour: Pixels, alpha: Pixels) -> Pixels:
    """Returns colours [H, W, 3] seen through alpha [H, W] in front of white."""
    share = alpha[:, :, None] / 255.0
    return np.rint(colour * share + 255.0 * (1 - share)).astype(np.uint8)


def raw(*rows: bytes) -> bytes:
    """Returns unfiltered PNG rows."""
    return b"".join(b"\0" + row for row in rows)


def turned(orientation: int) -> Pixels:
    """Returns the scene as a viewer turns it for an EXIF orientation."""
    ways: dict[int, Callable[[Pixels], Pixels]] = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a[::-1].transpose(1, 0, 2),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: a.transpose(1, 0, 2)[::-1],
    }
    return ways.get(orientation, lambda a: a)(SCENE)


def with_orientation(kind: str, orientation: int, **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(Image.fromarray(SCENE), kind, exif=exif, **options)


def inks() -> Pixels:
    """CMYK of six blocks."""
    inks = [[[0, 255, 255, 0], [255, 0, 0, 0], [0, 0, 0, 255]], [[0, 0, 0, 0], [0, 0, 255, 100], [60, 90, 120, 30]]]
    return np.array(inks, np.uint8).repeat(8, axis=0).repeat(8, axis=1)


def plain_inks(cmyk: Pixels) -> Pixels:
    """What inks look like without a profile: each takes its share of what black leaves."""
    left = 255.0 - cmyk
    return np.rint(left[:, :, :3] * left[:, :, 3:] / 255.0).astype(np.uint8)


def cmyk_jpeg(*, adobe: bool = True) -> bytes:
    """Inks in a JPEG file: stored inverted, with Photoshop's mark or without; browsers take all of them as inverted."""
    whole = encode(Image.fromarray(inks(), "CMYK"), "JPEG", **FINE)
    mark = whole.index(b"\xff\xee")
    assert whole[mark + 4 : mark + 9] == b"Adobe"
    return whole if adobe else whole[:mark] + whole[mark + 16 :]


def animation(kind: str) -> bytes:
    frames = [Image.fromarray(SCENE), Image.new("RGB", (24, 16), "blue"), Image.new("RGB", (24, 16), "red")]
    options = {"lossless": True} if kind == "WEBP" else {}
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)


def indexed(transparency: bytes | int | None = None) -> bytes:
    image = Image.fromarray(INDICES, "P")
    image.putpalette(INDEXED.tobytes())
    return encode(image, "PNG", **({} if transparency is None else {"transparency": transparency}))


INDEXED: Pixels = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [10, 20, 30]], np.uint8)
INDICES = ALPHA % 4


def indexed_pixels(alphas: tuple[int, int, int, int] = (255,) * 4) -> Pixels:
    return over_white(INDEXED[INDICES], np.array(alphas, np.uint8)[INDICES])


DEEP: NDArray[np.uint16] = (np.arange(16 * 24, dtype=np.uint32) * 171 % 65536).astype(np.uint16).reshape(16, 24)
DEEP_SHOWN: Pixels = three(np.rint(DEEP / 257.0).astype(np.uint8))


def deep_rows(*planes: NDArray[np.uint16]) -> bytes:
    """Rows of a 16-bit PNG of these planes."""
    return raw(*(row.tobytes() for row in np.stack(planes, axis=2).astype(">u2")))


def deep_tiff(values: NDArray[np.generic]) -> bytes:
    return encode(Image.fromarray(values), "TIFF")


def gif_with_key() -> bytes:
    image = Image.fromarray(INDICES, "P")
    image.putpalette(INDEXED.tobytes())
    return encode(image, "GIF", transparency=1)


def small_bits(depth: int) -> tuple[bytes, Pixels]:
    """A grey PNG of `depth` bits and its pixels: every value once."""
    values = np.arange(2**depth)
    bits = "".join(f"{value:0{depth}b}" for value in values)
    row = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    shown = np.rint(values * 255.0 / (2**depth - 1)).astype(np.uint8)
    return png(2**depth, 1, depth, 0, raw(row)), three(shown[None])


def white_is_zero() -> bytes:
    """A fax-like TIFF: one bit a pixel, 0 is white."""
    image = Image.fromarray(np.array([[0, 255, 0, 255, 255, 255, 0, 0]], np.uint8)).convert("1")
    return encode(image, "TIFF", tiffinfo={262: 0})


def interlaced() -> bytes:
    """The scene as an interlaced PNG (Adam7)."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b"".join(raw(*(row.tobytes() for row in SCENE[top::down, left::right])) for top, left, down, right in passes)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 24, 16, 8, 2, 0, 0, 1))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


SWAPPED = SRGB_PRIMARIES[:, [1, 2, 0]]
LABS: dict[tuple[int, int, int, int], tuple[float, float, float]] = {
    (c, m, y, k): (round(100 - 20 * (c + m + y) - 30 * k), -20 * c + 20 * m, -20 * c - 5 * m + 30 * y)
    for c in (0, 1)
    for m in (0, 1)
    for y in (0, 1)
    for k in (0, 1)
}


def corner_inks() -> Pixels:
    corners = 255 * np.array(list(LABS), np.uint8)
    return corners.reshape(4, 4, 4)


def with_profile(image: Image.Image, kind: str, profile: bytes, **options: object) -> bytes:
    return encode(image, kind, icc_profile=profile, **options)


def scene_with(kind: str, profile: bytes, **options: object) -> bytes:
    return with_profile(Image.fromarray(SCENE), kind, profile, **options)


WIDE = rgb_profile(WIDE_PRIMARIES, 2.2)
WHOLE_LINE = np.arange(256, dtype=np.uint8).reshape(16, 16)

ORIENTATIONS = [
    *(
        Truth(f"exif-{way}", lambda way=way: with_orientation("JPEG", way, **FINE), lambda way=way: turned(way))
        for way in range(1, 9)
    ),
    Truth("exif-99", lambda: with_orientation("JPEG", 99, **FINE), lambda: SCENE),
    Truth(
        "exif-garbage",
        lambda: encode(Image.fromarray(SCENE), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff", **FINE),
        lambda: SCENE,
    ),
    Truth("exif-6-png", lambda: with_orientation("PNG", 6), lambda: turned(6)),
    Truth("exif-6-webp", lambda: with_orientation("WEBP", 6, lossless=True), lambda: turned(6)),
    Truth("exif-6-tiff", lambda: with_orientation("TIFF", 6), lambda: turned(6)),
]
COLOURS = [
    Truth("cmyk-jpeg-without-mark", lambda: cmyk_jpeg(adobe=False), lambda: plain_inks(inks())),
    Truth("cmyk-adobe-inverted", cmyk_jpeg, lambda: plain_inks(inks())),
    Truth("cmyk-tiff", lambda: encode(Image.fromarray(inks(), "CMYK"), "TIFF"), lambda: plain_inks(inks())),
    Truth("grey", lambda: encode(Image.fromarray(GREY), "PNG"), lambda: three(GREY)),
    Truth("grey-jpeg", lambda: encode(Image.fromarray(GREY), "JPEG", quality=100), lambda: three(GREY)),
    Truth("progressive-jpeg", lambda: encode(Image.fromarray(SCENE), "JPEG", progressive=True, **FINE), lambda: SCENE),
    Truth("interlaced-png", interlaced, lambda: SCENE),
    Truth("palette", indexed, indexed_pixels),
    Truth("one-bit", lambda: small_bits(1)[0], lambda: small_bits(1)[1]),
    Truth("two-bits", lambda: small_bits(2)[0], lambda: small_bits(2)[1]),
    Truth("four-bits", lambda: small_bits(4)[0], lambda: small_bits(4)[1]),
    Truth(
        "one-bit-white-is-zero", white_is_zero, lambda: three(np.array([[0, 255, 0, 255, 255, 255, 0, 0]], np.uint8))
    ),
    Truth("bmp", lambda: encode(Image.fromarray(SCENE), "BMP"), lambda: SCENE),
]
ALPHAS = [
    Truth(
        "grey-alpha",
        lambda: encode(Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(ALPHA))), "PNG"),
        lambda: over_white(three(GREY), ALPHA),
    ),
    Truth(
        "rgb-alpha", lambda: encode(Image.fromarray(np.dstack([SCENE, ALPHA])), "PNG"), lambda: over_white(SCENE, ALPHA)
    ),
    Truth(
        "rgb-alpha-webp",
        lambda: encode(Image.fromarray(np.dstack([SCENE, ALPHA])), "WEBP", lossless=True, exact=True),
        lambda: over_white(SCENE, ALPHA),
    ),
    Truth(
        "alpha-0",
        lambda: encode(Image.fromarray(np.dstack([SCENE, 0 * ALPHA])), "PNG"),
        lambda: np.full_like(SCENE, 255),
    ),
    Truth("palette-alpha", lambda: indexed(bytes([255, 128, 0, 64])), lambda: indexed_pixels((255, 128, 0, 64))),
    Truth("palette-key", lambda: indexed(2), lambda: indexed_pixels((255, 255, 0, 255))),
    Truth(
        "rgb-key",
        lambda: png(2, 1, 8, 2, bytes([0, 1, 2, 3, 4, 5, 6]), chunk(b"tRNS", b"\0\1\0\2\0\3")),
        lambda: np.array([[[255] * 3, [4, 5, 6]]], np.uint8),
    ),
    Truth(
        "grey-key",
        lambda: png(2, 1, 8, 0, bytes([0, 7, 8]), chunk(b"tRNS", b"\0\7")),
        lambda: np.array([[[255] * 3, [8] * 3]], np.uint8),
    ),
    Truth("gif-key", gif_with_key, lambda: indexed_pixels((255, 0, 255, 255))),
]
DEPTHS = [
    Truth("grey-16", lambda: png(24, 16, 16, 0, deep_rows(DEEP)), lambda: DEEP_SHOWN),
    Truth("grey-16-tiff", lambda: deep_tiff(DEEP), lambda: DEEP_SHOWN),
    Truth(
        "rgb-16",
        lambda: png(24, 16, 16, 2, deep_rows(DEEP, DEEP[::-1], DEEP[:, ::-1])),
        lambda: np.dstack([DEEP_SHOWN[:, :, 0], DEEP_SHOWN[::-1, :, 0], DEEP_SHOWN[:, ::-1, 0]]),
    ),
    Truth(
        "grey-alpha-16",
        lambda: png(24, 16, 16, 4, deep_rows(DEEP, DEEP[::-1])),
        lambda: over_white(DEEP_SHOWN, DEEP_SHOWN[::-1, :, 0]),
    ),
    Truth("float-unit", lambda: deep_tiff((DEEP / 65535.0).astype(np.float32)), lambda: DEEP_SHOWN),
    Truth("float-bytes", lambda: deep_tiff((DEEP / 257.0).astype(np.float32)), lambda: DEEP_SHOWN),
    Truth("int-32", lambda: deep_tiff(DEEP.astype(np.int32)), lambda: DEEP_SHOWN),
]
ANIMATIONS = [
    *(
        Truth(f"first-frame-{kind.lower()}", lambda kind=kind: animation(kind), lambda: SCENE)
        for kind in ("GIF", "WEBP", "PNG")
    ),
]
PROFILES = [
    Truth(
        "profile-swaps-colours",
        lambda: scene_with("PNG", rgb_profile(SWAPPED, 2.2)),
        lambda: rgb_meaning(SCENE, SWAPPED, 2.2),
    ),
    Truth("profile-wide-png", lambda: scene_with("PNG", WIDE), lambda: rgb_meaning(SCENE, WIDE_PRIMARIES, 2.2)),
    Truth(
        "profile-in-a-jpeg",
        lambda: scene_with("JPEG", rgb_profile(SWAPPED, 2.2), **FINE),
        lambda: rgb_meaning(SCENE, SWAPPED, 2.2),
    ),
    Truth(
        "profile-wide-webp",
        lambda: scene_with("WEBP", WIDE, lossless=True),
        lambda: rgb_meaning(SCENE, WIDE_PRIMARIES, 2.2),
    ),
    Truth("profile-wide-tiff", lambda: scene_with("TIFF", WIDE), lambda: rgb_meaning(SCENE, WIDE_PRIMARIES, 2.2)),
    Truth(
        "profile-under-alpha",
        lambda: with_profile(Image.fromarray(np.dstack([SCENE, ALPHA])), "PNG", WIDE),
        lambda: over_white(rgb_meaning(SCENE, WIDE_PRIMARIES, 2.2), ALPHA),
    ),
    Truth(
        "profile-of-a-palette",
        lambda: with_profile(Image.open(io.BytesIO(indexed())), "PNG", WIDE),
        lambda: rgb_meaning(indexed_pixels(), WIDE_PRIMARIES, 2.2),
    ),
    Truth(
        "profile-grey",
        lambda: with_profile(Image.fromarray(WHOLE_LINE), "PNG", grey_profile(1.4)),
        lambda: grey_meaning(WHOLE_LINE, 1.4),
    ),
    Truth(
        "profile-rgb-on-grey",
        lambda: with_profile(Image.fromarray(WHOLE_LINE), "PNG", WIDE),
        lambda: rgb_meaning(three(WHOLE_LINE), WIDE_PRIMARIES, 2.2),
    ),
    Truth(
        "profile-inks",
        lambda: with_profile(Image.fromarray(corner_inks(), "CMYK"), "TIFF", ink_profile(LABS)),
        lambda: np.array([lab_meaning(lab) for lab in LABS.values()]).reshape(4, 4, 3),
    ),
    Truth("profile-of-other-colours", lambda: scene_with("PNG", grey_profile(1.4)), lambda: SCENE),
    Truth("profile-broken", lambda: scene_with("PNG", b"no profile" * 30), lambda: SCENE),
    Truth("profile-cut-short", lambda: scene_with("PNG", WIDE[:200]), lambda: SCENE),
]
ODDITIES = [
    Truth("trailing-junk", lambda: encode(Image.fromarray(SCENE), "PNG") + bytes(1_000_000), lambda: SCENE),
    Truth(
        "jpeg-and-zip",
        lambda: encode(Image.fromarray(SCENE), "JPEG", **FINE) + b"PK\3\4" + b"a zip" * 40 + b"PK\5\6" + bytes(18),
        lambda: SCENE,
    ),
]

TRUTHS: tuple[Truth, ...] = (*ORIENTATIONS, *COLOURS, *ALPHAS, *DEPTHS, *ANIMATIONS, *PROFILES, *ODDITIES)
