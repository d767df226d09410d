"""A folder of embeddings: shards of ids, vectors and what a result shows of each row, and a card that binds them.

```
embeddings.json                    the card: whose vectors these are, the columns, the shards and their digests
shards/NAME/vectors.parquet        id, vector, text, image and the columns kept; beside it the shard's bad rows
bad_rows.jsonl                     rows that could not be embedded: where, id, code, message
```

The card is written last: a folder without it is not finished. Shapes: N rows, D dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, Field

from cocoa.errors import DataError
from cocoa.files import check_folder, sha256, write_file

CARD = "embeddings.json"
PLAN = "plan.json"
SHARDS = "shards"
TABLE = "vectors.parquet"
BAD_ROWS = "bad_rows.jsonl"
FORMAT = 2


def _with_dimensions(identity: dict[str, Any]) -> dict[str, Any]:
    if not (isinstance(identity.get("fingerprint"), str) and type(identity.get("dimensions")) is int):
        raise ValueError("an identity has a fingerprint and dimensions")
    return identity


COLUMN_TYPES = {"string": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
"""What a kept column may hold, by the name that the card gives it."""
Columns = dict[str, Literal["string", "int", "float", "bool"]]
"""The kept columns, each with its type."""
Dimensions = Annotated[int, Field(ge=1, le=65_536)]
Identity = Annotated[dict[str, Any], AfterValidator(_with_dimensions)]
"""Whose vectors these are; what else it says is compared with a model's, and not used."""
RESERVED = ("id", "vector", "text", "image")


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """A committed shard as the card lists it: `rows` good and `bad_rows` bad ones, and the digest of its table.

    `cut_texts` of the rows had more text than the model reads.
    """

    name: str
    rows: int
    bad_rows: int
    sha256: str
    cut_texts: int = 0


class _Content(BaseModel):
    """What the card must say, in its types."""

    identity: Identity
    model: str
    dimensions: Dimensions
    columns: Columns
    shards: list[ShardEntry]


