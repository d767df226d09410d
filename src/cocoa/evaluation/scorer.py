"""Ranks by MMEB's rule and by a strict one that a broken model cannot win; plain numpy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cocoa.errors import DataError, ModelError
from cocoa.sample import META_TASKS, Task

Vectors = NDArray[np.float32] | Sequence[NDArray[np.float32]]
Place = Callable[[int], str]
"""Says which row of which file a vector is of."""

_BLOCK = 4096
# Shared candidates are worth one product as long as it computes no more than so many times what is asked for.
_MOST_WASTE = 16
_BLOCK_SCORES = 1 << 24
_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class TaskScore:
    """What a model reached on one task; rates in [0, 1].

    `ranks` has the strict rank of each query's right candidate: a tie counts against the model. The rates, `mrr` and
    `ndcg_at_10` are made of it; `ci95` holds 95 % of the bootstrap's values of `hit_at_1`. `official_hit_at_1` is
    MMEB's: the first maximum wins, and the right candidate comes first. `expected_hit_at_1` lies between them: where k
    candidates share the best score each is worth 1/k, as if one were drawn. `candidates` and `mean_candidates` are the
    most and the mean of a question; `ties` is the number of questions whose right candidate shares the best score,
    `duplicates` of those that list the right candidate twice, so that no model can win them. `official_ranks` are by
    MMEB's rule, a tie for the model.
    """

    hit_at_1: float
    official_hit_at_1: float
    expected_hit_at_1: float
    hit_at_5: float
    hit_at_10: float
    mrr: float
    ndcg_at_10: float
    ci95: tuple[float, float]
    queries: int
    candidates: int
    mean_candidates: float
    ties: int
    duplicates: int
    ranks: tuple[int, ...]
    official_ranks: tuple[int, ...]


def strict_rank(scores: NDArray[np.floating]) -> int:
    """Returns the rank of candidate 0: one more than the number of others that are better or tied."""
    return 1 + int(np.count_nonzero(scores[1:] >= scores[0]))


def official_hit(scores: NDArray[np.floating]) -> bool:
    """Returns whether candidate 0 is the first maximum, MMEB's published rule."""
    return int(np.argmax(scores)) == 0


def score_task(
    query_vectors: Vectors,
    candidate_vectors: Vectors,
    candidate_index: Sequence[NDArray[np.integer]],
    *,
    query_place: Place | None = None,
    candidate_place: Place | None = None,
    seed: int = 0,
) -> TaskScore:
    """Returns the score of cosines in float32; row q of `candidate_index` lists the candidates of query q, gold first.

    Args:
        query_vectors: one row each, of any norm.
        candidate_vectors: one row each; no two rows need to differ.
        candidate_index: the numbers of each query's candidates.
        query_place: names the row of a query in errors.
        candidate_place: names the row of a candidate in errors.
        seed: of the bootstrap.

    Raises:
        ModelError: E_MODEL_OUTPUT for a vector that is not finite, is zero or has another size than the others.
        DataError: E_DATA_EMPTY without queries or candidates, E_DATA_INDEX for an index that does not fit.
    """
    queries = _unit_rows(query_vectors, "query", query_place)
    candidates = _unit_rows(candidate_vectors, "candidate", candidate_place)
    if len(queries) and len(candidates) and queries.shape[1] != candidates.shape[1]:
        message = f"queries have {queries.shape[1]} dimensions, candidates {candidates.shape[1]}"
        raise ModelError("E_MODEL_OUTPUT", message)
    _check_index(candidate_index, len(queries), len(candidates))
    # Equal vectors are multiplied once: a matrix product may round equal rows differently, and hide a tie.
    same = _first_equal(candidates)
    ranks, official_ranks, hits, ties, duplicates = [], [], 0, 0, 0
    every = _scores(queries, candidates, [same[index] for index in candidate_index])
    for index, scores in zip(candidate_index, every, strict=True):
        ranks.append(strict_rank(scores))
        official_ranks.append(1 + int(np.count_nonzero(scores[1:] > scores[0])))
        official = official_hit(scores)
        hits += official
        ties += official and ranks[-1] > 1
        duplicates += bool((index[1:] == index[0]).any())
    sizes = [len(index) for index in candidate_index]
    rank, official_rank = np.array(ranks), np.array(official_ranks)
    hit_at_1 = float(np.mean(rank == 1))
    return TaskScore(
        hit_at_1=hit_at_1,
        official_hit_at_1=hits / len(ranks),
        # Where none is better than the right one, its strict rank counts those that share the best score.
        expected_hit_at_1=float(np.mean(np.where(official_rank == 1, 1 / rank, 0))),
        hit_at_5=float(np.mean(rank <= 5)),
        hit_at_10=float(np.mean(rank <= 10)),
        mrr=float(np.mean(1 / rank)),
        # One right answer: the best possible gain is that of rank 1, which is one.
        ndcg_at_10=float(np.mean(np.where(rank <= 10, 1 / np.log2(1 + rank), 0))),
        ci95=bootstrap_interval(hit_at_1, len(ranks), seed),
        queries=len(ranks),
        candidates=max(sizes),
        mean_candidates=sum(sizes) / len(sizes),
        ties=ties,
        duplicates=duplicates,
        ranks=tuple(ranks),
        official_ranks=tuple(official_ranks),
    )


