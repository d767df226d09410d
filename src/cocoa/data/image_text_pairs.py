"""Images with a text each, from a table: what reconstruction learns from."""

from __future__ import annotations

from pathlib import Path

from cocoa.data.mmeb_side import read_side, read_text
from cocoa.data.tables import find_images, read_rows
from cocoa.errors import CocoaError, DataError
from cocoa.sample import IMAGE_PLACEHOLDER, Pair, Sample


class ImageTextPairs:
    """The pairs of a table with columns `image_path` and `text` (or `caption`); query is the image, target the text.

    Image paths are relative to the table's folder, see `find_images`. All rows are checked when the table is read.
    """

    def __init__(self, path: Path, *, limit: int | None = None) -> None:
        rows = read_rows(path, ("image_path",), ("text", "caption"))
        column = next((name for name in ("text", "caption") if name in rows[0]), None)
        if column is None:
            message = "missing columns: text (or caption); present: image_path"
            raise DataError("E_DATA_COLUMN", message, where=str(path))
        find = find_images(path.parent)
        self._pairs: list[Pair] = []
        for number, row in enumerate(rows[:limit], 1):
            where = f"{path}:{number}"
            name = read_text(row["image_path"], where)
            if not name:
                raise DataError("E_DATA_EMPTY", "the image path is empty", where=where)
            if not read_text(row[column], where).strip():
                raise DataError("E_DATA_EMPTY", f"the {column} is empty", where=where)
            try:
                query = Sample(text=IMAGE_PLACEHOLDER + "\n", images=(find(name),), where=where)
                target = read_side(row[column], "", find, where)
            except CocoaError as error:
                raise error.at(where) from error
            self._pairs.append(Pair(query, target))

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:
        return self._pairs[index]
