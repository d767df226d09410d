"""Which ranks and scores a negative may have, at the edges of both."""

from __future__ import annotations

import numpy as np
import pytest

from cocoa import CocoaError
from cocoa.mining import Window

SCORES = np.array([0.9, 0.8, 0.8, 0.5, 0.1, -0.2], np.float32)
KEYS = np.array([11, 12, 13, 14, 15, 16])
OPEN = {"max_ratio": None}


def pick(window: Window, positive: float = 1.0, kept: tuple[int, ...] = (), scores: np.ndarray = SCORES) -> list[int]:
    highest = window.highest(np.array([positive], np.float32))[0]
    return KEYS[window.pick(KEYS, scores, highest, kept, (1, 2))].tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [11, 12, 13, 14, 15, 16]),
        ({"negatives": 2}, [11, 12]),
        ({"negatives": 2, "first_rank": 3}, [13, 14]),
        ({"first_rank": 6, "last_rank": 6}, [16]),
        ({"first_rank": 7, "last_rank": 9}, []),
        ({"last_rank": 1}, [11]),
        ({"first_rank": 2, "last_rank": 4}, [12, 13, 14]),
    ],
)
def test_ranks_count_from_one_and_both_ends_are_in(options, expected):
    assert pick(Window(**OPEN | options)) == expected


def test_a_rank_is_used_up_by_a_target_whose_score_is_too_high():
    assert pick(Window(**OPEN, max_score=0.6, last_rank=4)) == [14]


@pytest.mark.parametrize(
    ("options", "positive", "expected"),
    [
        ({"max_score": 0.5}, 1.0, [14, 15, 16]),
        ({"max_score": float(np.nextafter(np.float32(0.5), np.float32(0)))}, 1.0, [15, 16]),
        ({"max_ratio": 0.5}, 1.0, [14, 15, 16]),
        ({"max_ratio": 0.5}, 0.2, [15, 16]),
        ({"max_ratio": 0.95}, -0.2, []),
        ({"max_ratio": 1.0}, -0.2, [16]),
        ({"max_ratio": 0.95}, 0.0, [16]),
        ({"max_ratio": 1.5}, 0.5, [14, 15, 16]),
        ({"margin": 0.5}, 1.0, [14, 15, 16]),
        ({"margin": 0.0}, 0.5, [14, 15, 16]),
        ({"margin": 0.5, "max_score": 0.3}, 1.0, [15, 16]),
        ({"margin": 0.9, "max_ratio": 0.9}, 1.0, [16]),
    ],
)
def test_a_score_may_be_at_its_bound_and_not_above(options, positive, expected):
    assert pick(Window(**OPEN | options), positive) == expected


def test_what_is_kept_counts_and_is_not_taken_again():
    assert pick(Window(**OPEN, negatives=3), kept=(12, 99)) == [11]
    assert pick(Window(**OPEN, negatives=2), kept=(12, 99)) == []
    assert pick(Window(**OPEN, negatives=1), kept=(12, 99)) == []


def test_places_that_are_no_targets_are_never_taken():
    scores = np.array([0.9, 0.8, -np.inf, -np.inf, -np.inf, -np.inf], np.float32)
    for draw in ("top", "random"):
        assert pick(Window(**OPEN, draw=draw), scores=scores) == [11, 12]


def test_a_draw_depends_on_the_pair_and_the_seed_alone_and_reaches_the_whole_window():
    keys, scores = np.arange(50), np.linspace(1, 0, 50, dtype=np.float32)
    drawn = {
        (seed, query): tuple(
            Window(**OPEN, negatives=3, first_rank=5, last_rank=30, draw="random", seed=seed)
            .pick(keys, scores, 2.0, (), (query, 7))
            .tolist()
        )
        for seed in range(2)
        for query in range(60)
    }
    again = Window(**OPEN, negatives=3, first_rank=5, last_rank=30, draw="random", seed=1)
    assert drawn[1, 4] == tuple(again.pick(keys, scores, 2.0, (), (4, 7)).tolist())
    assert {column for columns in drawn.values() for column in columns} == set(range(4, 30))
    assert all(len(set(columns)) == 3 and list(columns) == sorted(columns) for columns in drawn.values())
    assert len(set(drawn.values())) > 100


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"negatives": 0}, "negatives"),
        ({"first_rank": 0}, "first_rank"),
        ({"first_rank": 5, "last_rank": 4}, "last_rank"),
        ({"max_score": float("nan")}, "max_score"),
        ({"max_ratio": 0.0}, "max_ratio"),
        ({"max_ratio": float("inf")}, "max_ratio"),
        ({"margin": -0.1}, "margin"),
        ({"draw": "best"}, "draw"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_window_that_means_nothing_is_refused_by_name(options, name):
    with pytest.raises(CocoaError, match=f"{name} is") as caught:
        Window(**options)
    assert caught.value.code == "E_USAGE_WINDOW"
    assert caught.value.exit_code == 2
