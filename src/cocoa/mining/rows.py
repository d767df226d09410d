"""The rows of training tables, as samples and as their files have them, and the tables with negatives put in."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cocoa.data.bad_rows import OnBad
from cocoa.data.mmeb_folders import split_of
from cocoa.data.mmeb_side import ImageCell, pair_up, read_image, read_images, read_text, read_texts
from cocoa.data.mmeb_train import MmebTrain
from cocoa.data.tables import number_rows
from cocoa.errors import CocoaError, DataError
from cocoa.images import ImageSource
from cocoa.sample import Pair

Cells = tuple[str, ImageCell]
"""Text and picture of one side, as a file has them."""

_COLUMNS = ("qry_image_path", "pos_text", "pos_image_path")
_NEGATIVES = ("neg_text", "neg_image_path")


@dataclass(frozen=True, slots=True)
class Row:
    """A pair, where it stands, and what its file has for its pictures, its target and its negatives."""

    pair: Pair
    path: Path
    number: int
    query_image: ImageCell
    target: Cells
    negatives: tuple[Cells, ...]

    @property
    def holds_bytes(self) -> bool:
        """Whether its file has a picture itself, not the path of one."""
        cells = (self.query_image, self.target[1], *(image for _, image in self.negatives))
        return any(isinstance(cell, bytes) for cell in cells)

    def pictures(self, *, negatives: bool) -> Iterable[tuple[str, ImageSource]]:
        """Yields each picture that the row has by name, and its source."""
        sides = [(self.query_image, self.pair.query), (self.target[1], self.pair.target)]
        if negatives:
            sides += [(cells[1], sample) for cells, sample in zip(self.negatives, self.pair.negatives, strict=True)]
        for cell, sample in sides:
            if isinstance(cell, str) and cell:
                yield cell, sample.images[0]


@dataclass(frozen=True, slots=True)
class Table:
    """The good rows of one table, all its shards together, in file order."""

    name: str
    rows: list[Row]

    @property
    def paths(self) -> list[Path]:
        """The files with its rows, in order."""
        return list(dict.fromkeys(row.path for row in self.rows))

    @property
    def file_name(self) -> str:
        """What its file is called when it is written again: Parquet stays Parquet, the rest is JSON lines."""
        return f"{self.name}.parquet" if all(path.suffix == ".parquet" for path in self.paths) else f"{self.name}.jsonl"


def read_tables(
    train: Path, *, split: str, subsets: Sequence[str] | None, limit: int | None, on_bad: OnBad
) -> list[Table]:
    """Returns the tables that `MmebTrain` reads, which has checked them; raises what it raises."""
    pairs = MmebTrain(train, limit=limit, on_bad=on_bad, split=split, subsets=subsets)
    tables: dict[str, Table] = {}
    start = 0
    for size in pairs.groups:
        rows = _rows([pairs[number] for number in range(start, start + size)])
        start += size
        path = rows[0].path
        name = path.absolute().parent.name if split_of(path) else path.stem
        if name in tables:
            message = f"two tables are called {name!r}, the other is {tables[name].paths[0]}; mine them apart"
            raise DataError("E_DATA_TASK", message, where=str(path))
        tables[name] = Table(name, rows)
    return list(tables.values())


def check_written(tables: Sequence[Table], *, shared: bool) -> None:
    """Returns if each table can be written with negatives from its own targets, or from all of them if `shared`.

    Raises:
        DataError: E_DATA_TYPE for a picture in bytes that would have to go into JSON.
    """
    targets = [row for table in tables for row in table.rows if isinstance(row.target[1], bytes)] if shared else []
    for table in tables:
        if table.file_name.endswith(".parquet"):
            continue
        held = next(chain((row for row in table.rows if row.holds_bytes), targets), None)
        if held is not None:
            advice = "write that as Parquet too" + (", or take negatives from a table's own targets" if shared else "")
            message = f"the picture lies in the row itself, where {table.file_name} can only name one: {advice}"
            raise DataError("E_DATA_TYPE", message, where=held.pair.query.where)


def _rows(pairs: Sequence[Pair]) -> list[Row]:
    places = [pair.query.where.rpartition(":") for pair in pairs]
    cells = {
        path: dict(number_rows(Path(path), _COLUMNS, _NEGATIVES, _known))
        for path in dict.fromkeys(path for path, _, _ in places)
    }
    rows = []
    for pair, (path, _, number) in zip(pairs, places, strict=True):
        row, where = cells[path][int(number)], pair.query.where
        texts, images = read_texts(row.get("neg_text"), where), read_images(row.get("neg_image_path"), where)
        rows.append(
            Row(
                pair,
                Path(path),
                int(number),
                read_image(row["qry_image_path"], where),
                (read_text(row["pos_text"], where), read_image(row["pos_image_path"], where)),
                tuple(cell for cell in pair_up(texts, images, where) if any(cell)),
            )
        )
    return rows


def _known(_: CocoaError) -> None:
    """The reader has been told of the row before."""


def with_negatives(table: Table, rows: Sequence[Row], negatives: Sequence[Sequence[Cells]]) -> bytes:
    """Returns the file of a table with these of its rows, all their columns, and these negatives."""
    texts = [[text for text, _ in row] for row in negatives]
    images = [[image for _, image in row] for row in negatives]
    numbers: dict[Path, list[int]] = {}
    for row in rows:
        numbers.setdefault(row.path, []).append(row.number)
    if table.file_name.endswith(".parquet"):
        return _to_parquet(numbers, texts, images)
    lines = [line for path, wanted in numbers.items() for line in _json_rows(path, wanted)]
    filled = [
        line | {"neg_text": text, "neg_image_path": image}
        for line, text, image in zip(lines, texts, images, strict=True)
    ]
    return "".join(json.dumps(line) + "\n" for line in filled).encode()


def _to_parquet(
    numbers: dict[Path, list[int]], texts: Sequence[Sequence[str]], images: Sequence[Sequence[ImageCell]]
) -> bytes:
    parts = [_read_parquet(path).take([number - 1 for number in wanted]) for path, wanted in numbers.items()]
    table = pa.concat_tables(parts, promote_options="default")
    # `datasets` notes the types of columns there, and would refuse the new ones.
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != b"huggingface"}
    table = table.replace_schema_metadata(metadata or None)
    kept: Any = images
    kind = pa.string()
    if any(isinstance(image, bytes) for row in images for image in row):
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        kept = [[_record(image) for image in row] for row in images]
    for name, column in (
        ("neg_text", pa.array(texts, pa.list_(pa.string()))),
        ("neg_image_path", pa.array(kept, pa.list_(kind))),
    ):
        place = table.schema.get_field_index(name)
        table = table.append_column(name, column) if place < 0 else table.set_column(place, name, column)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=50_000)
    return buffer.getvalue()


def _read_parquet(path: Path) -> Any:
    with pq.ParquetFile(path) as file:
        return file.read()


def _record(image: ImageCell) -> dict[str, Any]:
    return {"bytes": image, "path": None} if isinstance(image, bytes) else {"bytes": None, "path": image}


def _json_rows(path: Path, numbers: Sequence[int]) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = _read_parquet(path).take([number - 1 for number in numbers]).to_pylist()
        return rows
    if path.suffix == ".json":
        content = json.loads(path.read_text("utf-8-sig"))
        return [content[number - 1] for number in numbers]
    wanted = set(numbers)
    with path.open("rb") as file:
        lines = {number: line for number, line in enumerate(file, 1) if number in wanted}
    return [json.loads(lines[number].decode("utf-8-sig")) for number in numbers]
