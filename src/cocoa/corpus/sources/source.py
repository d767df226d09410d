"""What every kind of input can do: be scanned once for a plan, and give out the rows of a part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from cocoa.errors import CocoaError, DataError

LONGEST_ROW = 1 << 18
"""Bytes that the text and the kept columns of a row may have together: far more than any model reads."""
MAX_COLUMNS = 1000


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file as the plan saw it: its name in the input, its size in bytes, and when it was modified (ns)."""

    name: str
    bytes: int
    modified: int

    @classmethod
    def of(cls, path: Path, name: str) -> Stamp:
        """Returns the stamp of a file as it is now."""
        status = path.stat()
        return cls(name, status.st_size, status.st_mtime_ns)

    def check(self, path: Path) -> None:
        """Raises `E_SHARD_CHANGED` if the file is not as it was."""
        try:
            now: Stamp | None = Stamp.of(path, self.name)
        except OSError:
            now = None
        if now != self:
            raise changed(path, "is gone" if now is None else "has changed")


def changed(path: Path, what: str) -> DataError:
    """Returns the error of an input that is not what the job was begun with."""
    return DataError(
        "E_SHARD_CHANGED",
        f"the file {what} since this job was begun: put it back as it was, or embed into another folder",
        where=str(path),
    )


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one shard: `rows` of them from row number `first` of a file on; the first begins at byte `offset`."""

    file: int
    first: int
    rows: int
    offset: int


@dataclass(frozen=True, slots=True)
class Raw:
    """A row as it stands in a file: its place, and its fields, or why it has none.

    Of the fields, `id`, `text` and `image` are what a document is made of. A picture is a path beside the table, the
    bytes of a file, or `{"bytes", "path"}`; `place` says where the picture is if the fields do not.
    """

    where: str
    number: int
    fields: dict[str, Any] = field(default_factory=dict)
    error: CocoaError | None = None
    place: str = ""


class Tally(Protocol):
    """What a scan tells."""

    def row(self, number: int, offset: int, size: int, name: Any = None) -> None:
        """A row: its number, the byte where it begins, about how many bytes of text it has, its id if it has one."""

    def column(self, name: str, kind: str | None, where: str) -> None:
        """A column and what it holds; None for what cannot be kept."""


class Source(Protocol):
    """A file of the input, or a folder of pictures."""

    named: ClassVar[bool]
    """Whether every row has an id of its own, whatever its columns say."""

    def scan(self, tally: Tally) -> None:
        """Tells of every row and column, without holding them."""

    def read(self, part: Part) -> Iterator[Raw]:
        """Yields the rows of a part; raises `E_SHARD_CHANGED` if the file is not as it was when it was scanned."""


def kind_of(value: Any) -> str | None:
    """Returns the kind of a scalar as the card names it; None for what no column can hold."""
    match value:
        case bool():
            return "bool"
        case int():
            return "int" if -(2**63) <= value < 2**63 else None
        case float():
            return "float"
        case str():
            return "string"
    return None
