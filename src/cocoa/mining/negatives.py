"""The negatives of one table: for each row, near targets of other rows that are right for none with an equal query."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cocoa.mining.inputs import Entry
from cocoa.mining.ranking import rank_targets
from cocoa.mining.rows import Cells, Table, with_negatives
from cocoa.mining.vectors import VectorStore
from cocoa.mining.window import Window
from cocoa.model import best_device

_QUANTILES = {"min": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}


@dataclass(frozen=True)
class Targets:
    """The distinct targets that a row's negatives are taken from: content key to place, cells, and vectors [T, D]."""

    places: dict[int, int]
    cells: list[Cells]
    vectors: NDArray[np.float32]

    @classmethod
    def of(cls, entries: Sequence[Entry], keys: Sequence[int], store: VectorStore) -> Targets:
        """Returns the targets of rows; `keys` say which samples have equal content."""
        first = {keys[entry.target]: entry for entry in reversed(entries)}
        # In the rows' order, which decides between equal scores.
        chosen = {keys[entry.target]: first[keys[entry.target]] for entry in entries}
        return cls(
            {key: place for place, key in enumerate(chosen)},
            [entry.row.target for entry in chosen.values()],
            store.take(np.array([entry.target for entry in chosen.values()])),
        )


@dataclass
class Counts:
    """What came of the rows of a table."""

    mined: int = 0
    kept: int = 0
    dropped: int = 0
    short_rows: int = 0
    not_first: int = 0
    bounded_rows: int = 0


def mine_table(
    table: Table,
    entries: Sequence[Entry],
    targets: Targets,
    keys: Sequence[int],
    right: Mapping[int, Mapping[int, None]],
    store: VectorStore,
    window: Window,
) -> tuple[bytes, dict[str, Any]]:
    """Returns the content of a table with its negatives, and what came of it.

    `right` are the keys of targets that are right for the key of a query, by any row.
    """
    wanted = window.negatives
    pool_keys = np.array(list(targets.places))
    rankings = rank_targets(
        store.take(np.array([entry.query for entry in entries])),
        targets.vectors,
        [targets.places[keys[entry.target]] for entry in entries],
        [[targets.places[key] for key in right[keys[entry.query]] if key in targets.places] for entry in entries],
        window.last_rank,
        device=best_device(),
    )
    counts = Counts()
    positives: list[NDArray[np.float32]] = []
    scores: list[NDArray[np.float32]] = []
    filled: list[list[Cells]] = []
    for ranking in rankings:
        positives.append(ranking.positive)
        counts.not_first += int((ranking.rank > 1).sum())
        highest = window.highest(ranking.positive)
        for place in range(len(ranking.positive)):
            entry = entries[ranking.start + place]
            pair = keys[entry.query], keys[entry.target]
            kept = {
                keys[negative]: cells
                for negative, cells in zip(entry.negatives, entry.row.negatives, strict=False)
                if keys[negative] not in right[pair[0]]
            }
            near = ranking.places[place]
            columns = window.pick(pool_keys[near], ranking.scores[place], highest[place], kept.keys(), pair)
            filled.append([*kept.values(), *(targets.cells[target] for target in near[columns].tolist())])
            scores.append(ranking.scores[place, columns])
            counts.mined += len(columns)
            counts.kept += len(kept)
            counts.dropped += len(entry.negatives) - len(kept)
            if len(filled[-1]) < wanted:
                counts.short_rows += 1
                unbounded = window.pick(pool_keys[near], ranking.scores[place], np.inf, kept.keys(), pair)
                counts.bounded_rows += len(unbounded) > len(columns)
    content = with_negatives(table, [entry.row for entry in entries], filled)
    return content, {
        "rows": len(entries),
        "targets": len(targets.cells),
        **asdict(counts),
        "positive_scores": _quantiles(positives),
        "negative_scores": _quantiles(scores),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _quantiles(scores: Sequence[NDArray[np.float32]]) -> dict[str, float]:
    every = np.concatenate(scores)
    if not len(every):
        return {}
    values = np.quantile(every, list(_QUANTILES.values()))
    return {name: round(float(value), 6) for name, value in zip(_QUANTILES, values, strict=True)}
