"""One side of an MMEB row, as a text and an image path, turned into a sample; shared by training and evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cocoa.errors import DataError
from cocoa.images import ImageSource
from cocoa.sample import IMAGE_PLACEHOLDER, Sample


def strip_placeholder(text: str) -> str:
    """Returns the text without image placeholders, and without the newline after each.

    MMEB's WebQA and EDIS queries carry a placeholder although there is no image.
    """
    return text.replace(IMAGE_PLACEHOLDER + "\n", "").replace(IMAGE_PLACEHOLDER, "")


def read_side(text: Any, image: Any, find: Callable[[str], ImageSource], where: str) -> Sample:
    """Returns the sample of a text and an image path, either of which may be '' or None.

    A text with an image stays as it is, whether or not it has a placeholder.

    Raises:
        CocoaError: E_DATA_EMPTY for neither, E_DATA_TYPE for no strings, or what `find` raises; all naming `where`.
    """
    text, image = read_text(text, where), read_text(image, where)
    if image:
        return Sample(text=text, images=(find(image),), where=where)
    text = strip_placeholder(text)
    if not text.strip():
        raise DataError("E_DATA_EMPTY", "neither text nor image", where=where)
    return Sample(text=text, where=where)


def read_text(value: Any, where: str) -> str:
    """Returns a cell that must be a string; a null is ''."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError("E_DATA_TYPE", f"expected a string, found {type(value).__name__}", where=where)
    return value


def read_texts(value: Any, where: str) -> list[str]:
    """Returns the strings of a cell: a list, one string ('' is none), or a JSON list in a string.

    Lists in strings are data: a Python list in quotes is refused with advice, never evaluated.
    """
    if isinstance(value, str) and value.startswith(('["', "['", "[]")):
        try:
            value = json.loads(value)
        except (json.JSONDecodeError, RecursionError) as error:
            message = "a list in a string must be JSON, with double quotes"
            raise DataError("E_DATA_TYPE", message, where=where) from error
    if isinstance(value, list):
        return [read_text(item, where) for item in value]
    text = read_text(value, where)
    return [text] if text else []


def pair_up(texts: list[str], images: list[str], where: str) -> list[tuple[str, str]]:
    """Returns (text, image path) of each item; an empty list stands for as many '' as the other has."""
    if texts and images and len(texts) != len(images):
        raise DataError("E_DATA_LENGTH", f"{len(texts)} texts but {len(images)} image paths", where=where)
    size = max(len(texts), len(images))
    return list(zip(texts or [""] * size, images or [""] * size, strict=True))


def image_folder(table: Path) -> Path:
    """Returns the folder that the image paths of a table are relative to.

    That is the table's own folder, or the one above where the tables lie in `train/` or `test/` without images.
    """
    # A bare file name has a parent without a name.
    folder = table.parent if table.parent.name else table.absolute().parent
    own = (folder / "images.zip").exists() or (folder / "images").exists()
    return folder.parent if folder.name in ("train", "test") and not own else folder
