"""Which candidates are the best: scored again exactly, and equal scores told in the order of the documents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cocoa.corpus.stores.rows import Card, shown, table_vectors

SLACK = 16
"""Candidates beyond k, so that scores which a store rounds otherwise still come in."""
MAX_K = 10_000
"""The most hits that one question gives."""
MAX_CANDIDATES = 16_384
"""The most that one question looks at, however many documents are equal; Milvus gives no more."""
_TIE = 1e-6
_BLOCK = 1024
"""Rows that are scored at once."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that was found; `score` is the cosine with the query, in [-1, 1]; `columns` are those kept."""

    id: str
    score: float
    text: str
    image: str
    columns: dict[str, Any] = field(default_factory=dict)


def best_hits(
    query: NDArray[np.float32], k: int, card: Card, rows: pa.Table, more: Callable[[int], pa.Table]
) -> list[Hit]:
    """Returns the `k` best of the candidates `rows`, which are the nearest k + 16, best first; equal scores by place.

    If so many came and the last of them still ties with the k-th, there may be others: `more(limit)` is asked for four
    times as many, at most 16 384.
    """
    limit = k + SLACK
    while True:
        scores = exact_scores(table_vectors(rows), query)
        order = np.lexsort((rows["place"].to_numpy(), -scores))
        tied = len(rows) >= limit and scores[order[k - 1]] - scores[order[-1]] <= _TIE
        if not tied or limit == MAX_CANDIDATES:
            break
        limit = min(limit * 4, MAX_CANDIDATES)
        rows = more(limit)
    order = order[:k]
    told = shown(rows.take(pa.array(order)), card)
    return [hit_of(row, float(scores[number])) for number, row in zip(order, told, strict=True)]


def hit_of(row: dict[str, Any], score: float) -> Hit:
    """Returns the hit of a row that a store told."""
    columns = {name: value for name, value in row.items() if name not in ("id", "text", "image")}
    return Hit(row["id"], score, row["text"], row["image"], columns)


def exact_scores(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns float32 [N]: the dot product of each row with the query.

    Row by row in double precision: a matrix product may give equal rows scores that differ in the last digit.
    """
    wide, scores = query.astype(np.float64), np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        scores[start : start + _BLOCK] = (vectors[start : start + _BLOCK].astype(np.float64) * wide).sum(axis=1)
    return scores
