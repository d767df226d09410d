"""The approximate index of an embedded table: how it is made, how hard it looks, and how much it finds.

IVF_HNSW_SQ: graphs of about 250 000 rows at most, a byte a dimension; a search walks every graph, and more rows than
were asked for are scored again exactly. Cells without graphs (IVF_SQ) are made sooner, but of a million rows a search
had to look into half of the cells to find as much; docs/index-and-search.md has the measurement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
KIND = "IVF_HNSW_SQ"
K = 10
NUM_QUERIES = 200
TARGET_RECALL = 0.98
_GRAPH_ROWS = 250_000
_WIDTHS = (128, 256, 512)


def ask_graphs(asked: Any, limit: int, made: Mapping[str, Any]) -> pa.Table:
    """Returns about the `limit` nearest rows of a question; fewer if a filter leaves too little within reach."""
    rows: pa.Table = asked.nprobes(made["graphs"]).ef(max(limit, made["width"])).to_arrow()
    return rows


def build_approximate(table: Table, rows: int, *, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Returns what was made: its kind, its graphs, the width of a search, and recall@10 against exact search.

    A search keeps so many candidates on its way: the fewest of which recall@10 reaches 0.98, or the most that are
    tried. Half of the queries are rows, which do not count as found by themselves; half lie between two rows, because
    queries of people are unlike rows and harder (a text among pictures). The recall told is that of the worse half.
    """
    made: dict[str, Any] = {"kind": KIND, "graphs": max(1, math.ceil(rows / _GRAPH_ROWS))}
    say(f"making an approximate index of {rows:,} rows ({KIND})")
    table.create_index("vector", config=connecting.lance_graphs(made["graphs"]), replace=True)
    vectors, own = _sampled(table, rows)
    between = vectors + np.roll(vectors, 1, axis=0)
    between /= np.maximum(np.linalg.norm(between, axis=1, keepdims=True), 1e-6)
    queries, own = np.concatenate([vectors, between]), np.concatenate([own, np.full(len(own), -1)])
    truth = _exact(table, queries, own)
    tried: dict[str, list[float]] = {}
    for width in _WIDTHS:
        made["width"] = width
        shares = [_share(table, *each, made) for each in zip(queries, own, truth, strict=True)]
        halves = [float(np.mean(half)) for half in (shares[: len(vectors)], shares[len(vectors) :])]
        tried[str(width)] = [round(half, 4) for half in halves]
        say(f"recall@{K} {halves[0]:.3f} of rows, {halves[1]:.3f} between rows, with {width} candidates")
        if min(halves) >= TARGET_RECALL:
            break
    return made | {
        "recall_at_10": round(min(halves), 4),
        "measured_on": f"{len(vectors)} rows, each sought for among the others, and {len(between)} points between rows",
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


def _share(table: Table, query: NDArray[np.float32], own: int, truth: set[int], made: Mapping[str, Any]) -> float:
    limit = K + 1 + SLACK
    asked = table.search(query, vector_column_name="vector").distance_type("dot").limit(limit)
    rows = ask_graphs(asked.select(["place", "vector", "_distance"]), limit, made)
    order = np.argsort(-exact_scores(table_vectors(rows), query))
    found = [place for place in rows["place"].to_numpy()[order].tolist() if place != own][:K]
    return len(truth & set(found)) / max(1, len(truth))
