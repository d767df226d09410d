"""What a row is in every store: fixed fields, and the kept columns under names of ours, so that no name needs quoting.

| field | what |
|---|---|
| id | text, the key |
| place | whole number; equal scores are told in its order, and an upsert keeps it |
| vector | float32 [D], unit norm |
| text, image | what a result shows |
| seal | checksum of id and vector, looked at whenever a row is read |
| column_0 ... | the kept columns, in the order of the card |
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel

from cocoa.corpus.embeddings import COLUMN_TYPES, Columns, Identity, vectors_of
from cocoa.corpus.filters import BUILT_IN
from cocoa.errors import IndexingError
from cocoa.precision import LENGTH_ERROR

FIXED = ("id", "place", "vector", "text", "image", "seal")
MAX_ID_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Card:
    """What an index is bound to: the identity and place of the model, and the kept columns with their types."""

    identity: dict[str, Any]
    model: str
    columns: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, content: Any) -> Card:
        """Returns the card that plain data is of. Raises `ValueError` for a key that is missing or of another type."""
        return cls(**dict(_Content.model_validate(content, strict=True)))

    @property
    def dimensions(self) -> int:
        """Length D of a vector."""
        return int(self.identity["dimensions"])

    @property
    def fields(self) -> dict[str, str]:
        """The name in a store of every column that a filter can name."""
        return {name: name for name in BUILT_IN} | {name: f"column_{n}" for n, name in enumerate(self.columns)}


class _Content(BaseModel):
    """What a card says on the disk, in its types; other keys are not looked at."""

    identity: Identity
    model: str
    columns: Columns


def row_schema(card: Card) -> pa.Schema:
    """Returns the schema of a store's rows."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("place", pa.int64(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), card.dimensions), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("image", pa.string(), nullable=False),
            pa.field("seal", pa.int64(), nullable=False),
            *(pa.field(card.fields[name], COLUMN_TYPES[kind]) for name, kind in card.columns.items()),
        ]
    )


def is_id(name: object) -> bool:
    """Returns whether it is a text of as many bytes as ids have."""
    try:
        return isinstance(name, str) and 1 <= len(name.encode()) <= MAX_ID_BYTES
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def short(name: object) -> str:
    """Returns an id as messages show it: what was asked for may be of any length, and messages go into logs."""
    return f"{name!r:.40}"


def finite(values: Any) -> Any:
    """Returns the values of a column, of which numbers that are not finite are missing: indexes of old hold such."""
    if not pa.types.is_floating(values.type):
        return values
    return pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float64()))


def check_given(batch: pa.RecordBatch, card: Card, *, first: int = 0) -> None:
    """Raises `E_INDEX_ROWS` (columns), `E_INDEX_ID` or `E_INDEX_VECTOR`, naming the row, for what no index takes."""
    if missing := [name for name in ("id", "vector", *card.columns) if name not in batch.schema.names]:
        raise IndexingError("E_INDEX_ROWS", f"rows have no column {missing[0]!r}, which the index has")
    if unknown := sorted(set(batch.schema.names) - {"id", "vector", "text", "image", *card.columns}):
        raise IndexingError("E_INDEX_ROWS", f"rows have a column {unknown[0]!r}, which the index has not")
    if len(set(batch.schema.names)) < len(batch.schema.names):
        raise IndexingError("E_INDEX_ROWS", "rows have two columns of one name")
    try:
        batch.validate(full=True)
    except pa.ArrowException as error:  # A text that is not UTF-8: it would be taken, and no search could show it.
        raise IndexingError("E_INDEX_ROWS", f"rows are damaged: {error}") from error
    kind = batch.schema.field("vector").type
    if not pa.types.is_fixed_size_list(kind) or kind.list_size != card.dimensions:
        raise IndexingError("E_INDEX_VECTOR", f"vectors are {kind}, the index has {card.dimensions} dimensions")
    ids = batch.column("id").to_pylist()
    for number, name in enumerate(ids, first):
        if not is_id(name) or "\0" in name:
            what = f"an id is a text of 1 to {MAX_ID_BYTES} bytes, not {short(name)}"
            raise IndexingError("E_INDEX_ID", what, where=f"row {number}")
    if batch.column("vector").null_count:
        number = first + batch.column("vector").is_null().index(True).as_py()
        raise IndexingError("E_INDEX_VECTOR", "the vector is missing", where=f"row {number}")
    norms = np.linalg.norm(vectors_of(batch).astype(np.float64), axis=1)
    wrong = np.flatnonzero(~(np.abs(norms - 1) < LENGTH_ERROR))
    if len(wrong):
        what = f"the vector's norm is {norms[wrong[0]]:.4g}, not 1"
        raise IndexingError("E_INDEX_VECTOR", what, where=f"row {first + wrong[0]} ({ids[wrong[0]]})")


