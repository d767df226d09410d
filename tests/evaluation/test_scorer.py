"""The fast scorer equals a slow one, and no broken model wins."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cocoa.errors import CocoaError
from cocoa.evaluation.scorer import TaskScore, official_hit, score_task, strict_rank, summarise

Indices = list[np.ndarray]


def slow_score(queries: np.ndarray, candidates: np.ndarray, index: Indices) -> tuple[float, float, int]:
    """The definition, in plain Python: strict and official hit@1 and the number of ties with the best."""
    strict = official = ties = 0
    for query, pool in zip(queries.tolist(), index, strict=True):
        scores = []
        for place in pool.tolist():
            row = candidates[place].tolist()
            dot = math.fsum(a * b for a, b in zip(query, row, strict=True))
            scores.append(dot / (math.hypot(*query) * math.hypot(*row)))
        others = scores[1:]
        strict += all(score < scores[0] for score in others)
        official += all(score <= scores[0] for score in others)
        ties += bool(others) and max(others) == scores[0]
    return strict / len(index), official / len(index), ties


def check(queries: np.ndarray, candidates: np.ndarray, index: Indices) -> TaskScore:
    score = score_task(queries, candidates, index)
    assert (score.hit_at_1, score.official_hit_at_1, score.ties) == slow_score(queries, candidates, index)
    assert score.queries == len(queries)
    assert score.candidates == max(map(len, index))
    assert score.mean_candidates == pytest.approx(sum(map(len, index)) / len(index))
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
    with pytest.raises(CocoaError, match=rf"{side} vector 2 is not finite.*E_MODEL_OUTPUT"):
        score_task(*vectors, POOLS)


@pytest.mark.parametrize("side", ["query", "candidate"])
def test_a_zero_vector_is_refused(side: str) -> None:
    broken = FINE.copy()
    broken[3] = 0
    vectors = (broken, FINE) if side == "query" else (FINE, broken)
    with pytest.raises(CocoaError, match=rf"{side} vector 3 is zero.*E_MODEL_OUTPUT"):
        score_task(*vectors, POOLS)


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


def test_summary_is_the_plain_mean_over_tasks() -> None:
    def score(rate: float) -> TaskScore:
        return TaskScore(rate, 1.0, 10, 2, 2.0, 0)

    scores = {"a": ("vqa", score(0.2)), "b": ("vqa", score(0.4)), "c": ("grounding", score(0.9))}
    assert summarise(scores) == pytest.approx({"vqa": 0.3, "grounding": 0.9, "overall": 0.5})  # type: ignore[arg-type]
    assert summarise({}) == {}
