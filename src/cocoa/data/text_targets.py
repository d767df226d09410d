"""The pairs of a collection whose target is a text: where texts are rebuilt, a picture has none but its instruction."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from cocoa.data.sources import Grouped, Pairs
from cocoa.sample import Pair


class TextTargets:
    """Those pairs of a collection, in its order and its groups; `left_out` is how many others it has."""

    def __init__(self, pairs: Pairs) -> None:
        sizes = list(pairs.groups) if isinstance(pairs, Grouped) else [len(pairs)]
        starts = [0, *accumulate(sizes)]
        kept = [
            [number for number in range(start, start + size) if not pairs[number].target.images]
            for start, size in zip(starts, sizes, strict=False)
        ]
        self._pairs = pairs
        self._kept = [number for group in kept for number in group]
        self.groups: Sequence[int] = tuple(map(len, kept))
        self.left_out = len(pairs) - len(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Pair:
        return self._pairs[self._kept[index]]