def laid_out(batch: pa.RecordBatch, card: Card, places: Sequence[int] | NDArray[np.int64]) -> pa.Table:
    """Returns given rows as a store keeps them, and the seals.

    What is not finite is missing, since JSON has no word for it; -0.0 is 0.0, a missing text is empty.
    """
    schema = row_schema(card)
    vectors, ids = vectors_of(batch), batch.column("id").to_pylist()
    arrays: dict[str, Any] = {
        "id": pa.array(ids, pa.string()),
        "place": pa.array(places, pa.int64()),
        "vector": pa.FixedSizeListArray.from_arrays(
            pa.array(np.ascontiguousarray(vectors).ravel(), pa.float32()), type=schema.field("vector").type
        ),
        "seal": pa.array(seals(ids, vectors), pa.int64()),
    }
    for name in ("text", "image"):
        given = _cast(batch, name, "string") if name in batch.schema.names else pa.nulls(len(batch), pa.string())
        arrays[name] = pc.fill_null(given, "")
    for name, kind in card.columns.items():
        values = _cast(batch, name, kind)
        if kind == "float":
            values = pc.add(finite(values), 0.0)
        arrays[card.fields[name]] = values
    return pa.Table.from_arrays([arrays[name] for name in schema.names], schema=schema)


def _cast(batch: pa.RecordBatch, name: str, kind: str) -> pa.Array:
    try:
        return batch.column(name).cast(COLUMN_TYPES[kind])
    except pa.ArrowException as error:
        what = f"column {name!r} holds {batch.column(name).type}, the index has {kind}"
        raise IndexingError("E_INDEX_ROWS", what) from error


def seals(ids: Sequence[str], vectors: NDArray[np.float32]) -> list[int]:
    """Returns the checksum of each id with its vector."""
    return [
        zlib.crc32(row.tobytes(), zlib.crc32(name.encode()))
        for name, row in zip(ids, np.ascontiguousarray(vectors, np.float32), strict=True)
    ]


def check_seals(rows: pa.Table, where: str) -> None:
    """Raises `E_INDEX_DAMAGED`, naming the row, if a row that was read is not the one that was written."""
    names = rows["id"].to_pylist()
    for name, found, kept in zip(names, seals(names, table_vectors(rows)), rows["seal"].to_pylist(), strict=True):
        if found != kept:
            what = f"row {name!r} is not what was written: bits have changed; run `cocoa index --verify`"
            raise IndexingError("E_INDEX_DAMAGED", what, where=where)


def table_vectors(rows: pa.Table) -> NDArray[np.float32]:
    """Returns the vectors float32 [rows, D] of a table, in however many pieces it is."""
    # Not of the whole table combined: texts of more than 2 GiB stay in pieces, and take the rows apart with them.
    parts = [vectors_of(batch) for batch in rows.select(["vector"]).to_batches()]
    if not parts:
        return np.zeros((0, rows.schema.field("vector").type.list_size), np.float32)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def shown(rows: pa.Table, card: Card) -> list[dict[str, Any]]:
    """Returns rows of a store as id, text, image and the kept columns under their own names."""
    names = {name: at for name, at in card.fields.items() if at in rows.schema.names}
    values = [finite(rows[at]).to_pylist() for at in names.values()]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def check_repeats(names: Sequence[str]) -> None:
    """Raises `E_INDEX_ID` if an id stands twice in what is written together."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise IndexingError("E_INDEX_ID", f"id {name!r} stands twice in what is to be written")
        seen.add(name)


def numbered(batch: pa.RecordBatch, card: Card, held: Mapping[str, int], next_place: int) -> tuple[pa.Table, int]:
    """Returns the rows as a store keeps them, and the next free place: ids that are `held` keep theirs."""
    places = []
    for name in batch.column("id").to_pylist():
        place = held.get(name)
        if place is None:
            place, next_place = next_place, next_place + 1
        places.append(place)
    return laid_out(batch, card, places), next_place
