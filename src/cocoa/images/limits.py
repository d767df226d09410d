"""What a picture may cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cocoa.errors import ImageError


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What a picture may cost; each limit is checked before any pixel is decoded.

    `max_ratio` is the long side over the short side. `max_frames` counts frames and pages, though only the first is
    shown: what has more is a film or a book. `formats` are Pillow's names.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    max_ratio: float = 200.0
    max_frames: int = 500
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


DEFAULT_LIMITS = ImageLimits()

Fail = Callable[[str, str], ImageError]
"""Makes the error of a picture from a code and what is wrong with it; it knows the picture's name."""


def check_size(size: tuple[int, int], limits: ImageLimits, fail: Fail) -> None:
    """Raises E_IMAGE_OPEN, E_IMAGE_TOO_LARGE or E_IMAGE_RATIO for a width and height in pixels beyond the limits."""
    width, height = size
    if min(size) < 1:
        raise fail("E_IMAGE_OPEN", "has no pixels")
    if width * height > limits.max_pixels:
        raise fail("E_IMAGE_TOO_LARGE", f"is {width} x {height}, more than {limits.max_pixels} pixels; make it smaller")
    if max(size) > limits.max_ratio * min(size):
        raise fail("E_IMAGE_RATIO", f"is {width} x {height}, longer than {limits.max_ratio:g} to 1; crop it")
