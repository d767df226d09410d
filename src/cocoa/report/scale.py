"""From values to pixels: a linear scale and its round ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_ROUND_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """A line from the value `low` at pixel `start` to `high` at pixel `end`; `names` may stand at the ticks."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    names: tuple[str, ...] = ()

    def __call__(self, value: float) -> float:
        """Returns the pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def labels(self) -> list[str]:
        """Returns the ticks as people write them, all with as many decimals as their step needs; or their names."""
        if self.names:
            return list(self.names)
        step = self.ticks[1] - self.ticks[0]
        unit, suffix = (1000.0, "k") if max(map(abs, self.ticks)) >= 10_000 else (1.0, "")
        decimals = next((n for n in range(10) if math.isclose(round(step / unit, n), step / unit, rel_tol=1e-6)), 10)
        return [f"{tick / unit + 0.0:.{decimals}f}{suffix if tick else ''}".replace("-", "−") for tick in self.ticks]


def scale_for(values: Sequence[float], start: float, end: float, *, tight: bool = False) -> Scale:
    """Returns a scale over all values, from zero when that is near, to the next round numbers.

    A `tight` scale ends at the last value, wherever the last round number is.
    """
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if 0 < low < 0.5 * high:
        low = 0.0
    if math.isclose(low, high, rel_tol=1e-9):
        room = abs(low) * 0.1 or 1.0
        low, high = (low - room if low else 0.0), high + room
    step = _round_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(step * number for number in range(first, last + 1))
    if not tight:
        return Scale(ticks[0], ticks[-1], start, end, ticks)
    return Scale(low, high, start, end, tuple(tick for tick in ticks if low <= tick <= high * (1 + 1e-9)))


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return power * next(each for each in _ROUND_STEPS if each >= step / power - 1e-9)
