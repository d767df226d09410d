"""From a query of several parts to one vector, and from a vector, whole or cut short, to the nearest documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cocoa.precision import shortened
from cocoa.serving.problems import RequestError

_UNLIKE = 0.5
"""How far a disliked document pushes, against the pull of what is asked for (Rocchio's usual ratio is 0.2 to 0.5)."""
_CANDIDATES = 4
"""Candidates that are scored again for each hit of a shorter vector."""


def combined(
    asked: NDArray[np.float32] | None, like: NDArray[np.float32], unlike: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Returns the unit vector float32 [D] between what is asked [D] and documents to be like [L, D], away from others.

    What is asked weighs as much as one liked document. Raises `E_REQUEST_QUERY` where nothing is left of it all.
    """
    wanted = [*like] if asked is None else [asked, *like]
    if not wanted:
        raise RequestError("E_REQUEST_QUERY", "give a text, an image, or documents in like")
    vector = np.mean(wanted, axis=0)
    if len(unlike):
        vector = vector - _UNLIKE * np.mean(unlike, axis=0)
    norm = float(np.linalg.norm(vector))
    if norm < 1e-6:
        raise RequestError("E_REQUEST_QUERY", "what is to be like and unlike cancels out", where="unlike")
    result: NDArray[np.float32] = (vector / norm).astype(np.float32)
    return result


def nearest(
    index: Any, vector: NDArray[np.float32], k: int, *, filter_by: Any, dimensions: int | None
) -> Sequence[Any]:
    """Returns the `k` hits that are nearest to a vector [D], best first, compared in their first `dimensions` alone.

    An index holds whole vectors: for fewer dimensions it gives candidates, nearest by these dimensions before each is
    made of unit length again, and these are scored exactly.
    """
    if dimensions is None or dimensions == len(vector):
        hits: Sequence[Any] = index.search_vectors(vector[None], k, filter=filter_by)[0]
        return hits
    query = shortened(vector[None], dimensions)[0]
    padded = np.zeros_like(vector)
    padded[:dimensions] = query
    [candidates] = index.search_vectors(padded[None], _CANDIDATES * k + 100, filter=filter_by)
    if not candidates:
        return []
    rows = index.get([hit.id for hit in candidates])
    scores = shortened(np.stack([row.vector for row in rows]), dimensions) @ query
    order = np.argsort(-scores, kind="stable")[:k]
    return [replace(candidates[place], score=float(scores[place])) for place in order]
