"""Pixels of every mode to RGB as a viewer shows them: deep ones scaled, profiles applied, alpha over white."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cocoa.images.profiles import in_srgb
from cocoa.images.sources import profile_of


def to_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Returns the picture in RGB, a copy, and notes of what was passed over (`profile_...`, see `profiles.in_srgb`).

    Raises ValueError for a mode that has no RGB.
    """
    profile = profile_of(image)
    if image.mode.startswith("I") or image.mode == "F":
        colour, alpha = _to_8_bits(image), None
    elif image.has_transparency_data:
        colour, alpha = _without_alpha(image, is_grey=profile[16:20] == b"GRAY")
    elif not profile:
        return image.convert("RGB"), []
    else:
        colour, alpha = image, None
    notes: list[str] = []
    if profile:
        colour, notes = in_srgb(colour, profile)
    if alpha is None:
        return colour.convert("RGB"), notes
    white = Image.new("RGB", colour.size, "white")
    white.paste(colour.convert("RGB"), mask=alpha)
    return white, notes


def _without_alpha(image: Image.Image, *, is_grey: bool) -> tuple[Image.Image, Image.Image]:
    """The colours as they are where nothing shines through (grey if they are to be), and alpha."""
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        # A 16-bit PNG keeps its key colour in 16 bits while Pillow reads its pixels in 8.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    straight = image.convert("LA") if image.mode == "La" else image
    rgba = straight.convert("RGBA")
    is_grey = is_grey and image.mode in ("1", "L", "LA", "La")
    return rgba.getchannel("R") if is_grey else rgba.convert("RGB"), rgba.getchannel("A")


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
        with np.errstate(invalid="ignore"):  # Some bytes of a damaged float are a NaN that numpy warns of.
            band = pixels[start : start + 256].astype(np.float64)
        band = np.nan_to_num(band, nan=low, posinf=low + span, neginf=low)
        grey[start : start + 256] = np.rint((band - low) * (255.0 / span)).clip(0, 255).astype(np.uint8)
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey[pixels == key] = 255
    return Image.fromarray(grey)
