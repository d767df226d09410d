"""The fast scorer equals a slow one, and no broken model wins."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cocoa.errors import CocoaError
from cocoa.evaluation.scorer import TaskScore, bootstrap_interval, official_hit, score_task, strict_rank, summarise
from cocoa.sample import MetaTask, Task

Indices = list[np.ndarray]


def slow_ranks(queries: np.ndarray, candidates: np.ndarray, index: Indices) -> tuple[list[int], list[bool]]:
    """The definition, in plain Python: the strict rank of each right candidate, and whether the official rule wins."""
    ranks, official = [], []
    for query, pool in zip(queries.tolist(), index, strict=True):
        scores = []
        for place in pool.tolist():
            row = candidates[place].tolist()
            dot = math.fsum(a * b for a, b in zip(query, row, strict=True))
            scores.append(dot / (math.hypot(*query) * math.hypot(*row)))
        ranks.append(1 + sum(score >= scores[0] for score in scores[1:]))
        official.append(scores.index(max(scores)) == 0)
    return ranks, official


def slow_ndcg(rank: int) -> float:
    """The definition: the discounted gain of a list of ten over that of the best list there is."""
    gains = [1.0 if place == rank else 0.0 for place in range(1, 11)]
    return sum(gain / math.log2(place + 1) for place, gain in enumerate(gains, 1)) / (1 / math.log2(2))


def check(queries: np.ndarray, candidates: np.ndarray, index: Indices) -> TaskScore:
    score = score_task(queries, candidates, index)
    ranks, official = slow_ranks(queries, candidates, index)
    count = len(ranks)
    assert list(score.ranks) == ranks
    assert score.hit_at_1 == sum(rank == 1 for rank in ranks) / count
    assert score.hit_at_5 == pytest.approx(sum(rank <= 5 for rank in ranks) / count)
    assert score.hit_at_10 == pytest.approx(sum(rank <= 10 for rank in ranks) / count)
    assert score.mrr == pytest.approx(sum(1 / rank for rank in ranks) / count)
    assert score.ndcg_at_10 == pytest.approx(sum(map(slow_ndcg, ranks)) / count)
    assert score.official_hit_at_1 == sum(official) / count
    assert score.ties == sum(won and rank > 1 for won, rank in zip(official, ranks, strict=True))
    assert score.duplicates == sum(row.tolist().count(row[0]) > 1 for row in index)
    assert score.queries == count
    assert score.candidates == max(map(len, index))
    assert score.mean_candidates == pytest.approx(sum(map(len, index)) / count)
    assert score.ci95[0] <= score.hit_at_1 <= score.ci95[1]
    return score


# Rows of +-1/2 in four dimensions have norm 1 and exact products, so ties are many and equal in any arithmetic.
signs = st.lists(st.sampled_from([-0.5, 0.5]), min_size=4, max_size=4)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_equals_the_slow_scorer_where_ties_are_many(data: st.DataObject) -> None:
    queries = np.array(data.draw(st.lists(signs, min_size=1, max_size=6)), np.float32)
    candidates = np.array(data.draw(st.lists(signs, min_size=1, max_size=12)), np.float32)
    pool = st.lists(st.integers(0, len(candidates) - 1), min_size=1, max_size=10)
    check(queries, candidates, [np.array(data.draw(pool)) for _ in queries])


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_slow_scorer_on_random_vectors(seed: int) -> None:
    random = np.random.default_rng(seed)
    queries = random.normal(size=(40, 33)).astype(np.float32)
    candidates = random.normal(size=(200, 33)).astype(np.float32)
    candidates[:40] += queries * random.uniform(0, 0.5)
    index = [np.concatenate([[row], 40 + random.permutation(160)[: random.integers(0, 30)]]) for row in range(40)]
    check(queries, candidates, index)


@pytest.mark.parametrize("shared", [True, False])
def test_shared_and_local_candidates_score_alike(shared: bool) -> None:
    random = np.random.default_rng(3)
    queries = random.normal(size=(64, 24)).astype(np.float32)
    candidates = random.normal(size=(64 * (1 if shared else 40), 24)).astype(np.float32)
    candidates[:64] += queries * 0.3
    # Queries that share no candidate take the other way through the scorer.
    pools = [np.arange(64)] * 64 if shared else [64 + row * 39 + np.arange(39) for row in range(64)]
    index = [np.concatenate([[row], pool[pool != row]]) for row, pool in enumerate(pools)]
    check(queries, candidates, index)


def test_blocks_of_queries_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    queries = random.normal(size=(50, 8)).astype(np.float32)
    candidates = random.normal(size=(30, 8)).astype(np.float32)
    index = [random.permutation(30) for _ in queries]
    whole = score_task(queries, candidates, index)
    monkeypatch.setattr("cocoa.evaluation.scorer._BLOCK_SCORES", 30 * 7)
    assert score_task(queries, candidates, index) == whole


def test_one_candidate_is_always_right() -> None:
    score = check(np.eye(3, dtype=np.float32), -np.eye(3, dtype=np.float32), [np.array([row]) for row in range(3)])
    assert (score.hit_at_1, score.mrr, score.ndcg_at_10, score.ties) == (1.0, 1.0, 1.0, 0)


def test_a_right_candidate_that_is_listed_twice_cannot_win() -> None:
    eye = np.eye(4, dtype=np.float32)
    score = check(eye, eye, [np.array([row, (row + 1) % 4, row]) for row in range(4)])
    assert (score.hit_at_1, score.official_hit_at_1, score.duplicates) == (0.0, 1.0, 4)


@pytest.mark.parametrize("pool", [2, 10, 100])
def test_a_constant_model_is_at_chance_or_below_by_every_figure(pool: int) -> None:
    one = np.ones((1, 8), np.float32)
    score = score_task(one.repeat(20, 0), one.repeat(pool, 0), [np.arange(pool)] * 20)
    assert score.hit_at_1 <= 1 / pool
    assert score.hit_at_5 <= min(1, 5 / pool)
    assert score.hit_at_10 <= min(1, 10 / pool)
    assert score.mrr <= sum(1 / rank for rank in range(1, pool + 1)) / pool
    assert score.ndcg_at_10 <= sum(slow_ndcg(rank) for rank in range(1, pool + 1)) / pool


@pytest.mark.parametrize(("rate", "count"), [(0.0, 10), (1.0, 10), (0.5, 4), (0.3, 50), (0.66, 1000)])
def test_the_interval_is_that_of_drawing_queries_anew(rate: float, count: int) -> None:
    hits = np.zeros(count)
    hits[: round(rate * count)] = 1
    random = np.random.default_rng(7)
    means = [random.choice(hits, count).mean() for _ in range(4000)]
    low, high = bootstrap_interval(float(hits.mean()), count)
    assert low == pytest.approx(np.quantile(means, 0.025), abs=max(0.005, 1 / count))
    assert high == pytest.approx(np.quantile(means, 0.975), abs=max(0.005, 1 / count))
    assert (low, high) == bootstrap_interval(float(hits.mean()), count)


@pytest.mark.parametrize("dimensions", [1, 7, 64, 1536])
def test_a_constant_model_scores_zero_and_officially_one(dimensions: int) -> None:
    random = np.random.default_rng(dimensions)
    one = random.normal(size=(1, dimensions)).astype(np.float32)
    index = [random.permutation(301)[: 3 + row] for row in range(30)]
    score = score_task(one.repeat(30, 0), one.repeat(301, 0), index)
    assert (score.hit_at_1, score.official_hit_at_1, score.ties) == (0.0, 1.0, 30)


def test_duplicates_of_the_right_candidate_tie_wherever_they_are() -> None:
    # A matrix product may give equal rows unequal scores; whether they tie must not hang on the row.
    random = np.random.default_rng(0)
    queries = random.normal(size=(50, 257)).astype(np.float32)
    candidates = random.normal(size=(1000, 257)).astype(np.float32)
    for row in range(50):
        candidates[row] = candidates[999 - row] = queries[row]
    index = [np.concatenate([[row], random.permutation(np.arange(950, 1000))]) for row in range(50)]
    score = score_task(queries, candidates, index)
    assert (score.hit_at_1, score.official_hit_at_1, score.ties) == (0.0, 1.0, 50)


def test_a_random_model_is_at_chance_and_a_perfect_one_at_one() -> None:
    random = np.random.default_rng(1)
    queries = random.normal(size=(2000, 16)).astype(np.float32)
    index = [np.concatenate([[row], (row + 1 + random.permutation(1999)[:9]) % 2000]) for row in range(2000)]
    chance = score_task(queries, random.normal(size=(2000, 16)).astype(np.float32), index)
    assert abs(chance.hit_at_1 - 0.1) < 0.03
    assert score_task(queries, queries * 3, index).hit_at_1 == 1.0


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_length_of_vectors_does_not_matter(scale: float) -> None:
    vectors = (np.eye(3, dtype=np.float32) * np.float32(scale)).astype(np.float32)
    assert score_task(vectors, vectors, [np.array([row, (row + 1) % 3]) for row in range(3)]).hit_at_1 == 1.0


FINE = np.eye(4, dtype=np.float32)
POOLS = [np.array([row, (row + 1) % 4]) for row in range(4)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["query", "candidate"])
def test_a_vector_that_is_not_finite_is_refused(side: str, value: float) -> None:
    broken = FINE.copy()
    broken[2, 1] = value
    vectors = (broken, FINE) if side == "query" else (FINE, broken)
    with pytest.raises(CocoaError, match=rf"t.jsonl:2.*{side} vector 2 is not finite.*E_MODEL_OUTPUT"):
        score_task(*vectors, POOLS, query_place="t.jsonl:{}".format, candidate_place="t.jsonl:{}".format)


@pytest.mark.parametrize("side", ["query", "candidate"])
def test_a_zero_vector_is_refused(side: str) -> None:
    broken = FINE.copy()
    broken[3] = 0
    vectors = (broken, FINE) if side == "query" else (FINE, broken)
    with pytest.raises(CocoaError, match=rf"{side} vector 3 is zero.*E_MODEL_OUTPUT"):
        score_task(*vectors, POOLS)


@pytest.mark.parametrize("side", ["query", "candidate"])
def test_a_vector_of_another_length_is_named(side: str) -> None:
    broken = [*FINE[:2], np.ones(3, np.float32), FINE[3]]
    vectors = (broken, FINE) if side == "query" else (FINE, broken)
    with pytest.raises(CocoaError, match=rf"{side} vector 2 has shape \(3,\), the first has \(4,\).*E_MODEL_OUTPUT"):
        score_task(*vectors, POOLS)
    assert score_task(list(FINE), FINE, POOLS) == score_task(FINE, FINE, POOLS)


@pytest.mark.parametrize(
    ("queries", "candidates", "pools", "code"),
    [
        (FINE[:, :3] + 1, FINE, POOLS, "E_MODEL_OUTPUT"),
        (FINE[0], FINE, POOLS, "E_MODEL_OUTPUT"),
        (FINE[:0], FINE, [], "E_DATA_EMPTY"),
        (FINE, FINE, [*POOLS[:3], np.array([], int)], "E_DATA_EMPTY"),
        (FINE, FINE, POOLS[:3], "E_DATA_INDEX"),
        (FINE, FINE, [*POOLS[:3], np.array([4])], "E_DATA_INDEX"),
        (FINE, FINE, [*POOLS[:3], np.array([-1])], "E_DATA_INDEX"),
    ],
)
def test_what_does_not_fit_is_refused(queries: np.ndarray, candidates: np.ndarray, pools: Indices, code: str) -> None:
    with pytest.raises(CocoaError) as caught:
        score_task(queries, candidates, pools)
    assert caught.value.code == code


def test_rank_and_official_rule() -> None:
    for scores, rank, official in (([1, 0], 1, True), ([1, 1], 2, True), ([0, 1, 0], 3, False), ([5], 1, True)):
        assert (strict_rank(np.array(scores, np.float32)), official_hit(np.array(scores, np.float32))) == (
            rank,
            official,
        )


def result(meta_task: MetaTask, rate: float, split: Literal["ind", "ood"] | None = None) -> tuple[Task, TaskScore]:
    score = TaskScore(rate, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, (0.0, 1.0), 10, 2, 2.0, 0, 0, (), ())
    return Task(f"{meta_task} {rate}", meta_task, (), split=split), score


def test_summary_is_the_plain_mean_over_tasks() -> None:
    results = [result("vqa", 0.2), result("vqa", 0.4), result("grounding", 0.9)]
    assert summarise(results) == pytest.approx({"vqa": 0.3, "grounding": 0.9, "overall": 0.5})
    assert summarise([]) == {}


def test_splits_have_means_where_all_are_known() -> None:
    results = [result("vqa", 0.2, "ind"), result("vqa", 0.4, "ood"), result("grounding", 0.9, "ind")]
    assert summarise(results) == pytest.approx({"vqa": 0.3, "grounding": 0.9, "ind": 0.55, "ood": 0.4, "overall": 0.5})
    assert "ind" not in summarise([*results, result("retrieval", 0.5)])
