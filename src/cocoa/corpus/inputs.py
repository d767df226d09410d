"""What people want embedded: a folder of pictures, or a table with texts, pictures, or both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cocoa.corpus.documents import Document
from cocoa.data.tables import TABLE_SUFFIXES, find_images, read_rows
from cocoa.errors import DataError
from cocoa.images import ImageSource
from cocoa.sample import Sample

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


def read_documents(path: Path) -> list[Document]:
    """Returns the documents of a folder of pictures (by path, sorted), or of a .parquet, .jsonl or .json table.

    A table has the columns `text`, `image` (a path beside the table, or in an `images.zip` there), or both; an `id`
    column names the rows, otherwise their numbers do. Raises `DataError` for what cannot be read, naming file and row.
    """
    if path.is_dir():
        pictures = sorted(file for file in path.rglob("*") if file.suffix.lower() in PICTURE_SUFFIXES)
        if not pictures:
            raise DataError("E_DATA_EMPTY", "folder holds no pictures", where=str(path))
        return [
            Document(str(file.relative_to(path)), Sample(images=(file,), where=str(file)), image=str(file.resolve()))
            for file in pictures
        ]
    if path.suffix.lower() not in TABLE_SUFFIXES:
        known = ", ".join(sorted(TABLE_SUFFIXES))
        raise DataError("E_DATA_READ", f"not a folder of pictures and not a table ({known})", where=str(path))
    rows = read_rows(path, (), ("id", "text", "image"))
    if rows and not {"text", "image"} & set(rows[0]):
        raise DataError("E_DATA_COLUMN", "table has neither a text nor an image column", where=str(path))
    find = find_images(path.parent)
    documents = [_document(row, f"{path}:{number}", number, find) for number, row in enumerate(rows, 1)]
    seen: dict[str, int] = {}
    for number, document in enumerate(documents, 1):
        if (first := seen.setdefault(document.id, number)) != number:
            raise DataError("E_DATA_ID", f"id {document.id!r} stands in row {first} too", where=f"{path}:{number}")
    return documents


def _document(row: dict[str, Any], where: str, number: int, find: Callable[[str], ImageSource]) -> Document:
    text, image, name = row.get("text") or "", row.get("image") or "", row.get("id")
    if not isinstance(text, str) or not isinstance(image, str):
        raise DataError("E_DATA_TYPE", "text and image must be strings", where=where)
    if not text and not image:
        raise DataError("E_DATA_EMPTY", "row has neither text nor image", where=where)
    try:
        images = (find(image),) if image else ()
    except DataError as error:
        raise error.at(where) from None
    return Document(str(number if name is None else name), Sample(text, images, where), text, image)
