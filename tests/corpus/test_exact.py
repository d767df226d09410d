"""The highest of many scores, found block by block, are those that sorting all of them finds."""

from __future__ import annotations

import numpy as np
import pytest

from cocoa.corpus.stores.exact import highest

LIMIT = 18


def scores_of(kind: str, count: int) -> np.ndarray:
    """Scores of cosines, drawn or shaped so that blocks differ."""
    chance = np.random.default_rng(count)
    drawn = chance.uniform(-1, 1, count).astype(np.float32)
    return {
        "drawn": drawn,
        "rising": np.sort(drawn),
        "falling": np.sort(drawn)[::-1].copy(),
        "few values": np.round(drawn, 1),
        "all equal": np.zeros(count, np.float32),
        "best in the odd rows behind the blocks": np.where(np.arange(count) >= count // 512 * 512, 2 + drawn, drawn),
    }[kind]


@pytest.mark.parametrize("count", [1, 17, 18, 19, 512, 18 * 512, 19 * 512, 19 * 512 + 7, 50_000])
@pytest.mark.parametrize(
    "kind", ["drawn", "rising", "falling", "few values", "all equal", "best in the odd rows behind the blocks"]
)
def test_the_highest_scores_are_those_of_a_sort(kind, count):
    scores = scores_of(kind, count)
    found = highest(scores, LIMIT)
    assert len(set(found.tolist())) == len(found) == min(LIMIT, count)
    np.testing.assert_array_equal(np.sort(scores[found]), np.sort(scores)[-LIMIT:])


def test_a_score_that_is_not_a_number_hides_no_other():
    scores = scores_of("drawn", 50_000)
    scores[::997] = np.nan
    found = highest(scores, LIMIT)
    np.testing.assert_array_equal(np.sort(scores[found]), np.sort(scores[~np.isnan(scores)])[-LIMIT:])
