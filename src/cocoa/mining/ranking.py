"""The nearest targets of every query, exactly, a block of queries at a time.

Shapes: R rows, B rows of a block, T targets, K nearest kept, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK_SCORES = 1 << 25
"""Scores that are held at a time: 128 MiB."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The rows from `start` on: `places` and `scores` [B, K] of the targets that are not right, best first.

    Equal scores keep the targets' order; where there are fewer than K, scores end in minus infinity. `positive` [B] is
    the score of each row's own target, `rank` [B] its place from 1 among those that are not right, ties against it.
    """

    start: int
    places: NDArray[np.int64]
    scores: NDArray[np.float32]
    positive: NDArray[np.float32]
    rank: NDArray[np.int64]


def rank_targets(
    queries: NDArray[np.float32],
    targets: NDArray[np.float32],
    positive: Sequence[int],
    right: Sequence[Sequence[int]],
    k: int,
    *,
    device: torch.device | None = None,
    block_scores: int = BLOCK_SCORES,
) -> Iterator[Ranking]:
    """Yields the rankings of all rows, block by block; never more than `block_scores` scores (or one row) at a time.

    Args:
        queries: unit vectors [R, D], one for each row.
        targets: unit vectors [T, D].
        positive: the place of each row's own target.
        right: the places of all targets that answer a row's query, its own among them.
        k: nearest targets kept.
        device: where the products are made; default is the CPU.
        block_scores: the most scores at a time.
    """
    everything = torch.from_numpy(targets).to(device).T
    step = max(1, block_scores // max(1, len(targets)))
    k = min(k, len(targets))
    for start in range(0, len(queries), step):
        scores = torch.from_numpy(queries[start : start + step]).to(device) @ everything
        own = torch.tensor(positive[start : start + step], device=device)[:, None]
        score = scores.gather(1, own)
        answers = right[start : start + step]
        rows = np.repeat(np.arange(len(answers)), [len(one) for one in answers])
        columns = np.array([place for one in answers for place in one], np.int64)
        scores[torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)] = -torch.inf
        best, places = _nearest(scores, k)
        yield Ranking(
            start,
            places.cpu().numpy(),
            best.cpu().numpy(),
            score[:, 0].cpu().numpy(),
            (1 + (scores >= score).sum(1)).cpu().numpy(),
        )


def _nearest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best scores of each row and their places; of equal scores the first places."""
    best, places = scores.topk(k, dim=1)
    last = best[:, -1:]
    # Where the last score is shared with one left out, which of them `topk` took is not defined.
    is_shared = (scores == last).sum(1) > (best == last).sum(1)
    for row in is_shared.nonzero()[:, 0].tolist():
        places[row] = scores[row].sort(descending=True, stable=True).indices[:k]
    places = places.sort(1).values
    best, order = scores.gather(1, places).sort(dim=1, descending=True, stable=True)
    return best, places.gather(1, order)
