"""Small folders of embeddings and tables of rows that tests of the index are made of; no model is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cocoa.corpus.embeddings import SHARDS, TABLE, Embeddings, ShardEntry, shard_schema, write_card, write_table
from cocoa.corpus.index import Rows
from cocoa.files import sha256, write_folder

D = 8
COLUMNS = {"kind": "string", "year": "int", "price": "float", "sold": "bool"}


def identity(**changes: Any) -> dict[str, Any]:
    """Returns the identity of a model that does not exist."""
    known = {
        "fingerprint": "f" * 64,
        "backbone": "nano",
        "layout": "bidirectional",
        "pooling": "bridge",
        "bridge_token": 7,
        "dimensions": D,
        "dtype": "float32",
        "normalized": True,
        "prompts": "none",
        "min_pixels": 1,
        "max_pixels": 2,
        "max_tokens": 3,
        "cocoa": "1",
    }
    return known | changes


def unit(rows: int, seed: int, dimensions: int = D) -> NDArray[np.float32]:
    """Returns random float32 [rows, D] of unit norm."""
    vectors = np.random.default_rng(seed).normal(size=(rows, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def values(number: int) -> dict[str, Any]:
    """Returns the kept columns of a row: some are missing."""
    return {
        "kind": None if number % 7 == 3 else ("cat", "dog", "owl's", 'a "b" \\')[number % 4],
        "year": None if number % 5 == 2 else 2000 + number % 9,
        "price": None if number % 6 == 1 else round(number / 3, 3),
        "sold": None if number % 8 == 5 else number % 2 == 0,
    }


def rows(names: Sequence[str], seed: int = 0, *, dimensions: int = D, columns: bool = True, **who: Any) -> Rows:
    """Returns rows in memory with random vectors."""
    vectors = unit(len(names), seed, dimensions)
    schema = shard_schema(dimensions, COLUMNS if columns else {})
    kept = [values(number) for number in range(len(names))]
    arrays = {
        "id": list(names),
        "text": [f"text of {name}" for name in names],
        "image": [""] * len(names),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=schema.field("vector").type),
        **{column: [row[column] for row in kept] for column in COLUMNS},
    }
    table = pa.Table.from_arrays(
        [pa.array(arrays[field.name], field.type) if field.name != "vector" else arrays["vector"] for field in schema],
        schema=schema,
    )
    return Rows(identity(dimensions=dimensions, **who), table)


def embeddings(folder: Path, source: Rows, *, columns: bool = True) -> Embeddings:
    """Writes rows as a finished folder of embeddings of two shards, and opens it."""
    kept = COLUMNS if columns else {}
    dimensions = source.identity["dimensions"]
    schema = shard_schema(dimensions, kept)
    shards = []
    half = len(source.table) // 2
    for number, part in enumerate((source.table.slice(0, half), source.table.slice(half))):
        name = f"part-{number}"
        flat = part["vector"].combine_chunks().flatten().to_numpy().reshape(-1, dimensions)
        with write_folder(folder / SHARDS / name) as draft:
            held = {column: part[column].to_pylist() for column in ("id", "text", "image", *kept)}
            write_table(draft / TABLE, held, flat, schema)
        shards.append(ShardEntry(name, len(part), 0, sha256(folder / SHARDS / name / TABLE)))
    write_card(
        folder, identity=source.identity, model="a model", dimensions=dimensions, columns=kept, source={}, shards=shards
    )
    return Embeddings.open(folder)
