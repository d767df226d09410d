"""Several sources as one, in an order that is a pure function of (seed, position)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from cocoa.data.sources import Grouped, Pairs
from cocoa.errors import DataError, UsageError
from cocoa.sample import Pair


class Mixture:
    """Sources laid end to end and shuffled anew each epoch; every pair comes once an epoch.

    With `sub_batch` each run of so many positions (from 0) holds pairs of one group only, a table of a source that has
    `groups` or else a whole source; what is left over of the groups stands mixed at the end of the epoch. An epoch is
    then cut to a multiple of `sub_batch`, so that runs and batches stay in line: another few pairs miss each epoch.

    `weights` say, source by source, how often its pairs come in an epoch: 0.5 takes half of them, the other half in the
    next epoch; 2 takes each twice.
    """

    def __init__(
        self,
        sources: Sequence[Pairs],
        seed: int,
        sub_batch: int | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.sources = tuple(sources)
        self._ends = list(accumulate(len(source) for source in sources))
        self._seed = seed
        self._sub_batch = sub_batch
        weights = weights or [1.0] * len(sources)
        self._groups = tuple(size for source in sources for size in _groups(source))
        self._counts = tuple(
            max(1, round(weight * size)) if size else 0
            for source, weight in zip(sources, weights, strict=True)
            for size in _groups(source)
        )
        if not self._ends or self._ends[-1] == 0:
            raise DataError("E_DATA_EMPTY", "the sources hold no pairs")
        if sub_batch is not None and sub_batch < 1:
            raise UsageError("E_USAGE_SUB_BATCH", f"sub_batch is {sub_batch}; use 1 or more")
        if self.epoch_size == 0:
            message = f"the sources hold {len(self)} pairs, fewer than one sub-batch of {sub_batch}"
            raise DataError("E_DATA_SUB_BATCH", message)

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def epoch_size(self) -> int:
        """The number of positions of an epoch: that of weighted pairs, less the few that sub-batches leave out."""
        size = sum(self._counts)
        return size - size % (self._sub_batch or 1)

    def batch(self, step: int, size: int) -> list[Pair]:
        """Returns the pairs of a step (from 0); a batch may run over the end of an epoch."""
        return [self.pair(position) for position in range(step * size, (step + 1) * size)]

    def pair(self, position: int) -> Pair:
        """Returns the pair at a position in the endless shuffled order."""
        epoch, place = divmod(position, self.epoch_size)
        index = int(_order(self._seed, epoch, self._groups, self._sub_batch, self._counts)[place])
        number = bisect_right(self._ends, index)
        start = self._ends[number - 1] if number else 0
        return self.sources[number][index - start]


def _groups(source: Pairs) -> Sequence[int]:
    """The sizes of the groups that a source's pairs stand in, one after the other."""
    groups = source.groups if isinstance(source, Grouped) else (len(source),)
    if sum(groups) != len(source):
        raise ValueError(f"groups of {sum(groups)} pairs in a source of {len(source)}")
    return groups


@lru_cache(maxsize=4)
def _order(
    seed: int, epoch: int, groups: tuple[int, ...], sub_batch: int | None, counts: tuple[int, ...]
) -> NDArray[np.int64]:
    """The indices of an epoch's pairs, `counts` of each group, in the order of its positions."""
    # Typed, since a list of a large and a small whole number would go through floats, and near seeds become one.
    rng = np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, epoch], np.uint64)))
    size = sum(counts)
    members = [
        start + (np.arange(group) if group == count else _turn(seed, epoch, number, group, count))
        for number, (start, group, count) in enumerate(zip(accumulate((0, *groups)), groups, counts, strict=False))
    ]
    if sub_batch is None:
        return np.concatenate(members)[rng.permutation(size)]
    runs, rests = [], []
    for own, count in zip(members, counts, strict=True):
        shuffled = own[rng.permutation(count)]
        whole = count - count % sub_batch
        runs.append(shuffled[:whole].reshape(-1, sub_batch))
        rests.append(shuffled[whole:])
    # Runs are permuted as rows, so each keeps to its group.
    order = [rng.permutation(np.concatenate(runs)).ravel(), rng.permutation(np.concatenate(rests))]
    return np.concatenate(order)[: size - size % sub_batch]


def _turn(seed: int, epoch: int, number: int, size: int, count: int) -> NDArray[np.int64]:
    """The `count` members of a group of `size` whose turn it is in an epoch: the next in the group's own endless order,
    so that every member comes before any comes again."""
    first = epoch * count
    rounds = range(first // size, (first + count - 1) // size + 1)
    orders = [
        np.random.Generator(
            np.random.Philox(key=np.array([seed % 2**64, around], np.uint64), counter=[0, 0, 0, number + 1])
        ).permutation(size)
        for around in rounds
    ]
    start = first - rounds[0] * size
    return np.concatenate(orders)[start : start + count]
