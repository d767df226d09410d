"""What a look at every row of an input finds: where shards begin, which columns can be kept, which ids repeat."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cocoa.corpus.documents import row_id
from cocoa.corpus.embeddings import RESERVED
from cocoa.corpus.sources.source import MAX_COLUMNS, Part
from cocoa.errors import DataError

_SHARD_BYTES = 1 << 26
"""Bytes of text after which a shard ends, however few its rows."""
_MAX_SHARDS = 200_000
_MAX_REPEATS = 100_000
_LONGEST_NAME = 200
_OTHER_NAMES = {"image_path": "image", "file_name": "image", "caption": "text"}
"""What the tables of training, and the hub's folders of pictures, call the columns that a document is made of."""


class RowTally:
    """Told of rows and columns by the scan of one file after the other."""

    def __init__(self, shard_rows: int) -> None:
        self._shard_rows = shard_rows
        self._file = -1
        self._bytes = 0
        self._starts: list[tuple[int, int, int]] = []
        self._counts: list[int] = []
        self._kinds: dict[str, str] = {}
        self._first: dict[str, str] = {}
        self._dropped: dict[str, str] = {}
        self._hashes = array("Q")
        self._numbers = array("Q")
        self.rows = 0
        self.seen: set[str] = set()
        """Which of id, text and image any row has."""

    def begin_file(self) -> None:
        """What is told from now on is of the next file."""
        self._file += 1

    def row(self, number: int, offset: int, size: int, name: Any = None) -> None:
        """Counts a row."""
        is_full = not self._counts or self._counts[-1] == self._shard_rows or self._bytes > _SHARD_BYTES
        if is_full or self._starts[-1][0] != self._file:
            if len(self._counts) == _MAX_SHARDS:
                what = f"the input makes more than {_MAX_SHARDS} shards: give larger ones (--shard-rows)"
                raise DataError("E_DATA_TOO_LONG", what)
            self._starts.append((self._file, number, offset))
            self._counts.append(0)
            self._bytes = 0
        self._counts[-1] += 1
        self._bytes += size
        self.rows += 1
        self._note_id(number, name)

    @property
    def parts(self) -> list[Part]:
        """The parts that the rows so far make."""
        starts = zip(self._starts, self._counts, strict=True)
        return [Part(file, first, rows, offset) for (file, first, offset), rows in starts]

    def _note_id(self, number: int, name: Any) -> None:
        """Keeps 16 bytes of a row: a digest of its id, and its number. A row without an id repeats no other."""
        if name is None and "id" not in self.seen:
            return
        if not self._hashes:  # Rows before the first that has an id.
            self._hashes.extend(range(self.rows - 1))
            self._numbers.extend([0] * (self.rows - 1))
        try:
            digest = hashlib.blake2b(row_id(name).encode(), digest_size=8).digest()
        except DataError:  # Said of the row when it is read.
            digest = hashlib.blake2b(b"\0" + str(self.rows).encode(), digest_size=8).digest()
        self._hashes.append(int.from_bytes(digest, "little"))
        self._numbers.append(number)
        self.seen.add("id")

    def column(self, name: str, kind: str | None, where: str) -> None:
        """Notes what a column holds."""
        if name in RESERVED:
            self.seen.add(name)
            if name == "vector":
                self._dropped[name] = "column 'vector' is not kept: that is what the vectors made here are called"
            return
        if name in self._dropped:
            return
        known = self._kinds.get(name)
        if known == kind and kind is not None:
            return
        if len(self._kinds) + len(self._dropped) >= MAX_COLUMNS and known is None:
            raise DataError("E_DATA_COLUMN", f"rows have more than {MAX_COLUMNS} columns", where=where)
        if len(name) > _LONGEST_NAME or not name.isprintable():
            self._dropped[name] = f"column {name[:20]!r} is not kept: {where} gives it no name that a table can have"
        elif kind is None:
            what = "neither text, nor true or false, nor a number (whole ones from -2^63 to 2^63 - 1)"
            self._drop(name, f"column {name!r} is not kept: {where} has in it {what}")
        elif known is None:
            self._kinds[name], self._first[name] = kind, where
        elif {known, kind} == {"int", "float"}:
            self._kinds[name] = "float"
        else:
            self._drop(name, f"column {name!r} is not kept: {known} in {self._first[name]}, {kind} in {where}")

    def _drop(self, name: str, why: str) -> None:
        self._kinds.pop(name, None)
        self._dropped[name] = why

    def columns(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """Returns the columns that can be kept, by name, with what they hold; and notes: why others are not, and which
        are named as elsewhere, so that they are kept and not embedded."""
        return dict(sorted(self._kinds.items())), (*self._dropped.values(), *self.misnamed())

    def misnamed(self) -> list[str]:
        """Returns a note on each column that is named as elsewhere and that no row has by its name here."""
        return [
            f"column {name!r} is kept but not embedded: `cocoa embed` reads {wanted!r}; rename it if it is meant"
            for name, wanted in _OTHER_NAMES.items()
            if name in self._kinds and wanted not in self.seen
        ]

    def repeats(self, files: Sequence[Path]) -> dict[int, dict[int, str]]:
        """Returns for each shard its rows (counted from 0) whose id stood before, with where.

        Raises `E_DATA_ID` where they are so many that the column holds no ids.
        """
        hashes = np.frombuffer(self._hashes, np.uint64) if self._hashes else np.zeros(0, np.uint64)
        order = np.argsort(hashes, kind="stable")
        is_repeat = np.zeros(len(hashes), bool)
        is_repeat[1:] = hashes[order][1:] == hashes[order][:-1]
        if is_repeat.sum() > _MAX_REPEATS:
            what = f"{int(is_repeat.sum())} rows repeat an id: is it one? Rename the column and rows get their numbers"
            raise DataError("E_DATA_ID", what)
        starts = np.cumsum([0, *self._counts]).tolist()
        found: dict[int, dict[int, str]] = {}
        firsts = np.maximum.accumulate(np.where(is_repeat, 0, np.arange(len(hashes))))
        for place in np.flatnonzero(is_repeat).tolist():
            row, first = int(order[place]), int(order[firsts[place]])
            shard = bisect_right(starts, row) - 1
            file = files[self._starts[bisect_right(starts, first) - 1][0]]
            found.setdefault(shard, {})[row - starts[shard]] = f"{file}:{self._numbers[first]}"
        return found