def bootstrap_interval(rate: float, count: int, seed: int = 0) -> tuple[float, float]:
    """Returns the middle 95 % of the rates that drawing `count` queries anew, with repeats, gives."""
    # A draw of yes or no, repeated, is a binomial number: no query needs to be drawn to know its mean.
    drawn = np.random.default_rng(seed).binomial(count, rate, _RESAMPLES) / count
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def summarise(results: Iterable[tuple[Task, TaskScore]]) -> dict[str, float]:
    """Returns the mean strict hit@1 over tasks: of each meta-task and split that is there, and of all (`overall`).

    A mean of tasks, not of meta-tasks, as MMEB has it. `ind` and `ood` are given where every task's split is known.
    """
    scored = [(task.meta_task, task.split, score.hit_at_1) for task, score in results]
    groups: dict[str, list[float]] = {name: [rate for kind, _, rate in scored if kind == name] for name in META_TASKS}
    if all(split is not None for _, split, _ in scored):
        groups |= {name: [rate for _, split, rate in scored if split == name] for name in ("ind", "ood")}
    groups["overall"] = [rate for _, _, rate in scored]
    return {name: sum(rates) / len(rates) for name, rates in groups.items() if rates}


def _scores(
    queries: NDArray[np.float32], candidates: NDArray[np.float32], rows: Sequence[NDArray[np.int64]]
) -> Iterable[NDArray[np.float32]]:
    """The scores of each query's candidates: of one product where queries share them, else query by query."""
    asked = np.concatenate(rows)
    is_used = np.bincount(asked, minlength=len(candidates)) > 0
    used, places = np.flatnonzero(is_used), np.cumsum(is_used)[asked] - 1
    if len(used) * len(rows) > _MOST_WASTE * len(places):
        for query, row in zip(queries, rows, strict=True):
            distinct, place = np.unique(row, return_inverse=True)
            yield (candidates[distinct] @ query)[place]
        return
    shared = candidates[used].T
    place_of = np.split(places, np.cumsum([len(row) for row in rows[:-1]]))
    step = max(1, _BLOCK_SCORES // len(used))
    for start in range(0, len(rows), step):
        product = queries[start : start + step] @ shared
        yield from (scores[place] for scores, place in zip(product, place_of[start : start + step], strict=True))


def _unit_rows(vectors: Vectors, name: str, place: Place | None) -> NDArray[np.float32]:
    """The vectors with norm 1; every row is checked, since numpy's arg-max calls a NaN the best score."""

    def fail(row: int, what: str) -> ModelError:
        return ModelError("E_MODEL_OUTPUT", f"{name} vector {row} {what}", where=place(row) if place else "")

    rows = vectors if isinstance(vectors, np.ndarray) else _stack(vectors, fail)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ModelError("E_MODEL_OUTPUT", f"{name} vectors have shape {rows.shape}, expected (rows, dimensions)")
    units = np.empty(rows.shape, np.float32)
    for start in range(0, len(rows), _BLOCK):
        # float64, so that neither tiny nor huge float32 values lose their norm.
        block = np.asarray(rows[start : start + _BLOCK], np.float64)
        bad = ~np.isfinite(block).all(axis=1)
        if bad.any():
            raise fail(start + int(bad.argmax()), "is not finite")
        norms = np.sqrt(np.square(block).sum(axis=1, keepdims=True))
        if not norms.all():
            raise fail(start + int(norms.argmin()), "is zero")
        units[start : start + _BLOCK] = block / norms
    return units


def _stack(vectors: Sequence[NDArray[np.float32]], fail: Callable[[int, str], ModelError]) -> NDArray[np.float32]:
    if not vectors:
        return np.empty((0, 1), np.float32)
    size = np.shape(vectors[0])
    for row, vector in enumerate(vectors):
        if np.shape(vector) != size:
            raise fail(row, f"has shape {np.shape(vector)}, the first has {size}")
    return np.stack(vectors)


def _first_equal(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
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
