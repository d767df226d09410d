"""The nearest targets are those of plain loops, whatever the blocks, and no block is larger than allowed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cocoa.mining.ranking import rank_targets


def slow(queries, targets, positive, right, k):
    """The same by sorting Python lists."""
    found = []
    for row, query in enumerate(queries):
        scores = [sum(float(a) * float(b) for a, b in zip(query, target, strict=True)) for target in targets]
        others = [place for place in range(len(targets)) if place not in right[row]]
        own = scores[positive[row]]
        rank = 1 + sum(scores[place] >= own for place in others)
        best = sorted(others, key=lambda place: -scores[place])[:k]  # stable: ties keep their order
        found.append((best, [scores[place] for place in best], own, rank))
    return found


def problem(seed: int, num_rows: int, num_targets: int):
    """Vectors of small whole numbers, so that scores are exact and often equal; some vectors come twice."""
    rng = np.random.default_rng(seed)
    queries = rng.integers(-2, 3, (num_rows, 4)).astype(np.float32)
    targets = rng.integers(-2, 3, (num_targets, 4)).astype(np.float32)
    targets[rng.integers(num_targets, size=num_targets // 3)] = targets[0]
    positive = rng.integers(num_targets, size=num_rows).tolist()
    right = [sorted({own, *rng.integers(num_targets, size=int(rng.integers(0, 4))).tolist()}) for own in positive]
    return queries, targets, positive, right


@pytest.mark.parametrize("block_scores", [1, 40, 1 << 20])
@pytest.mark.parametrize("k", [1, 5, 100])
@pytest.mark.parametrize(("num_rows", "num_targets"), [(1, 1), (7, 2), (23, 31)])
def test_rankings_are_those_of_plain_loops(num_rows, num_targets, k, block_scores):
    for seed in range(5):
        asked = problem(seed, num_rows, num_targets)
        expected = slow(*asked, k)
        row = 0
        for ranking in rank_targets(*asked, k, block_scores=block_scores):
            assert ranking.start == row
            assert len(ranking.rank) == 1 or len(ranking.rank) * num_targets <= block_scores
            for number in range(len(ranking.rank)):
                best, scores, own, rank = expected[row]
                assert ranking.places[number, : len(best)].tolist() == best
                assert ranking.scores[number, : len(best)].tolist() == scores
                assert (ranking.scores[number, len(best) :] == -np.inf).all()
                assert (ranking.positive[number], ranking.rank[number]) == (own, rank)
                row += 1
        assert row == num_rows


def test_a_constant_model_puts_every_positive_last_and_keeps_the_order():
    ones = np.ones((6, 3), np.float32)
    [ranking] = rank_targets(ones, ones, list(range(6)), [[place] for place in range(6)], 3)
    assert ranking.rank.tolist() == [6] * 6
    assert ranking.places.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2], [0, 1, 2]]


def test_memory_is_that_of_a_block_and_not_of_all_scores():
    peak, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def mebibytes() -> float:
        line = next(line for line in peak.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024

    num = 10_000
    vectors = torch.nn.functional.normalize(torch.randn(num, 8, generator=torch.Generator().manual_seed(0))).numpy()
    own = list(range(num))
    # What libraries load when they are first used is not ours.
    list(rank_targets(vectors[:9], vectors[:9], own[:9], [[place] for place in own[:9]], 3))
    try:
        reset.write_text("5")
    except OSError:
        pytest.skip("the peak of memory cannot be set back here")
    before = mebibytes()
    blocks = [
        len(ranking.rank)
        for ranking in rank_targets(vectors, vectors, own, [[place] for place in own], 10, block_scores=1 << 19)
    ]
    assert sum(blocks) == num
    assert max(blocks) == (1 << 19) // num
    # All scores are 381 MiB; a block is 2, with a few copies and masks beside it.
    assert mebibytes() - before < 100
