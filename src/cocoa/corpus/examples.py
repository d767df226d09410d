"""A query made of examples: more like these, less like those."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cocoa.errors import UsageError

LEAST_NORM = 1e-4


def combined(
    wanted: NDArray[np.float32], unwanted: NDArray[np.float32] | None = None, *, weight: float = 0.5
) -> NDArray[np.float32]:
    """Returns float32 (D) of unit norm: the mean of the wanted (N, D) minus `weight` times that of the unwanted (M, D).

    All are of unit norm. Raises `E_USAGE_EXAMPLES` if nothing is wanted, if the weight is no finite number, or if
    what is left is nearly zero.
    """
    if not len(wanted):
        raise UsageError("E_USAGE_EXAMPLES", "give a text, a picture or an example that is wanted")
    if not math.isfinite(weight):
        raise UsageError("E_USAGE_EXAMPLES", f"the weight of what is not wanted is {weight}: give a finite number")
    query = wanted.mean(axis=0, dtype=np.float64)
    if unwanted is not None and len(unwanted):
        query -= weight * unwanted.mean(axis=0, dtype=np.float64)
    norm = np.linalg.norm(query)
    if norm < LEAST_NORM:
        raise UsageError("E_USAGE_EXAMPLES", "wanted and unwanted examples cancel each other")
    unit: NDArray[np.float32] = (query / norm).astype(np.float32)
    return unit
