"""Images with a text each, from a table: what reconstruction learns from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cocoa.data.bad_rows import OnBad, fail
from cocoa.data.mmeb_side import read_side, read_text
from cocoa.data.sides import Side, reordered, seen_from
from cocoa.data.tables import Keep, find_images, read_each
from cocoa.errors import DataError
from cocoa.images import ImageSource
from cocoa.sample import IMAGE_PLACEHOLDER, Pair, Sample


class ImageTextPairs:
    """The pairs of a table with columns `image_path` and `text` (or `caption`); query is the image, target the text.

    Image paths are relative to the table's folder, see `find_images`. All rows are checked when the table is read: bad
    ones go to `on_bad` and are left out. `limit` takes the first good rows that `keep` is true for. `side` says what is
    read and what is rebuilt, see `sides`; the other text of a row is its text with the parts in another order.
    """

    def __init__(
        self,
        path: Path,
        *,
        limit: int | None = None,
        on_bad: OnBad = fail,
        side: Side = "image_to_text",
        keep: Keep | None = None,
    ) -> None:
        self._side: Side = side
        make = partial(_read_pair, find_images(path.parent))
        self._pairs = read_each(
            (path,), ("image_path",), ("text", "caption"), make, limit=limit, on_bad=on_bad, keep=keep
        )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:
        pair = self._pairs[index]
        return seen_from(pair, self._side, reordered(pair.target.text))


def _read_pair(find: Callable[[str], ImageSource], row: dict[str, Any], where: str) -> Pair:
    column = next((name for name in ("text", "caption") if name in row), None)
    if column is None:
        raise DataError("E_DATA_COLUMN", "missing columns: text (or caption); present: image_path", where=where)
    name = read_text(row["image_path"], where)
    if not name:
        raise DataError("E_DATA_EMPTY", "the image path is empty", where=where)
    if not read_text(row[column], where).strip():
        raise DataError("E_DATA_EMPTY", f"the {column} is empty", where=where)
    query = Sample(text=IMAGE_PLACEHOLDER + "\n", images=(find(name),), where=where)
    return Pair(query, read_side(row[column], "", find, where))
