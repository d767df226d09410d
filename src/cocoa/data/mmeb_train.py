"""Queries with a right target and hard negatives, from tables in the columns of MMEB's training sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cocoa.data.mmeb_side import image_folder, pair_up, read_side, read_texts
from cocoa.data.tables import find_images, find_tables, read_rows
from cocoa.errors import CocoaError, DataError
from cocoa.images import ImageSource
from cocoa.sample import Pair

_COLUMNS = ("qry", "qry_image_path", "pos_text", "pos_image_path")
_NEGATIVES = ("neg_text", "neg_image_path")


class MmebTrain:
    """The pairs of one table, or of all tables of a folder (those in its `train/`, if there are any), in file order.

    Image paths are relative to the table's folder, or to the one above `train/`. All rows are checked when read.
    `limit` takes the first rows over all tables.
    """

    def __init__(self, path: Path, *, limit: int | None = None) -> None:
        tables = [path]
        if path.is_dir():
            tables = find_tables(path / "train") or find_tables(path)
            if not tables:
                raise DataError("E_DATA_FILE", "no tables in the folder or its train/", where=str(path))
        self._pairs: list[Pair] = []
        for table in tables:
            room = None if limit is None else limit - len(self._pairs)
            if room == 0:
                break
            find = find_images(image_folder(table))
            for number, row in enumerate(read_rows(table, _COLUMNS, _NEGATIVES)[:room], 1):
                where = f"{table}:{number}"
                try:
                    self._pairs.append(_read_pair(row, find, where))
                except CocoaError as error:
                    raise error.at(where) from error

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:
        return self._pairs[index]


def _read_pair(row: dict[str, Any], find: Callable[[str], ImageSource], where: str) -> Pair:
    texts, images = (read_texts(row.get(column), where) for column in _NEGATIVES)
    return Pair(
        query=read_side(row["qry"], row["qry_image_path"], find, where),
        target=read_side(row["pos_text"], row["pos_image_path"], find, where),
        negatives=tuple(
            read_side(text, image, find, where) for text, image in pair_up(texts, images, where) if text or image
        ),
    )
