"""What is given to an index: rows of a folder of embeddings or in memory, looked over before a store sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from cocoa.corpus.stores.rows import Card, check_given

BATCH = 8192
"""Rows that are written in one commit."""


class RowSource(Protocol):
    """What can be written to an index: `Embeddings`, or `Rows` in memory."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """The identity of the embedder that made the vectors."""

    def batches(self, size: int = ...) -> Iterator[pa.RecordBatch]:
        """Yields rows: id, vector [D] of unit norm, text, image, and the kept columns."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows in memory, with the identity of the embedder that made their vectors."""

    identity: Mapping[str, Any]
    table: pa.Table

    def batches(self, size: int = BATCH) -> Iterator[pa.RecordBatch]:
        """Yields the rows in order."""
        yield from self.table.combine_chunks().to_batches(max_chunksize=size)


def checked(rows: RowSource, card: Card) -> Iterator[pa.RecordBatch]:
    """Yields the rows in batches. Raises what `check_given` does, naming the row, before the batch is given out."""
    first = 0
    for batch in rows.batches(BATCH):
        check_given(batch, card, first=first)
        first += len(batch)
        yield batch
