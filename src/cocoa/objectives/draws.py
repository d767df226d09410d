"""Chance that belongs to samples: what is hidden in one does not depend on what shares its batch, row or rank."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """The random streams of a batch: `numbers` has one number a sample, equal numbers draw equally under one `seed`."""

    seed: int
    numbers: tuple[int, ...]

    def of(self, sample: int, purpose: str) -> np.random.Generator:
        """Returns the stream of sample `sample` (its place in the batch) for one purpose."""
        return np.random.Generator(np.random.Philox(key=[_key(self.seed, purpose), self.numbers[sample] % 2**64]))

    def shared(self, purpose: str) -> np.random.Generator:
        """Returns a stream that is the same for all samples, and no sample's own."""
        # Left to itself, numpy takes two such numbers through a float, which has no room for the second.
        key = np.array([_key(self.seed, purpose), 2**64 - 1], np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def part(self, places: Sequence[int]) -> Draws:
        """Returns the streams of some samples, in this order."""
        return replace(self, numbers=tuple(self.numbers[place] for place in places))


@lru_cache(maxsize=64)
def _key(seed: int, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "big")


def choose(eligible: Tensor, samples: Tensor, rate: float, draws: Draws, purpose: str) -> Tensor:
    """Returns bool like `eligible` [N, S]: in each sample, `rate` of its eligible places, drawn without replacement.

    `samples` [N, S] says which sample a place belongs to. The number is rounded, but at least one where there is any
    eligible place; a sample without one gets none.
    """
    places = np.flatnonzero(eligible.numpy())
    owners = samples.numpy().reshape(-1)[places]
    order = owners.argsort(kind="stable")  # by sample, and in reading order inside each
    places, owners = places[order], owners[order]
    chosen = np.zeros(eligible.numel(), bool)
    numbers, starts = np.unique(owners, return_index=True)
    # The piece before the first start is empty.
    for sample, own in zip(numbers, np.split(places, starts)[1:], strict=True):
        count = max(1, round(rate * len(own)))
        chosen[own[draws.of(int(sample), purpose).permutation(len(own))[:count]]] = True
    return torch.from_numpy(chosen.reshape(eligible.shape))
