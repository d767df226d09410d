"""What tables hold that training never reads: columns, and names of pictures that are not there."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from cocoa.checking.findings import Example, Finding, Shown, find, table_of
from cocoa.checking.rows import ReadSource
from cocoa.data.tables import _read_json, _read_jsonl, number_rows
from cocoa.errors import CocoaError

_PLACEHOLDER = re.compile(r"<\|image_\d+\|>")


@dataclass(frozen=True, slots=True)
class _Read:
    """The columns that a kind of source reads; of `either` the first that a row has; texts with their pictures."""

    columns: tuple[str, ...]
    either: tuple[str, ...] = ()
    named: tuple[tuple[str, str], ...] = ()


_READ = {
    "image_text_pairs": _Read(("image_path",), ("text", "caption")),
    "mmeb_train": _Read(
        ("qry", "qry_image_path", "pos_text", "pos_image_path", "neg_text", "neg_image_path"),
        named=(("qry", "qry_image_path"), ("pos_text", "pos_image_path")),
    ),
}


def column_findings(sources: Sequence[ReadSource], stages: Sequence[str]) -> list[Finding]:
    """Returns the columns that no option reads, and the rows that name a picture without having one."""
    unread: list[Example] = []
    stray: list[Example] = []
    for source in sources:
        read = _READ.get(source.source.kind)
        if read is None:
            continue
        for table in dict.fromkeys(table_of(row.where) for row in source.rows):
            try:
                unread += [Example(table, f"column {name!r}") for name in _unread(Path(table), read)]
            except CocoaError:  # It was read a moment ago: what is wrong now is said where rows are.
                continue
            stray += _strays(Path(table), read)
    return [*find("UNUSED_COLUMN", unread, stages), *find("STRAY_PLACEHOLDER", stray, stages)]


def _unread(table: Path, read: _Read) -> list[str]:
    """The columns of a table that are read of none of its rows."""
    present: dict[str, None] = {}
    used = {*read.columns}
    for names in _names(table):
        present |= dict.fromkeys(names)
        used.update([name for name in read.either if name in names][:1])
    return [name for name in present if name not in used]


def _names(table: Path) -> Iterator[Collection[str]]:
    """The columns of each row; Parquet has the same in all, which come once."""
    if table.suffix == ".parquet":
        yield pq.read_schema(table).names
        return
    rows = _read_jsonl(table, _ignore) if table.suffix == ".jsonl" else _read_json(table)
    yield from (row for _, row in rows if isinstance(row, dict))


def _strays(table: Path, read: _Read) -> Iterator[Example]:
    for text, picture in read.named:
        for number, row in number_rows(table, (), (text, picture), _ignore):
            said = row.get(text)
            if isinstance(said, str) and not row.get(picture) and _PLACEHOLDER.search(said):
                where = f"{table}:{number}"
                yield Example(
                    where,
                    f"{text} names a picture, {picture} is empty",
                    (Shown(text, where, said.encode("utf-8", "replace").decode()),),
                )


def _ignore(error: CocoaError) -> None:
    """Bad rows are listed where they are read."""
