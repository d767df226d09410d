"""The approximate index of an embedded table: how it is made, how hard it looks, and how much it finds.

IVF_SQ: rows stand in sqrt(N) cells by nearest centre, one byte a dimension; a search looks into some cells, and more
rows than were asked for are scored again exactly. Graphs (IVF_HNSW_SQ) answer in half the time and take seventy times
as long to make; docs/index-and-search.md has the measurement.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cocoa.corpus.embeddings import vectors_of
from cocoa.corpus.hits import SLACK, exact_scores
from cocoa.corpus.stores import connecting
from cocoa.corpus.stores.connecting import Table
from cocoa.corpus.stores.rows import table_vectors

EXACT_ROWS = 50_000
"""Up to so many rows every row is looked at; above, the approximate index is asked."""
KIND = "IVF_SQ"
K = 10
NUM_QUERIES = 200
TARGET_RECALL = 0.98
_CELLS = (8, 16, 32, 64, 128, 256, 512)


def ask_cells(ask: Callable[[], Any], limit: int, cells: int) -> pa.Table:
    """Returns about the `limit` nearest rows of what `ask()` asks, from so many cells; from all if that is too few."""
    rows: pa.Table = ask().nprobes(cells).to_arrow()
    if len(rows) < limit:
        # A large limit, or a filter that leaves little in these cells.
        rows = ask().minimum_nprobes(cells).maximum_nprobes(0).to_arrow()
    return rows


def build_approximate(table: Table, rows: int, *, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Returns what was made: its kind, its cells, into how many a search looks, and recall@10 against exact search.

    It looks into the fewest of which recall@10 reaches 0.98, or the most that are tried; queries are sampled rows,
    which do not count as found by themselves.
    """
    num_cells = max(1, round(math.sqrt(rows)))
    say(f"making an approximate index of {rows:,} rows ({KIND}, {num_cells} cells)")
    table.create_index("vector", config=connecting.lance_cells(num_cells), replace=True)
    queries, own = _sampled(table, rows)
    truth = _exact(table, queries, own)
    tried: dict[str, float] = {}
    for cells in _CELLS:
        looked = min(cells, num_cells)
        recall = float(np.mean([_share(table, *each, looked) for each in zip(queries, own, truth, strict=True)]))
        tried[str(looked)] = round(recall, 4)
        say(f"recall@{K} {recall:.3f} when a search looks into {looked} cells")
        if recall >= TARGET_RECALL or looked == num_cells:
            break
    return {
        "kind": KIND,
        "cells": num_cells,
        "looks_into": looked,
        "recall_at_10": round(recall, 4),
        "measured_on": f"{len(queries)} rows of the index, each sought for among the others",
        "tried": tried,
    }


def _sampled(table: Table, rows: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns the vectors (Q, D) and places of rows drawn evenly, always the same ones."""
    drawn = np.sort(np.random.default_rng(0).choice(rows, size=min(NUM_QUERIES, rows), replace=False))
    got = table.take_offsets(drawn.tolist()).select(["place", "vector"]).to_arrow().combine_chunks()
    return vectors_of(got.to_batches()[0]), got["place"].to_numpy()


def _exact(table: Table, queries: NDArray[np.float32], own: NDArray[np.int64]) -> list[set[int]]:
    """Returns the places of the 10 nearest rows of each query but itself, by looking at every row."""
    best_scores = np.full((len(queries), K), -np.inf, np.float32)
    best_places = np.full((len(queries), K), -1, np.int64)
    for batch in table.search(None).select(["place", "vector"]).limit(table.count_rows()).to_batches(8192):
        places = batch.column("place").to_numpy()
        scores = queries @ vectors_of(batch).T
        scores[own[:, None] == places[None]] = -np.inf
        scores = np.concatenate([best_scores, scores], axis=1)
        places = np.concatenate([best_places, np.broadcast_to(places, (len(queries), len(places)))], axis=1)
        order = np.argpartition(-scores, K - 1, axis=1)[:, :K]
        best_scores, best_places = np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)
    return [set(row.tolist()) - {-1} for row in best_places]


def _share(table: Table, query: NDArray[np.float32], own: int, truth: set[int], cells: int) -> float:
    limit = K + 1 + SLACK

    def ask() -> Any:
        asked = table.search(query, vector_column_name="vector").distance_type("dot").limit(limit)
        return asked.select(["place", "vector", "_distance"])

    rows = ask_cells(ask, limit, cells)
    order = np.argsort(-exact_scores(table_vectors(rows), query))
    found = [place for place in rows["place"].to_numpy()[order].tolist() if place != own][:K]
    return len(truth & set(found)) / max(1, len(truth))
