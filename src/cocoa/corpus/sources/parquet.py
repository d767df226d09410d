"""Rows of a Parquet file, read by a process of its own that a hostile file may exhaust or kill."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, ClassVar

import pyarrow as pa

from cocoa.corpus.sources.source import MAX_COLUMNS, Part, Raw, Stamp, Tally
from cocoa.errors import DataError

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
_KINDS = {
    "string": "string",
    "bool": "bool",
    "float": "float",
    "double": "float",
    "halffloat": "float",
    **dict.fromkeys(_INTEGERS, "int"),
}
_IDS = ("string", "uint64", *_INTEGERS)
_BYTES = ("binary", "struct<bytes: binary, path: string>")
_TEXTS = {"text": ("string",), "image": ("string", *_BYTES)}
_LONGEST_FRAME = 1 << 29
_BATCH = 64
_BATCH_OF_BYTES = 16
_BATCH_OF_IDS = 4096
"""Rows that are read together: few, because any of them may be long."""


class _FailedError(Exception):
    """The file could not be read, and why."""

    def of(self, where: str) -> DataError:
        return DataError("E_DATA_READ", f"the Parquet file cannot be read: {self}", where=where)


class ParquetReader:
    """The process that reads, started when it is needed and again when a file has killed it; for `with`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ParquetReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        if self._process is None:
            return
        assert self._process.stdin and self._process.stdout
        self._process.kill()
        self._process.stdout.close()
        with suppress(BrokenPipeError):  # Something was left to be written to a process that is gone.
            self._process.stdin.close()
        self._process.wait()
        self._process = None

    def describe(self, path: Path) -> dict[str, Any]:
        """Returns the rows and columns of a file. Raises DataError E_DATA_READ or E_DATA_TOO_LARGE."""
        try:
            [(_, content)] = self._ask({"path": str(path)})
        except _FailedError as error:
            raise error.of(str(path)) from error
        found: dict[str, Any] = json.loads(content)
        return found

    def batches(
        self, path: Path, columns: Sequence[str], first: int, rows: int, batch: int = _BATCH
    ) -> Iterator[pa.RecordBatch]:
        """Yields rows from number `first` (of the file, from 0) on. Raises as `describe`, naming the row."""
        request = {"path": str(path), "columns": list(columns), "first": first, "rows": rows, "batch": batch}
        row = first
        try:
            for kind, content in self._ask(request):
                if kind == b"B":
                    with pa.ipc.open_stream(content) as stream:
                        for part in stream:
                            yield part
                            row += len(part)
        except _FailedError as error:
            raise error.of(f"{path}:{row + 1}") from error

    def _ask(self, request: dict[str, Any]) -> Iterator[tuple[bytes, bytes]]:
        process = self._start()
        assert process.stdin and process.stdout
        is_whole = False
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            while not is_whole:
                kind, content = _frame(process.stdout)
                is_whole = kind != b"B"
                if kind == b"E":
                    raise _FailedError(content.decode())
                yield kind, content
        except (EOFError, BrokenPipeError) as error:
            raise _FailedError("it took the memory or the time that reading may take") from error
        finally:
            # An answer that nobody has heard to its end would be taken for that of the next request.
            if not is_whole:
                self.close()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cocoa.corpus.sources.parquet_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process


def _frame(stream: IO[bytes]) -> tuple[bytes, bytes]:
    head = stream.read(9)
    length = int.from_bytes(head[1:], "little")
    if len(head) < 9 or length > _LONGEST_FRAME:
        raise EOFError
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return head[:1], content


@dataclass(frozen=True)
class Parquet:
    """A Parquet file; rows are numbered from 1."""

    path: Path
    stamp: Stamp
    reader: ParquetReader
    wanted: frozenset[str] | None = None
    """The columns that are read beside id, text and image; None: it is not known yet."""
    named: ClassVar[bool] = False

    def scan(self, tally: Tally) -> None:
        """Tells of every row, reading no column but the ids."""
        found = self.reader.describe(self.path)
        columns = self._checked(found["columns"])
        for name, kind in columns.items():
            # A column without a single value says nothing of what it holds in other files.
            if kind != "null" or name in _TEXTS:
                tally.column(name, _KINDS.get(kind), str(self.path))
        if "id" not in columns:
            for number in range(1, found["rows"] + 1):
                tally.row(number, 0, 0)
            return
        number = 0
        for batch in self.reader.batches(self.path, ["id"], 0, found["rows"], _BATCH_OF_IDS):
            for [name] in _rows(batch):
                number += 1
                tally.row(number, 0, 0, name)
        self._check_count(number, found["rows"])

    def _checked(self, found: Sequence[tuple[str, str]]) -> dict[str, str]:
        if len(found) > MAX_COLUMNS:
            what = f"the table has {len(found)} columns, more than {MAX_COLUMNS}: leave out what is not needed"
            raise DataError("E_DATA_COLUMN", what, where=str(self.path))
        columns = dict(found)
        if len(columns) < len(found):
            raise DataError("E_DATA_COLUMN", "two columns have the same name", where=str(self.path))
        for name, kinds in _TEXTS.items():
            if name in columns and columns[name] not in (*kinds, "null"):
                what = f"column {name!r} holds {columns[name][:100]}, not {' or '.join(kinds)}"
                raise DataError("E_DATA_TYPE", what, where=str(self.path))
        if "id" in columns and columns["id"] not in _IDS:
            what = f"column 'id' holds {columns['id'][:100]}, not strings or integers"
            raise DataError("E_DATA_TYPE", what, where=str(self.path))
        return columns

    def _check_count(self, rows: int, told: int) -> None:
        if rows != told:
            raise DataError(
                "E_DATA_READ", f"row {rows + 1} is missing: the footer tells of {told} or more", where=str(self.path)
            )

    def read(self, part: Part) -> Iterator[Raw]:
        """Yields the rows of a part."""
        self.stamp.check(self.path)
        columns = self._checked(self.reader.describe(self.path)["columns"])
        names = [name for name in columns if name in _TEXTS or name == "id" or name in (self.wanted or ())]
        size = _BATCH_OF_BYTES if columns.get("image") in _BYTES else _BATCH
        if not names:  # Of no column there are no rows to read, but the file has them.
            yield from (Raw(f"{self.path}:{number}", number) for number in range(part.first, part.first + part.rows))
            return
        number = part.first - 1
        for batch in self.reader.batches(self.path, names, number, part.rows, size):
            for values in _rows(batch):
                number += 1
                yield Raw(f"{self.path}:{number}", number, dict(zip(names, values, strict=True)))
        self._check_count(number, part.first + part.rows - 1)
        self.stamp.check(self.path)


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """The rows of a batch. A value that stands in a dictionary becomes one object, however many rows have it."""
    return zip(*(_values(column) for column in batch.columns), strict=True)


def _values(column: pa.Array) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        words = _decoded(column.dictionary)
        return [None if place is None else words[place] for place in column.indices.to_pylist()]
    if pa.types.is_struct(column.type):
        fields = [_values(column.field(number)) for number in range(column.type.num_fields)]
        names = [column.type.field(number).name for number in range(column.type.num_fields)]
        valid = column.is_valid().to_pylist()
        return [
            dict(zip(names, values, strict=True)) if there else None
            for there, *values in zip(valid, *fields, strict=True)
        ]
    return _decoded(column)


def _decoded(column: pa.Array) -> list[Any]:
    """The values of a column; one that is no UTF-8 stays bytes, so that only its row is a bad one."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_text(value) for value in column.cast(pa.binary()).to_pylist()]


def _text(value: bytes | None) -> str | bytes | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return value
