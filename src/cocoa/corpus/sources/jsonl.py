"""Rows of a jsonl file, one object a line; a line that is none is a bad row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from cocoa.corpus.sources.source import Part, Raw, Stamp, Tally, kind_of
from cocoa.data.tables import read_lines
from cocoa.errors import DataError


@dataclass(frozen=True)
class JsonLines:
    """A jsonl file; the number of a row is its line."""

    path: Path
    stamp: Stamp
    named: ClassVar[bool] = False

    def scan(self, tally: Tally) -> None:
        """Tells of every line that is not blank."""
        with self.path.open("rb") as file:
            for number, offset, content in read_lines(file, self.path):
                fields = content if isinstance(content, dict) else {}
                for name, value in fields.items():
                    if value is not None:
                        tally.column(name, kind_of(value), f"{self.path}:{number}")
                tally.row(number, offset, file.tell() - offset, fields.get("id"))

    def read(self, part: Part) -> Iterator[Raw]:
        """Yields the rows of a part."""
        self.stamp.check(self.path)
        with self.path.open("rb") as file:
            file.seek(part.offset)
            for number, _, content in islice(read_lines(file, self.path, part.first), part.rows):
                yield self._raw(number, content)
        self.stamp.check(self.path)

    def _raw(self, number: int, content: Any) -> Raw:
        where = f"{self.path}:{number}"
        if isinstance(content, dict):
            return Raw(where, number, content)
        if not isinstance(content, DataError):
            content = DataError("E_DATA_READ", "the row is not an object", where=where)
        return Raw(where, number, error=content)
