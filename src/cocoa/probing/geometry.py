"""How vectors lie on the sphere: close where they should be, spread where they can be.

Shapes: N vectors of D dimensions, all of unit length.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
_TINY = 1e-12


def alignment(queries: Vectors, targets: Vectors) -> float:
    """Returns the mean squared distance of queries [N, D] to their own targets [N, D], in [0, 4]; lower is closer."""
    return float(np.square(queries.astype(np.float64) - targets).sum(1).mean())


def uniformity(vectors: Vectors) -> float:
    """Returns the log of the mean of exp(-2 d²) over all pairs of different vectors; 0 is all in one place.

    Lower is more spread. Wang and Isola, arXiv 2005.10242.
    """
    cosines = _cosines(vectors)
    return float(np.log(np.exp(-2 * (2 - 2 * cosines)).mean()))


def anisotropy(vectors: Vectors) -> float:
    """Returns the mean cosine of two different vectors, in [-1, 1]; near 1 all point the same way."""
    return float(_cosines(vectors).mean())


def effective_rank(vectors: Vectors) -> float:
    """Returns how many directions the vectors use around their mean, from 1 to min(N - 1, D).

    The exponential of the entropy of the normalised singular values (Roy and Vetterli, 2007).
    """
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    values = np.linalg.svd(centred, compute_uv=False)
    shares = values[values > _TINY * max(values.max(), _TINY)]
    shares = shares / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 1.0


def _cosines(vectors: Vectors) -> NDArray[np.float64]:
    """The cosines of all pairs of different vectors."""
    if len(vectors) < 2:
        raise ValueError("pairs need two vectors")
    exact = vectors.astype(np.float64)
    return np.clip((exact @ exact.T)[np.triu_indices(len(exact), 1)], -1.0, 1.0)
