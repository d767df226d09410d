"""Colour profiles made byte by byte, with the sRGB pixels that they stand for computed beside them."""

from __future__ import annotations

import itertools
import struct

import numpy as np
from numpy.typing import NDArray

# Columns: XYZ (D50) of the red, green and blue primary; rows of `D50_TO_LINEAR` are the way back to linear sRGB.
SRGB_PRIMARIES = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
WIDE_PRIMARIES = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
D50_TO_LINEAR = np.linalg.inv(SRGB_PRIMARIES)
WHITE_D50 = (0.96420, 1.0, 0.82491)


def rgb_profile(primaries: NDArray[np.float64], gamma: float) -> bytes:
    """Returns an RGB profile of three primaries and one power curve."""
    tags = {b"wtpt": _xyz(WHITE_D50)}
    for number, letter in enumerate((b"r", b"g", b"b")):
        tags[letter + b"XYZ"] = _xyz(primaries[:, number])
        tags[letter + b"TRC"] = _curve(gamma)
    return _profile(b"RGB ", b"XYZ ", tags)


def rgb_meaning(pixels: NDArray[np.uint8], primaries: NDArray[np.float64], gamma: float) -> NDArray[np.uint8]:
    """Returns the sRGB pixels [H, W, 3] that pixels under `rgb_profile(primaries, gamma)` mean."""
    light = (pixels / 255.0) ** gamma
    return _encoded(light @ primaries.T @ D50_TO_LINEAR.T)


def grey_profile(gamma: float) -> bytes:
    """Returns a grey profile of one power curve."""
    return _profile(b"GRAY", b"XYZ ", {b"wtpt": _xyz(WHITE_D50), b"kTRC": _curve(gamma)})


def grey_meaning(pixels: NDArray[np.uint8], gamma: float) -> NDArray[np.uint8]:
    """Returns the sRGB pixels [H, W, 3] that grey pixels [H, W] under `grey_profile(gamma)` mean."""
    light = (pixels[:, :, None] / 255.0) ** gamma
    return _encoded(np.repeat(light, 3, axis=2))


def ink_profile(labs: dict[tuple[int, int, int, int], tuple[float, float, float]]) -> bytes:
    """Returns a CMYK profile: the Lab colour of each of the 16 corners (ink 0 or 1), and straight lines between."""
    ramp = bytes(range(256))
    table = b""
    for corner in itertools.product((0, 1), repeat=4):  # The last ink changes fastest.
        lightness, a, b = labs[corner]
        table += bytes([round(lightness * 2.55), round(a + 128), round(b + 128)])
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + table + ramp * 3
    return _profile(b"CMYK", b"Lab ", {b"wtpt": _xyz(WHITE_D50), b"A2B0": lut}, kind=b"prtr")


def lab_meaning(lab: tuple[float, float, float]) -> NDArray[np.uint8]:
    """Returns the sRGB colour [3] of a Lab colour (D50)."""
    lightness, a, b = lab
    middle = (lightness + 16) / 116
    parts = np.array([middle + a / 500, middle, middle - b / 200])
    xyz = np.where(parts > 6 / 29, parts**3, 3 * (6 / 29) ** 2 * (parts - 4 / 29)) * WHITE_D50
    return _encoded(xyz @ D50_TO_LINEAR.T)


def _encoded(light: NDArray[np.float64]) -> NDArray[np.uint8]:
    light = light.clip(0, 1)
    values = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * values).astype(np.uint8)


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: tuple[float, float, float] | NDArray[np.float64]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(_fixed(float(value)) for value in values)


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def _profile(space: bytes, connection: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr") -> bytes:
    text = b"a test profile"
    described = b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" + bytes(78)
    tags = {b"desc": described, b"cprt": b"text\0\0\0\0none\0", **tags}
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"test", 0x02400000, kind, space, connection)
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += b"".join(_fixed(value) for value in WHITE_D50) + bytes(48)
    return header + table + body
