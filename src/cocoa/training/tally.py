"""The sums of a step: losses with their counts, and the tokens that were read; added up over chunks and ranks."""

from __future__ import annotations

from collections import defaultdict

import torch

from cocoa.batch import Batch
from cocoa.training.ranks import Ranks


class Tally:
    """Sum and count of each objective's loss, real tokens, and tokens with padding."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self.num_tokens = 0
        self.num_places = 0

    def add(self, name: str, loss: float, count: int) -> None:
        """Adds a part of an objective's loss."""
        self._sums[name] += loss
        self._counts[name] += count

    def read(self, batch: Batch) -> None:
        """Counts the tokens of a batch that went through the model once."""
        self.num_tokens += batch.num_tokens
        self.num_places += batch.roles.numel()

    def join(self, other: Tally) -> None:
        """Adds another tally of the same step."""
        for name in other._sums:
            self.add(name, other._sums[name], other._counts[name])
        self.num_tokens += other.num_tokens
        self.num_places += other.num_places

    def over(self, ranks: Ranks) -> Tally:
        """Returns the tally of all ranks together; all must hold the same objectives."""
        names = list(self._sums)
        own = [value for name in names for value in (self._sums[name], float(self._counts[name]))]
        summed = ranks.total(torch.tensor([*own, float(self.num_tokens), float(self.num_places)], dtype=torch.float64))
        *parts, tokens, places = summed.tolist()
        total = Tally()
        for number, name in enumerate(names):
            total.add(name, parts[2 * number], int(parts[2 * number + 1]))
        total.num_tokens, total.num_places = int(tokens), int(places)
        return total

    @property
    def losses(self) -> dict[str, float]:
        """The loss of each objective a prediction; 0 where there was nothing to predict."""
        return {name: loss / max(1, self._counts[name]) for name, loss in self._sums.items()}

    @property
    def pad_rate(self) -> float:
        """Share of padding in what the model computed."""
        return 1 - self.num_tokens / max(1, self.num_places)
