"""Queries with a right target and hard negatives, from tables in the columns of MMEB's training sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cocoa.data.bad_rows import OnBad, fail
from cocoa.data.mmeb_folders import choose, find_subsets, raise_all, split_of
from cocoa.data.mmeb_images import find_mmeb_images
from cocoa.data.mmeb_schema import Kind, check_columns
from cocoa.data.mmeb_side import image_folder, pair_up, read_images, read_side, read_texts
from cocoa.data.tables import Keep, find_tables, read_each
from cocoa.errors import CocoaError, DataError
from cocoa.images import ImageSource
from cocoa.sample import Pair

_COLUMNS: dict[str, Kind] = {"qry": "text", "qry_image_path": "image", "pos_text": "text", "pos_image_path": "image"}
_NEGATIVES: dict[str, Kind] = {"neg_text": "texts", "neg_image_path": "images"}

Tables = Sequence[Path]
Folders = tuple[Path, ...]


class MmebTrain:
    """The pairs of one table, or of all tables of a folder (those in its `train/`, if there are any), in file order.

    A folder may also be a snapshot of MMEB-train, or one subset of it: then `split` says which of its wordings is
    read (`original`, `diverse_instruction` or `train`), and `subsets` which subsets, in any spelling, by default all.

    Image paths are relative to the table's folder, to the one above `train/`, or to the snapshot; see
    `find_mmeb_images`. All rows are checked when read: bad ones go to `on_bad` and are left out. `limit` takes the
    first good rows of each table that `keep` is true for. `groups` is the number of pairs of each table. Shards of one
    subset are one table.

    Raises:
        DataError: E_DATA_COLUMN or E_DATA_TYPE before any row is read; FolderError E_DATA_FOLDER for several at once.
    """

    def __init__(
        self,
        path: Path,
        *,
        limit: int | None = None,
        on_bad: OnBad = fail,
        split: str = "original",
        subsets: Sequence[str] | None = None,
        keep: Keep | None = None,
    ) -> None:
        tables = _find(path, split, subsets)
        _check(path, [shard for shards, _ in tables for shard in shards])
        # Tables of one set share its images, which are listed once.
        finders = {folders: find_mmeb_images(folders) for _, folders in tables}
        groups = [
            read_pairs(shards, folders, limit=limit, on_bad=on_bad, keep=keep, find=finders[folders])
            for shards, folders in tables
        ]
        self._pairs = [pair for group in groups for pair in group]
        self.groups = tuple(map(len, groups))

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:
        return self._pairs[index]


def read_pairs(
    shards: Tables,
    folders: Folders,
    *,
    limit: int | None = None,
    on_bad: OnBad = fail,
    keep: Keep | None = None,
    find: Callable[[str], ImageSource] | None = None,
) -> list[Pair]:
    """Returns the pairs of one table, in its shards' order, whose images lie in the folders; see `MmebTrain`.

    `find` is what `find_mmeb_images` returned for the folders, if that is known; for the others see `read_each`.
    """
    make = partial(_read_pair, find or find_mmeb_images(folders))
    return read_each(shards, tuple(_COLUMNS), tuple(_NEGATIVES), make, limit=limit, on_bad=on_bad, keep=keep)


def _read_pair(find: Callable[[str], ImageSource], row: dict[str, Any], where: str) -> Pair:
    texts, images = read_texts(row.get("neg_text"), where), read_images(row.get("neg_image_path"), where)
    return Pair(
        query=read_side(row["qry"], row["qry_image_path"], find, where),
        target=read_side(row["pos_text"], row["pos_image_path"], find, where),
        negatives=tuple(
            read_side(text, image, find, where) for text, image in pair_up(texts, images, where) if text or image
        ),
    )


def _check_nothing_is_chosen(path: Path, split: str, names: Sequence[str] | None) -> None:
    """Raises where subsets or a wording are asked of what has none."""
    wordings = {"original", "train", split_of(path)}
    asked = "subsets" if names is not None else "split" if split not in wordings else None
    if asked is not None:
        what = "a table" if path.is_file() else "one folder of tables, all of which are read"
        raise DataError("E_DATA_SUBSET", f"{asked} has no effect on {what}", where=str(path))


def _find(path: Path, split: str, names: Sequence[str] | None) -> list[tuple[Tables, Folders]]:
    """The tables with the folders of their images; each entry is the shards of one."""
    tables = find_tables(path / "train") if path.is_dir() else [path]
    if tables and path.exists():
        _check_nothing_is_chosen(path, split, names)
    if not tables:
        try:
            found = choose(find_subsets(path, split), names, path)
        except DataError as error:
            tables = find_tables(path)
            # Shards of another split are the same rows in other words than were asked for.
            others = any(split_of(table) not in (None, split) for table in tables)
            if error.code != "E_DATA_FILE" or not tables or others:
                raise
            _check_nothing_is_chosen(path, split, names)
        else:
            return [(subset.tables, subset.image_folders) for subset in found]
    return [([table], (image_folder(table),)) for table in tables]


def _check(path: Path, tables: Sequence[Path]) -> None:
    problems: list[CocoaError] = []
    for table in tables:
        try:
            check_columns(table, _COLUMNS | _NEGATIVES, optional=tuple(_NEGATIVES))
        except CocoaError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    raise_all(problems, path)
