"""Reads Parquet in a process that may use little memory: a file of a kilobyte can unpack to gigabytes, or kill.

Requests come as lines of JSON, `{"path"}` or `{"path", "columns", "first", "rows", "batch"}`. Answers are frames: a
letter, the length (8 bytes, little-endian), the content. `S` is the schema as JSON, `B` a batch of rows as an Arrow
stream, `D` the end, `E` an error in words. Little but pyarrow is imported here, and Arrow's memory comes from malloc,
so that the limit of the process holds for all of it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"

import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_ROOM = 400 << 20
"""Bytes that reading may take beyond what the process has at its start."""
_SECONDS = 60
"""CPU time between two batches."""
_PICTURE = {"bytes": "binary", "path": "string"}
"""The fields of a picture in the tables of Hugging Face."""


class Table:
    """An open file and the place up to which it has been read: parts that follow each other are read in one go."""

    def __init__(self, path: str, columns: Sequence[str], batch: int) -> None:
        self.key = (path, tuple(columns), batch)
        with pq.ParquetFile(path) as file:
            leaves = [file.schema.column(number) for number in range(len(file.schema))]
        # Words that stand in a dictionary are unpacked once, not once a row.
        told_once = [
            leaf.path
            for leaf in leaves
            if leaf.physical_type == "BYTE_ARRAY" and leaf.path.split(".")[0] in columns and ".list." not in leaf.path
        ]
        # Read in small pieces: a column of a row group may be larger than the memory.
        self.file = pq.ParquetFile(path, read_dictionary=told_once, buffer_size=1 << 16, pre_buffer=False)
        self.columns = list(columns)
        self.batch = batch
        self.groups = [self.file.metadata.row_group(number).num_rows for number in range(self.file.num_row_groups)]
        self.place = 0
        self._held: pa.RecordBatch | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._start(0)

    def group_of(self, row: int) -> tuple[int, int]:
        """Returns the number of the row group that has a row, and the group's first row."""
        start = 0
        for number, rows in enumerate(self.groups):
            if row < start + rows:
                return number, start
            start += rows
        return len(self.groups), start

    def _start(self, group: int) -> None:
        self.place = sum(self.groups[:group])
        self._held = None
        self._batches = self.file.iter_batches(
            self.batch,
            row_groups=list(range(group, len(self.groups))),
            columns=self.columns,
            use_threads=False,
        )

    def read(self, first: int, rows: int) -> Iterator[pa.RecordBatch]:
        """Yields `rows` rows from number `first` on; fewer if the file ends."""
        group, start = self.group_of(first)
        if first < self.place or start > self.place:
            self._start(group)
        while rows > 0:
            batch = self._held if self._held is not None else next(self._batches, None)
            self._held = None
            if batch is None:
                return
            skipped = min(max(0, first - self.place), len(batch))
            taken = min(rows, len(batch) - skipped)
            self.place += skipped + taken
            if skipped + taken < len(batch):
                self._held = batch.slice(skipped + taken)
            if taken:
                rows -= taken
                yield batch.slice(skipped, taken)
            else:
                limit_time()

    def close(self) -> None:
        self.file.close()


def _tightened(column: pa.Array) -> pa.Array:
    """The same values; a dictionary of a whole row group is cut to what the few rows of a batch name."""
    if not pa.types.is_dictionary(column.type) or len(column.dictionary) <= len(column):
        return column
    named = pc.unique(column.indices.drop_null())
    places = pc.index_in(column.indices, named)
    return pa.DictionaryArray.from_arrays(places, column.dictionary.take(named))


def describe(path: str) -> dict[str, Any]:
    """Returns the number of rows and the columns with what they hold in Arrow's words, as the footer says."""
    with pq.ParquetFile(path) as file:
        fields = [[field.name, _said(field.type)] for field in file.schema_arrow]
        return {"rows": file.metadata.num_rows, "columns": fields}


def _said(kind: pa.DataType) -> str:
    """Arrow's word for a type, the same however the values are kept: large, as a view, or each once in a dictionary."""
    if pa.types.is_dictionary(kind):
        return _said(kind.value_type)
    if pa.types.is_struct(kind) and {field.name for field in kind} == set(_PICTURE):
        held = {field.name: _said(field.type) for field in kind}
        # A field without a single value has no type: it may be the one that is wanted.
        words = [f"{name}: {word if held[name] == 'null' else held[name]}" for name, word in _PICTURE.items()]
        return f"struct<{', '.join(words)}>"
    return str(kind).removeprefix("large_").removesuffix("_view")


def limit_time() -> None:
    """Gives this process its time for the next batch; the kernel ends it if it takes more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + _SECONDS, hard))


def _send(stream: BinaryIO, kind: bytes, content: bytes | pa.Buffer) -> None:
    stream.write(kind + len(content).to_bytes(8, "little"))
    stream.write(content)
    stream.flush()
    limit_time()


def _answer(request: dict[str, Any], table: Table | None, stream: BinaryIO) -> Table | None:
    if "columns" not in request:
        _send(stream, b"S", json.dumps(describe(request["path"])).encode())
        return table
    key = (request["path"], tuple(request["columns"]), request["batch"])
    if table is None or table.key != key:
        if table is not None:
            table.close()
        table = Table(*key)
    try:
        for batch in table.read(request["first"], request["rows"]):
            # Asked for `a.b`, Arrow gives the column of that name and the field b of a column a.
            named = batch.select(request["columns"])
            batch = pa.record_batch([_tightened(column) for column in named.columns], names=named.schema.names)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            _send(stream, b"B", sink.getvalue())
    except (OSError, ValueError, KeyError, MemoryError, pa.ArrowException) as error:
        group, _ = table.group_of(table.place)
        table.close()
        _send(stream, b"E", f"row group {group}: {_reason(error)}".encode())
        return None
    _send(stream, b"D", b"")
    return table


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "it takes more memory than reading may take"
    # Arrow's words may quote the file at length.
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def main() -> None:
    """Answers requests until there are no more."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    size = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (size + _ROOM, size + _ROOM))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit_time()
    table: Table | None = None
    for line in sys.stdin.buffer:
        try:
            table = _answer(json.loads(line), table, sys.stdout.buffer)
        except (OSError, ValueError, KeyError, MemoryError, pa.ArrowException) as error:
            table = None
            _send(sys.stdout.buffer, b"E", _reason(error).encode())


if __name__ == "__main__":
    main()
