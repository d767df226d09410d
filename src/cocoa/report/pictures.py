"""Pictures as data URLs, so that a page carries them inside itself."""

from __future__ import annotations

import base64
import io

from PIL import Image

_LOSSLESS_PIXELS = 256


def data_url(picture: Image.Image, *, pixels: int | None = None) -> str:
    """Returns the picture as a WebP data URL, shrunk so that no side exceeds `pixels`.

    A small picture is never enlarged: the page scales it, with sharp pixels. Up to 256 pixels a side nothing is lost.
    """
    picture = picture if picture.mode in ("RGB", "RGBA") else picture.convert("RGB")
    if pixels is not None and max(picture.size) > pixels:
        picture = picture.copy()
        picture.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    if max(picture.size) <= _LOSSLESS_PIXELS:
        picture.save(stream, "WEBP", lossless=True, quality=60, method=2)
    else:
        picture.save(stream, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
