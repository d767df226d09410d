"""hit@1 by MMEB's rule and by a strict one that a broken model cannot win; plain numpy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cocoa.errors import DataError, ModelError
from cocoa.sample import META_TASKS, MetaTask

Vectors = NDArray[np.float32]
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class TaskScore:
    """What a model reached on one task; rates in [0, 1].

    `hit_at_1` is strict: a tie counts against the model. `official_hit_at_1` is MMEB's: the first maximum wins, and
    the right candidate comes first. `candidates` and `mean_candidates` are the most and the mean of a question;
    `ties` is the number of questions whose right candidate shares the best score.
    """

    hit_at_1: float
    official_hit_at_1: float
    queries: int
    candidates: int
    mean_candidates: float
    ties: int


def strict_rank(scores: NDArray[np.floating]) -> int:
    """Returns the rank of candidate 0: one more than the number of others that are better or tied."""
    return 1 + int(np.count_nonzero(scores[1:] >= scores[0]))


def official_hit(scores: NDArray[np.floating]) -> bool:
    """Returns whether candidate 0 is the first maximum, MMEB's published rule."""
    return int(np.argmax(scores)) == 0


def score_task(
    query_vectors: Vectors, candidate_vectors: Vectors, candidate_index: Sequence[NDArray[np.integer]]
) -> TaskScore:
    """Returns the score of cosines in float32; row q of `candidate_index` lists the candidates of query q, gold first.

    Raises:
        ModelError: E_MODEL_OUTPUT for a vector that is not finite, is zero or has another size than the others.
        DataError: E_DATA_EMPTY without queries or candidates, E_DATA_INDEX for an index that does not fit.
    """
    queries = _unit_rows(query_vectors, "query")
    candidates = _unit_rows(candidate_vectors, "candidate")
    if queries.shape[1] != candidates.shape[1]:
        message = f"queries have {queries.shape[1]} dimensions, candidates {candidates.shape[1]}"
        raise ModelError("E_MODEL_OUTPUT", message)
    _check_index(candidate_index, len(queries), len(candidates))
    same = _first_equal(candidates)
    ranks, hits, ties = [], 0, 0
    for query, index in zip(queries, candidate_index, strict=True):
        # Equal vectors are multiplied once: a matrix product may round equal rows differently, and hide a tie.
        distinct, place = np.unique(same[index], return_inverse=True)
        scores = (candidates[distinct] @ query)[place]
        ranks.append(strict_rank(scores))
        official = official_hit(scores)
        hits += official
        ties += official and ranks[-1] > 1
    sizes = [len(index) for index in candidate_index]
    return TaskScore(
        hit_at_1=ranks.count(1) / len(ranks),
        official_hit_at_1=hits / len(ranks),
        queries=len(ranks),
        candidates=max(sizes),
        mean_candidates=sum(sizes) / len(sizes),
        ties=ties,
    )


def summarise(scores: Mapping[str, tuple[MetaTask, TaskScore]]) -> dict[str, float]:
    """Returns the mean strict hit@1 over the tasks of each meta-task present, and over all tasks (`overall`)."""
    groups = {name: [score.hit_at_1 for kind, score in scores.values() if kind == name] for name in META_TASKS}
    summary: dict[str, float] = {name: sum(rates) / len(rates) for name, rates in groups.items() if rates}
    if scores:
        summary["overall"] = sum(score.hit_at_1 for _, score in scores.values()) / len(scores)
    return summary


def _unit_rows(vectors: Vectors, name: str) -> Vectors:
    """The vectors with norm 1; every row is checked, since numpy's arg-max calls a NaN the best score."""
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise ModelError("E_MODEL_OUTPUT", f"{name} vectors have shape {vectors.shape}, expected (rows, dimensions)")
    units = np.empty(vectors.shape, np.float32)
    for start in range(0, len(vectors), _BLOCK):
        # float64, so that neither tiny nor huge float32 values lose their norm.
        block = np.asarray(vectors[start : start + _BLOCK], np.float64)
        bad = ~np.isfinite(block).all(axis=1)
        if bad.any():
            raise ModelError("E_MODEL_OUTPUT", f"{name} vector {start + int(bad.argmax())} is not finite")
        norms = np.sqrt(np.square(block).sum(axis=1, keepdims=True))
        if not norms.all():
            raise ModelError("E_MODEL_OUTPUT", f"{name} vector {start + int(norms.argmin())} is zero")
        units[start : start + _BLOCK] = block / norms
    return units


def _first_equal(vectors: Vectors) -> NDArray[np.int64]:
    """For each row the first row that equals it."""
    first: dict[bytes, int] = {}
    # Adding zero turns -0.0 into 0.0: equal numbers must have equal bytes.
    digests = (hashlib.blake2b((row + np.float32(0)).tobytes(), digest_size=16).digest() for row in vectors)
    return np.array([first.setdefault(digest, number) for number, digest in enumerate(digests)], np.int64)


def _check_index(candidate_index: Sequence[NDArray[np.integer]], num_queries: int, num_candidates: int) -> None:
    if num_queries == 0:
        raise DataError("E_DATA_EMPTY", "the task has no queries")
    if len(candidate_index) != num_queries:
        raise DataError("E_DATA_INDEX", f"{num_queries} queries but candidate lists for {len(candidate_index)}")
    for number, index in enumerate(candidate_index):
        if len(index) == 0:
            raise DataError("E_DATA_EMPTY", f"query {number} has no candidates")
        if index.min() < 0 or index.max() >= num_candidates:
            message = f"query {number} names a candidate outside 0..{num_candidates - 1}"
            raise DataError("E_DATA_INDEX", message)
