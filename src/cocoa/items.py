"""What a person may ask to be embedded, told apart by its type and never by what its text looks like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from cocoa.errors import ImageError, UsageError
from cocoa.images import ImageSource, data_url_bytes
from cocoa.sample import Sample

Picture = str | Path | bytes | Image.Image
"""A picture: its path, the bytes of its file, a PIL picture, or a `data:` URL."""

Item = str | Path | bytes | Image.Image | Mapping[str, Any] | Sample
"""A text (`str`), a picture (`Path`, `bytes`, PIL), a `Sample`, or a mapping with `text` and `image` or `images`.

A `str` alone is always a text, whatever it looks like; a path or `data:` URL that is a `str` goes into a mapping.
"""

_KEYS = ("text", "image", "images")


def as_samples(items: Sequence[Item]) -> list[Sample]:
    """Returns the samples of items that a person gave."""
    if not isinstance(items, Iterable) or isinstance(items, str | bytes | Mapping | Image.Image):
        raise UsageError("E_USAGE_ITEM", f"encode takes a list of items, not one {type(items).__name__}")
    return [as_sample(item, number) for number, item in enumerate(items)]


def as_sample(item: Item, number: int) -> Sample:
    """Returns the sample of an item that a person gave; `number` names it in errors.

    Raises `E_USAGE_ITEM` for what is no item, `E_IMAGE_URL` for a URL that does not hold the picture itself.
    """
    where = f"item {number}"
    match item:
        case Sample():
            return item
        case str():
            return Sample(item, where=where)
        case Path() | bytes() | Image.Image():
            return Sample(images=(item,), where=where)
        case Mapping():
            return _of_mapping(item, where)
    raise UsageError("E_USAGE_ITEM", f"a {type(item).__name__} is not a text, a picture or a mapping", where=where)


def _of_mapping(item: Mapping[str, Any], where: str) -> Sample:
    if unknown := sorted(str(key) for key in set(item) - set(_KEYS)):
        raise UsageError("E_USAGE_ITEM", f"unknown key {unknown[0]!r}; known: {', '.join(_KEYS)}", where=where)
    text, image, images = (item.get(key) for key in _KEYS)
    if text is not None and not isinstance(text, str):
        raise UsageError("E_USAGE_ITEM", f"text is a {type(text).__name__}, not a str", where=where)
    if image is not None and images is not None:
        raise UsageError("E_USAGE_ITEM", "give image or images, not both", where=where)
    if images is not None and not isinstance(images, list | tuple):
        raise UsageError("E_USAGE_ITEM", f"images is a {type(images).__name__}, not a list", where=where)
    pictures = images if images is not None else [] if image is None else [image]
    return Sample(text or "", tuple(_source(picture, where) for picture in pictures), where)


def _source(picture: Any, where: str) -> ImageSource:
    if not isinstance(picture, str | Path | bytes | Image.Image):
        raise UsageError(
            "E_USAGE_ITEM", f"a picture is a {type(picture).__name__}; give path, bytes or PIL", where=where
        )
    if isinstance(picture, str) and picture[:5].lower() == "data:":
        return data_url_bytes(picture, where=where)
    if isinstance(picture, str) and picture.lower().startswith(("http://", "https://")):
        raise ImageError("E_IMAGE_URL", "pictures are not fetched from the net here; give the file", where=where)
    return picture
