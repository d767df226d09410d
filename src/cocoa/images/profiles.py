"""Embedded colour profiles: what their numbers mean in sRGB, applied where that is not what they are already."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_MOST_BYTES = 4_000_000
"""A profile of a printer with fine tables has 2 MB; none is worth more."""
_MOST_TAGS = 100
_SIGNATURE = b"acsp"
_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
_CLASSES = (b"scnr", b"mntr", b"prtr", b"spac")
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
"""Paper is white, all else is what was measured; blacks of ink are not stretched to the blackest of a screen."""
_SAME = 2
"""Colours that a profile moves by no more than this, of 255, are sRGB in one of its many spellings."""


def in_srgb(colour: Image.Image, profile: bytes) -> tuple[Image.Image, list[str]]:
    """Returns the picture in sRGB, or itself where the profile says that it is already, and notes.

    A profile that cannot be read is passed over with the note `profile_broken`, one of other colours than the
    picture's (ink for light) with `profile_of_other_colours`; a grey picture may have a profile of RGB.
    """
    mode = _mode_of(profile)
    if mode is None:
        return colour, ["profile_broken"]
    if colour.mode in ("1", "L") and mode in ("RGB", "L"):
        colour = colour.convert(mode)
    elif colour.mode != mode:
        # Palettes and the colours of video stand for RGB; ink and light do not stand for each other.
        if mode != "RGB" or colour.mode == "CMYK":
            return colour, ["profile_of_other_colours"]
        colour = colour.convert(mode)
    try:
        transform = _transform(profile, mode)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return colour, ["profile_broken"]
    return (colour if transform is None else transform.apply(colour)), []


def _mode_of(profile: bytes) -> str | None:
    """The mode that a profile is for; None for one that a parser had better not be given."""
    has_form = len(profile) >= 132 and profile[36:40] == _SIGNATURE and profile[12:16] in _CLASSES
    if not has_form or not len(profile) <= _MOST_BYTES or int.from_bytes(profile[128:132], "big") > _MOST_TAGS:
        return None
    return _MODES.get(profile[16:20]) if int.from_bytes(profile[:4], "big") <= len(profile) else None


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from a profile to sRGB; None if it changes nothing that an eye could see."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    transform = ImageCms.ImageCmsTransform(source, target, mode, "RGB", _INTENT)
    if mode == "CMYK":
        return transform
    probe = _probe().convert(mode)
    moved = np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))
    return None if np.abs(moved).max() <= _SAME else transform


def _probe() -> Image.Image:
    """A picture of every grey and of 729 colours all over the cube."""
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    return Image.fromarray(np.concatenate([cube, greys])[None])
