"""The sums of a step: losses with their counts, and the tokens that were read; added up over chunks and ranks."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from cocoa.batch import Batch
from cocoa.training.ranks import Ranks


class Tally:
    """Sum and count of each objective's loss, real tokens, tokens with padding, and looks (see `cocoa.looks`).

    Sums stay on the device that computes them until one is asked for.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float | Tensor] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self.num_tokens = 0
        self.num_places = 0
        self.num_looks = 0
        self.num_needed_looks = 0

    def add(self, name: str, loss: float | Tensor, count: int) -> None:
        """Adds a part of an objective's loss; waits for no device."""
        # In float64, as Python adds.
        self._sums[name] += loss.detach().double() if isinstance(loss, Tensor) else loss
        self._counts[name] += count

    def read(self, batch: Batch, looks: tuple[int, int]) -> None:
        """Counts the tokens of a batch that went through the model once, and its looks: computed, and needed."""
        self.num_tokens += batch.num_tokens
        self.num_places += batch.roles.numel()
        self.num_looks += looks[0]
        self.num_needed_looks += looks[1]

    def join(self, other: Tally) -> None:
        """Adds another tally of the same step."""
        for name in other._sums:
            self.add(name, other._sums[name], other._counts[name])
        self.num_tokens += other.num_tokens
        self.num_places += other.num_places
        self.num_looks += other.num_looks
        self.num_needed_looks += other.num_needed_looks

    def over(self, ranks: Ranks) -> Tally:
        """Returns the tally of all ranks together; all must hold the same objectives."""
        if ranks.count == 1:
            return self
        sums = self._read_sums()
        names = list(sums)
        own = [value for name in names for value in (sums[name], float(self._counts[name]))]
        sizes = [float(self.num_tokens), float(self.num_places), float(self.num_looks), float(self.num_needed_looks)]
        *parts, tokens, places, looks, needed = ranks.total(torch.tensor([*own, *sizes], dtype=torch.float64)).tolist()
        total = Tally()
        for number, name in enumerate(names):
            total.add(name, parts[2 * number], int(parts[2 * number + 1]))
        total.num_tokens, total.num_places = int(tokens), int(places)
        total.num_looks, total.num_needed_looks = int(looks), int(needed)
        return total

    @property
    def losses(self) -> dict[str, float]:
        """The loss of each objective a prediction; 0 where there was nothing to predict."""
        return {name: loss / max(1, self._counts[name]) for name, loss in self._read_sums().items()}

    @property
    def counts(self) -> dict[str, int]:
        """How much each objective had to predict."""
        return dict(self._counts)

    def _read_sums(self) -> dict[str, float]:
        """The sums as numbers: the one place where a step waits for its device, once for all of them."""
        waiting = {name: loss for name, loss in self._sums.items() if isinstance(loss, Tensor)}
        if waiting:
            self._sums.update(zip(waiting, torch.stack(list(waiting.values())).tolist(), strict=True))
        return {name: float(loss) for name, loss in self._sums.items()}

    @property
    def pad_rate(self) -> float:
        """Share of padding in what the model computed."""
        return 1 - self.num_tokens / max(1, self.num_places)

    @property
    def idle_look_rate(self) -> float:
        """Share of the query-key pairs computed that the layout does not allow."""
        return 1 - self.num_needed_looks / max(1, self.num_looks)
