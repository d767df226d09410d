"""Which targets of a ranking are hard negatives: not so near that they may be right, not so far that they are easy."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cocoa.errors import UsageError

Draw = Literal["top", "random"]


@dataclass(frozen=True, slots=True)
class Window:
    """The ranks and scores that a row's negatives may have, and how so many are taken of them.

    Ranks count from 1 among the targets that are not right for the query. A score is at most `max_score`, at most the
    positive's less `margin`, and at most `max_ratio` of the positive's (of a negative score: as far below it); None is
    no bound. `top` takes the best of the window, `random` any of it, the same for the same pair and `seed`.
    """

    negatives: int = 7
    first_rank: int = 1
    last_rank: int = 100
    max_score: float | None = None
    max_ratio: float | None = 0.95
    margin: float | None = None
    draw: Draw = "top"
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [
            ("negatives", self.negatives >= 1, "1 or more"),
            ("first_rank", self.first_rank >= 1, "1 or more"),
            ("last_rank", self.last_rank >= self.first_rank, f"first_rank ({self.first_rank}) or more"),
            ("max_score", self.max_score is None or math.isfinite(self.max_score), "a finite number or None"),
            ("max_ratio", self.max_ratio is None or 0 < self.max_ratio < math.inf, "above 0 or None"),
            ("margin", self.margin is None or 0 <= self.margin < math.inf, "0 or more or None"),
            ("draw", self.draw in get_args(Draw), " or ".join(get_args(Draw))),
            ("seed", self.seed >= 0, "0 or more"),
        ]
        for name, is_good, wanted in wrong:
            if not is_good:
                raise UsageError("E_USAGE_WINDOW", f"{name} is {getattr(self, name)!r}; use {wanted}")

    def highest(self, positive: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns the highest score that a negative may have, for each score of a positive."""
        scores = positive.astype(np.float64)
        bounds = [np.full(scores.shape, np.inf if self.max_score is None else self.max_score)]
        if self.max_ratio is not None:
            # A plain product would lie above a negative score.
            bounds.append(scores * np.where(scores < 0, 2 - self.max_ratio, self.max_ratio))
        if self.margin is not None:
            bounds.append(scores - self.margin)
        highest: NDArray[np.float64] = np.minimum.reduce(bounds)
        return highest

    def pick(
        self,
        keys: NDArray[np.int64],
        scores: NDArray[np.float32],
        highest: float,
        kept: Collection[int],
        pair: tuple[int, int],
    ) -> NDArray[np.int64]:
        """Returns the columns of a row's negatives in its ranking, best first; those `kept` count and are left out.

        `keys` (of content) and `scores` are the ranking, best first; a score of minus infinity is no target. `pair` has
        the keys of query and positive: what is drawn depends on nothing else.
        """
        columns = np.arange(self.first_rank - 1, min(self.last_rank, len(keys)))
        is_open = (scores[columns] <= highest) & (scores[columns] > -np.inf)
        if kept:
            is_open &= ~np.isin(keys[columns], list(kept))
        columns = columns[is_open]
        wanted = max(0, self.negatives - len(kept))
        if self.draw == "random" and len(columns) > wanted:
            drawn = np.random.default_rng([self.seed, *pair]).choice(len(columns), wanted, replace=False)
            return columns[np.sort(drawn)]
        return columns[:wanted]
