"""Parquet and jsonl files that are damaged, that explode, or whose rows are odd; columns `id`, `text`, `image`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bad_input import BadInput


def table(
    name: str, suffix: str, fill: Callable[[Path], object], code: str | None = None, *, or_accepted: bool = False
) -> BadInput:
    """A case whose file is written by `fill(path)`."""

    def make(folder: Path) -> Path:
        path = folder / f"{name}.{suffix}"
        fill(path)
        return path

    return BadInput(name, "table", make, code, or_accepted=or_accepted)


def columns(**values: Any) -> Callable[[Path], object]:
    return lambda path: pq.write_table(pa.table(values), path)


def lines(*rows: Any, ending: str = "\n", start: str = "") -> Callable[[Path], object]:
    text = start + "".join(json.dumps(row) + ending for row in rows)
    return lambda path: path.write_bytes(text.encode("utf-8", "surrogatepass"))


def one_value_bomb(path: Path) -> None:
    """Under a kilobyte that unpacks to 900 texts of a megabyte: one dictionary entry, told 900 times."""
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 900, pa.int32()), pa.array(["a" * 1_000_000]))
    pq.write_table(pa.table({"text": words.cast(pa.string())}), path, compression="zstd", use_dictionary=True)


def too_many_values(path: Path) -> None:
    """A page header that says it has many more values than it has."""
    pq.write_table(pa.table({"text": ["a", "b"]}), path, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    # In the page header the number of values (2, written 04) follows the field marker 15.
    place = data.index(b"\x2c\x15\x04")
    data[place + 2] = 0x7E
    path.write_bytes(data)


def deep_nesting(path: Path) -> None:
    value: Any = pa.array(["a"])
    for _ in range(100):
        value = pa.StructArray.from_arrays([value], ["a"])
    pq.write_table(pa.table({"text": value}), path)


def cut_footer(path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), path)
    path.write_bytes(path.read_bytes()[:-6])


def long_line(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b'{"id": "1", "text": "')
        for _ in range(100):
            file.write(b"a" * 1_000_000)
        file.write(b'"}\n')


def wrong_bytes(path: Path) -> None:
    path.write_bytes(b'{"id": "1", "text": "a \xff cat"}\n')


def deep_line(path: Path) -> None:
    path.write_bytes(b'{"text": ' + b"[" * 10_000 + b"]" * 10_000 + b"}\n")


def many_columns(path: Path) -> None:
    """Ten thousand columns; a million take minutes to write."""
    pq.write_table(pa.table({f"c{number}": [1] for number in range(10_000)}), path)


TABLES = [
    table("bomb", "parquet", one_value_bomb, "E_DATA_", or_accepted=True),
    table("forged-number-of-values", "parquet", too_many_values, "E_DATA_"),
    table("many-columns", "parquet", many_columns, "E_DATA_COLUMN"),
    table("deep-nesting", "parquet", deep_nesting, "E_DATA_"),
    table("footer-cut", "parquet", cut_footer, "E_DATA_READ"),
    table("wrong-magic", "parquet", lambda path: path.write_bytes(b"PAR2" + bytes(100) + b"PAR2"), "E_DATA_READ"),
    table("empty-file", "parquet", lambda path: path.write_bytes(b""), "E_DATA_READ"),
    table("no-rows", "parquet", columns(text=pa.array([], pa.string())), "E_DATA_EMPTY"),
    table("text-is-a-number", "parquet", columns(text=[1, 2]), "E_DATA_TYPE"),
    table("null-id", "parquet", columns(id=["a", None], text=["a", "b"]), "E_DATA_", or_accepted=True),
    table("same-id-twice", "parquet", columns(id=["a", "a"], text=["a", "b"]), "E_DATA_ID"),
    table("long-id", "parquet", columns(id=["a" * 1025], text=["a"]), "E_DATA_ID", or_accepted=True),
    table("nothing-in-a-row", "parquet", columns(id=["a", "b"], text=["a", None]), "E_DATA_EMPTY"),
    table("mixed-types", "jsonl", lines({"id": "1", "text": "a"}, {"id": "2", "text": 5}), "E_DATA_TYPE"),
    table(
        "mixed-id-types", "jsonl", lines({"id": "1", "text": "a"}, {"id": 2, "text": "b"}), "E_DATA_", or_accepted=True
    ),
    table("text-missing", "jsonl", lines({"id": "1", "text": "a"}, {"id": "2"}), "E_DATA_"),
    table("not-utf-8", "jsonl", wrong_bytes, "E_DATA_"),
    table("lone-surrogate", "jsonl", lines({"id": "1", "text": "a\ud800b"}), "E_DATA_"),
    table("byte-order-mark", "jsonl", lines({"id": "1", "text": "a"}, start="\ufeff")),
    table("windows-lines", "jsonl", lines({"id": "1", "text": "a"}, {"id": "2", "text": "b"}, ending="\r\n")),
    table("line-of-100-megabytes", "jsonl", long_line, "E_DATA_"),
    table("line-is-a-list", "jsonl", lines([1, 2]), "E_DATA_"),
    table("line-cut-short", "jsonl", lambda path: path.write_bytes(b'{"id": "1", "te'), "E_DATA_"),
    table("depth-10000", "jsonl", deep_line, "E_DATA_"),
]
