"""A folder of embeddings, searched exactly in memory; nothing can be written to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cocoa.corpus.embeddings import Embeddings
from cocoa.corpus.filters import Filter, columns_of
from cocoa.corpus.stores.expressions import to_arrow
from cocoa.corpus.stores.rows import Card, laid_out, row_schema, table_vectors
from cocoa.corpus.stores.store import Verification
from cocoa.errors import CocoaError, UsageError

_BLOCK_SCORES = 1 << 24
"""Scores that are held at once: 64 MB, whatever the number of queries."""
_BLOCK = 512
"""Scores of which the highest is found first."""
_FEW = 4
"""Rows that pass are taken out and scored alone where they are less than a fourth of all."""


class ExactStore:
    """All rows of a folder of embeddings; its shards were checked against their digests when they were read."""

    notice: str | None = None
    approximate: dict[str, Any] | None = None

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings
        self.uri = str(embeddings.folder)
        self.card = Card(embeddings.identity, embeddings.model, embeddings.columns)
        parts, place = [], 0
        for batch in embeddings.batches():
            parts.append(_roomy(laid_out(batch, self.card, np.arange(place, place + len(batch)))))
            place += len(batch)
        self._rows = pa.concat_tables(parts).combine_chunks() if parts else _roomy(row_schema(self.card).empty_table())
        self._vectors = table_vectors(self._rows)

    def count(self, condition: Filter | None) -> int:
        """Returns how many rows pass."""
        return len(self._rows) if condition is None else len(self._passing(condition))

    def nearest(self, queries: NDArray[np.float32], limit: int, condition: Filter | None) -> list[pa.Table]:
        """Returns for each query the `limit` nearest rows that pass."""
        passing = None if condition is None else self._passing(condition)
        # Taking rows out costs more than scoring the others too.
        apart = passing is not None and _FEW * len(passing) < len(self._vectors)
        vectors = self._vectors[passing] if apart else self._vectors
        num_at_once = max(1, _BLOCK_SCORES // max(1, len(vectors)))
        found = []
        for start in range(0, len(queries), num_at_once):
            for scores in queries[start : start + num_at_once] @ vectors.T:  # (queries at once, rows)
                best = highest(scores if passing is None or apart else scores[passing], limit)
                found.append(self._rows.take(pa.array(best if passing is None else passing[best])))
        return found

    def take(self, ids: Sequence[str]) -> pa.Table:
        """Returns the rows of these ids."""
        return self._rows.take(pa.array([self._places[name] for name in ids if name in self._places], pa.int64()))

    def scan(self, fields: Sequence[str], condition: Filter | None = None) -> Iterator[pa.RecordBatch]:
        """Yields the fields of all rows that pass."""
        rows = self._rows if condition is None else self._rows.take(pa.array(self._passing(condition)))
        yield from rows.select(list(fields)).to_batches(max_chunksize=8192)

    def put(self, batch: pa.RecordBatch, *, replace: bool) -> NoReturn:
        """Refuses."""
        raise self._read_only()

    def delete(self, ids: Sequence[str]) -> NoReturn:
        """Refuses."""
        raise self._read_only()

    def verify(self) -> Verification:
        """Reads all shards again and says what is not as it was written."""
        try:
            again = Embeddings.open(self._embeddings.folder)
            return Verification(sum(len(batch) for batch in again.batches()))
        except CocoaError as error:
            return Verification(0, [str(error)])

    def close(self) -> None:
        """Nothing is held open."""

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self._rows["id"].to_pylist())}

    def _passing(self, condition: Filter) -> NDArray[np.int64]:
        """The places of the rows that pass, rising."""
        fields = self.card.fields
        rows = self._rows.select(["place", *sorted({fields[name] for name in columns_of(condition)})])
        places: NDArray[np.int64] = rows.filter(to_arrow(condition, fields, rows.schema))["place"].to_numpy()
        return np.sort(places)

    def _read_only(self) -> UsageError:
        what = "a folder of embeddings is only read; make an index of it: `cocoa index EMBEDDINGS --out URI`"
        return UsageError("E_USAGE_READ_ONLY", what, where=self.uri)


def highest(scores: NDArray[np.float32], limit: int) -> NDArray[np.int64]:
    """Returns the places of the `limit` highest scores, or of all where there are fewer, in no order.

    Sorting a million scores apart takes half as long as computing them. Instead the highest of each block is found,
    which is read at the rate of memory: at least `limit` scores reach the bar that so many of those reach.
    """
    num_blocks = len(scores) // _BLOCK
    if num_blocks > limit:
        blocks = scores[: num_blocks * _BLOCK].reshape(num_blocks, _BLOCK).max(1)
        bar = np.partition(blocks, num_blocks - limit)[num_blocks - limit]
        some = np.flatnonzero(~(scores < bar))  # what is not a number stays, and is sorted behind all others
        return some[_sorted_apart(scores[some], limit)]
    return _sorted_apart(scores, limit)


def _sorted_apart(scores: NDArray[np.float32], limit: int) -> NDArray[np.int64]:
    """Returns what `highest` does, by sorting them apart."""
    return np.argpartition(-scores, limit - 1)[:limit] if limit < len(scores) else np.arange(len(scores))


def _roomy(rows: pa.Table) -> pa.Table:
    """Returns rows whose texts may be of any size together: no row can be taken from 2 GiB of plain strings."""
    types = [pa.large_string() if pa.types.is_string(field.type) else field.type for field in rows.schema]
    return rows.cast(pa.schema([field.with_type(kind) for field, kind in zip(rows.schema, types, strict=True)]))
