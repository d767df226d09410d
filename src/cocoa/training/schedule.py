"""The learning rate of each step."""

from __future__ import annotations

import math
from typing import Literal


def learning_rate(
    step: int, *, steps: int, warmup_steps: int, peak: float, schedule: Literal["linear", "cosine", "constant"]
) -> float:
    """Returns the rate of step `step` (from 0): up to `peak` over `warmup_steps`, then down to 0 as `schedule` says."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / (steps - warmup_steps)
    match schedule:
        case "linear":
            return peak * (1 - done)
        case "cosine":
            return peak * (1 + math.cos(math.pi * done)) / 2
        case "constant":
            return peak
