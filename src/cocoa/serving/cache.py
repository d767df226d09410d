"""Vectors that were computed before, by what they were computed from."""

from __future__ import annotations

from collections import OrderedDict

from cocoa.prompts import Side
from cocoa.sample import Sample
from cocoa.serving.metrics import ModelMetrics
from cocoa.serving.vectors import Embedded

Key = tuple[str, Side | None, bool]


class VectorCache:
    """The last `num_items` vectors, least recently used out first.

    Off unless asked for: who may measure time could learn from it what others have asked.
    """

    def __init__(self, num_items: int, metrics: ModelMetrics) -> None:
        self.num_items = num_items
        self.metrics = metrics
        self._kept: OrderedDict[Key, Embedded] = OrderedDict()

    def find(self, sample: Sample, side: Side | None, cut: bool) -> Embedded | None:
        """Returns the vector of an item of equal text and equal bytes of pictures, None if there is none.

        One that was allowed to be `cut` is no answer to who does not allow it.
        """
        if not self.num_items:
            return None
        key = (sample.key, side, cut)
        found = self._kept.get(key)
        self.metrics.looked_up("hit" if found else "miss")
        if found:
            self._kept.move_to_end(key)
        return found

    def keep(self, sample: Sample, side: Side | None, cut: bool, embedded: Embedded) -> None:
        """Remembers a vector."""
        if self.num_items:
            self._kept[sample.key, side, cut] = embedded
            while len(self._kept) > self.num_items:
                self._kept.popitem(last=False)
