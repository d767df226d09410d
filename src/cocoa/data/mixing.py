"""Several sources as one, in an order that is a pure function of (seed, position)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from cocoa.data.sources import Pairs
from cocoa.errors import DataError
from cocoa.sample import Pair


class Mixture:
    """Sources laid end to end and shuffled anew each epoch; every pair comes once an epoch."""

    def __init__(self, sources: Sequence[Pairs], seed: int) -> None:
        self._sources = sources
        self._ends = list(accumulate(len(source) for source in sources))
        self._seed = seed
        if not self._ends or self._ends[-1] == 0:
            raise DataError("E_DATA_EMPTY", "the sources hold no pairs")

    def __len__(self) -> int:
        return self._ends[-1]

    def batch(self, step: int, size: int) -> list[Pair]:
        """Returns the pairs of a step (from 0); a batch may run over the end of an epoch."""
        return [self.pair(position) for position in range(step * size, (step + 1) * size)]

    def pair(self, position: int) -> Pair:
        """Returns the pair at a position in the endless shuffled order."""
        epoch, place = divmod(position, len(self))
        index = int(_order(self._seed, epoch, len(self))[place])
        number = bisect_right(self._ends, index)
        start = self._ends[number - 1] if number else 0
        return self._sources[number][index - start]


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.Philox(key=[seed % 2**64, epoch])).permutation(size)
