"""One side of an MMEB row, as a text and an image, turned into a sample; shared by training and evaluation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cocoa.data.mmeb_v1 import RULES
from cocoa.errors import DataError
from cocoa.images import ImageSource
from cocoa.sample import IMAGE_PLACEHOLDER, Sample

_PLACEHOLDER = re.compile(r"<\|image_(\d+)\|>")

ImageCell = str | bytes
"""A picture as a row has it: its path, '' for none, or the bytes of its file."""


def strip_placeholder(text: str) -> str:
    """Returns the text without image placeholders, and without the newline after each.

    MMEB's WebQA and EDIS queries carry a placeholder although there is no image.
    """
    return RULES["stray_placeholder"].repair(text)


def read_side(
    text: Any, image: Any, find: Callable[[str], ImageSource], where: str, *, strip_stray: bool = True
) -> Sample:
    """Returns the sample of a text and an image (see `read_image`), either of which may be '' or None.

    A text with an image stays as it is, whether or not it has a placeholder; it must not have two. One without an
    image loses its placeholder, if `strip_stray`.

    Raises:
        CocoaError: E_DATA_EMPTY for neither, E_DATA_TYPE for no strings, E_DATA_PLACEHOLDER for a picture named twice
            or not there, all naming `where`; or what `find` raises.
    """
    text, image = read_text(text, where), read_image(image, where)
    if image:
        if _PLACEHOLDER.findall(text) not in ([], ["1"]):
            message = f"the one picture is named more than once, or by another name than {IMAGE_PLACEHOLDER}"
            raise DataError("E_DATA_PLACEHOLDER", message, where=where)
        source = image if isinstance(image, bytes) else find(image)
        return Sample(text=text, images=(source,), where=where)
    bare = strip_placeholder(text)
    if not bare.strip():
        raise DataError("E_DATA_EMPTY", "neither text nor image", where=where)
    return Sample(text=bare if strip_stray else text, where=where)


def read_image(value: Any, where: str) -> ImageCell:
    """Returns the picture of a cell: a path, a null, or a record {bytes, path} as parquet files embed pictures."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    return value if isinstance(value, bytes) else read_text(value, where)


def read_images(value: Any, where: str) -> list[ImageCell]:
    """Returns the pictures of a cell: a list, or what `read_texts` takes for paths."""
    if isinstance(value, dict | bytes):
        image = read_image(value, where)
        return [image] if image else []
    if isinstance(value, list):
        return value if _all_strings(value) else [read_image(item, where) for item in value]
    return list(read_texts(value, where))


def read_text(value: Any, where: str) -> str:
    """Returns a cell that must be a string; a null is ''."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError("E_DATA_TYPE", f"expected a string, found {type(value).__name__}", where=where)
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a character, which no tokenizer takes.
        message = "the string holds half of a character (\\ud800 to \\udfff)"
        raise DataError("E_DATA_TYPE", message, where=where) from error
    return value


def read_texts(value: Any, where: str) -> list[str]:
    """Returns the strings of a cell: a list, one string ('' is none), or a JSON list in a string.

    Lists in strings are data: a Python list in quotes is refused with advice, never evaluated.
    """
    if isinstance(value, str) and value.startswith(('["', "['", "[]")):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            message = "a list in a string must be JSON, with double quotes"
            raise DataError("E_DATA_TYPE", message, where=where) from error
    if isinstance(value, list):
        # A benchmark has millions of candidates, most of them often: strings are looked into once, by `read_side`.
        return value if _all_strings(value) else [read_text(item, where) for item in value]
    text = read_text(value, where)
    return [text] if text else []


def _all_strings(items: list[Any]) -> bool:
    return set(map(type, items)) <= {str}


def pair_up(texts: list[str], images: list[ImageCell], where: str) -> list[tuple[str, ImageCell]]:
    """Returns (text, image) of each item; an empty list stands for as many '' as the other has."""
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