class Embeddings:
    """Vectors of unit norm beside ids, texts, pictures and columns, on the disk; `card` says what made them."""

    def __init__(self, folder: Path, card: dict[str, Any], shards: Sequence[ShardEntry]) -> None:
        self.folder = folder
        self.card = card
        self._shards = shards

    @classmethod
    def open(cls, folder: str | Path) -> Embeddings:
        """Returns the embeddings of a finished folder.

        Raises:
            DataError: E_DATA_FILE if it is no such folder, E_DATA_INCOMPLETE if it is unfinished or a file is missing
                or of another size, E_DATA_READ if the card cannot be read.
        """
        path = Path(folder)
        if not (path / CARD).is_file():
            if (path / PLAN).is_file():
                what = "embeddings are not finished: run the same `cocoa embed` again, it goes on where it stopped"
                raise DataError("E_DATA_INCOMPLETE", what, where=str(path))
            raise DataError("E_DATA_FILE", f"not a folder of embeddings: no {CARD}", where=str(path))
        try:
            card = json.loads((path / CARD).read_text())
            if card.get("format") != FORMAT:
                what = f"embeddings of format {card.get('format')}, this version reads {FORMAT}: embed again"
                raise DataError("E_DATA_READ", what, where=str(path))
            shards = _Content.model_validate(card).shards
        except (OSError, ValueError, KeyError, AttributeError, RecursionError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError("E_DATA_READ", f"{CARD} cannot be read", where=str(path)) from error
        for shard in shards:
            check_folder(path / SHARDS / shard.name)
        return cls(path, card, shards)

    def __len__(self) -> int:
        return sum(shard.rows for shard in self._shards)

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of the embedder that made the vectors."""
        return dict(self.card["identity"])

    @property
    def model(self) -> str:
        """Where the model folder was."""
        return str(self.card["model"])

    @property
    def dimensions(self) -> int:
        """Length D of a vector."""
        return int(self.card["dimensions"])

    @property
    def columns(self) -> dict[str, str]:
        """The columns kept, each with its type: string, int, float or bool."""
        return dict(self.card["columns"])

    @property
    def schema(self) -> pa.Schema:
        """What `batches` yields, without the vector."""
        whole = shard_schema(self.dimensions, self.columns)
        return whole.remove(whole.get_field_index("vector"))

    def batches(self, size: int = 8192) -> Iterator[pa.RecordBatch]:
        """Yields all rows in the order of the input, `size` at a time (the last batch may be shorter).

        Columns: id, vector, text, image, then those kept. Raises `E_DATA_INCOMPLETE` for a shard that is not as it was
        written, before any row of it is given out.
        """
        schema = shard_schema(self.dimensions, self.columns)
        held = schema.empty_table()
        for shard in self._shards:
            held = pa.concat_tables([held, self._read(shard, schema)])
            whole = len(held) - len(held) % size
            if whole:
                yield from held.slice(0, whole).combine_chunks().to_batches(max_chunksize=size)
                held = held.slice(whole)
        if len(held):
            yield from held.combine_chunks().to_batches(max_chunksize=size)

    def table(self) -> pa.Table:
        """Returns all rows at once, for those that fit into memory."""
        return pa.Table.from_batches(self.batches(), shard_schema(self.dimensions, self.columns))

    def vectors(self) -> NDArray[np.float32]:
        """Returns float32 [N, D], in the order of the rows, for those that fit into memory."""
        parts = [vectors_of(batch) for batch in self.batches()]
        return np.concatenate(parts) if parts else np.zeros((0, self.dimensions), np.float32)

    def _read(self, shard: ShardEntry, schema: pa.Schema) -> pa.Table:
        path = self.folder / SHARDS / shard.name / TABLE
        try:
            table = read_shard(path, shard.sha256)
        except (OSError, pa.ArrowException) as error:
            raise DataError("E_DATA_INCOMPLETE", "the shard cannot be read", where=str(path)) from error
        if table.schema != schema or len(table) != shard.rows:
            raise DataError("E_DATA_INCOMPLETE", "the shard is not what the card says", where=str(path))
        return table


def vectors_of(batch: pa.RecordBatch) -> NDArray[np.float32]:
    """Returns the vectors float32 [rows, D] of a batch of rows."""
    column = batch.column("vector")
    flat: NDArray[np.float32] = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(batch), column.type.list_size)


def read_shard(path: Path, digest: str) -> pa.Table:
    """Returns the table of a shard, in one chunk. Raises `E_DATA_INCOMPLETE` if it is not the file that was written."""
    if sha256(path) != digest:
        raise DataError("E_DATA_INCOMPLETE", "the shard is not the file that was written", where=str(path))
    # Not through a memory map: what has been checked must not change under its reader.
    return pq.read_table(path, use_threads=False).combine_chunks().replace_schema_metadata()


def shard_schema(dimensions: int, columns: Mapping[str, str]) -> pa.Schema:
    """Returns the schema of a shard's table for vectors of this length and kept columns of these types."""
    return pa.schema(
        [
            pa.field("id", pa.string()),
            pa.field("vector", pa.list_(pa.float32(), dimensions)),
            pa.field("text", pa.string()),
            pa.field("image", pa.string()),
            *(pa.field(name, COLUMN_TYPES[kind]) for name, kind in columns.items()),
        ]
    )


def write_table(path: Path, rows: Mapping[str, Sequence[Any]], vectors: NDArray[np.float32], schema: pa.Schema) -> None:
    """Writes the table of a shard: `rows` has the values of every column but the vector, which is float32 [N, D]."""
    values = pa.array(np.ascontiguousarray(vectors).ravel(), pa.float32())
    arrays = [
        pa.FixedSizeListArray.from_arrays(values, type=field.type)
        if field.name == "vector"
        else pa.array(rows[field.name], field.type)
        for field in schema
    ]
    # Vectors hardly shrink, and reading them back is what an index does most.
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, compression="none", use_dictionary=["image"])


def write_card(
    folder: Path,
    *,
    identity: Mapping[str, Any],
    model: str,
    dimensions: int,
    columns: Mapping[str, str],
    source: Mapping[str, Any],
    shards: Sequence[ShardEntry],
) -> None:
    """Writes the card, which makes the folder a finished one."""
    card = {
        "format": FORMAT,
        "identity": dict(identity),
        "model": model,
        "dimensions": dimensions,
        "rows": sum(shard.rows for shard in shards),
        "bad_rows": sum(shard.bad_rows for shard in shards),
        "cut_texts": sum(shard.cut_texts for shard in shards),
        "columns": dict(columns),
        "input": dict(source),
        "shards": [asdict(shard) for shard in shards],
    }
    write_file(folder / CARD, json.dumps(card, indent=1) + "\n")
