"""Shorter vectors and smaller numbers: what is lost is said, and what is left can be compared as before.

Shapes: N vectors, D dimensions.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cocoa.errors import UsageError

Precision = Literal["float32", "float16", "int8", "binary"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
LENGTH_ERROR = 1e-3
"""How far from 1 the length of a unit vector may be."""


def shortened(vectors: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """Returns the first `dimensions` numbers of unit vectors [N, D], made unit vectors again (Matryoshka).

    Raises `E_USAGE_DIMENSIONS` outside 1..D. A vector with nothing but zeros there stays zero.
    """
    full = vectors.shape[1]
    if not 1 <= dimensions <= full:
        raise UsageError("E_USAGE_DIMENSIONS", f"dimensions is {dimensions}; this model has 1 to {full}")
    if dimensions == full:
        return vectors
    first = vectors[:, :dimensions]
    norms = np.linalg.norm(first, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(first, norms, out=np.zeros_like(first), where=norms > 0)
    return unit


def quantized(vectors: NDArray[np.float32], precision: Precision) -> NDArray[Any]:
    """Returns unit vectors [N, D] in a smaller type.

    * `float16`: [N, D], rounded to nearest.
    * `int8`: [N, D], `round(127 v / max|v|)` with each vector's own largest number, halves to even. The direction is
      kept and the length is not, so compare by cosine (divide by the norms).
    * `binary`: uint8 [N, ceil(D / 8)], one bit `v > 0` for each number, the first in the highest bit, zeros at the end.
      Compare by Hamming distance.

    Raises `E_USAGE_PRECISION` for any other.
    """
    match precision:
        case "float32":
            return vectors
        case "float16":
            return vectors.astype(np.float16)
        case "int8":
            largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
            rounded: NDArray[np.int8] = np.rint(127 * vectors / np.where(largest > 0, largest, 1)).astype(np.int8)
            return rounded
        case "binary":
            bits: NDArray[np.uint8] = np.packbits(vectors > 0, axis=1)
            return bits
    raise UsageError("E_USAGE_PRECISION", f"precision is {precision!r}; use one of {', '.join(PRECISIONS)}")
