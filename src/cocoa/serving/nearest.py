"""From a vector, whole or cut short, to the nearest documents, those that it was made of left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cocoa.corpus.filters import Every, Filter, Not, OneOf, parse_filter
from cocoa.corpus.hits import MAX_K, Hit
from cocoa.corpus.index import Index
from cocoa.precision import shortened

_CANDIDATES = 4
"""Candidates that are scored again for each hit of a shorter vector, and a hundred more."""


def nearest(
    index: Index, vector: NDArray[np.float32], k: int, condition: Filter | None = None, dimensions: int | None = None
) -> list[Hit]:
    """Returns the `k` hits that are nearest to a unit vector [D], best first, compared in their first `dimensions`.

    An index holds whole vectors: for fewer dimensions it gives candidates, nearest by these dimensions before each is
    made of unit length again, and these are scored exactly.
    """
    if dimensions is None or dimensions == len(vector):
        return index.search_vectors(vector[None], k, filter=condition)[0]
    query = shortened(vector[None], dimensions)[0]
    padded = np.zeros_like(vector)
    padded[:dimensions] = query
    num_candidates = min(_CANDIDATES * k + 100, MAX_K)
    candidates = index.search_vectors(padded[None], num_candidates, filter=condition)[0]
    rows = index.known([hit.id for hit in candidates])
    candidates = [hit for hit in candidates if hit.id in rows]  # Others have been deleted since.
    if not candidates:
        return []
    scores = shortened(np.stack([rows[hit.id].vector for hit in candidates]), dimensions) @ query
    order = np.argsort(-scores, kind="stable")[:k]
    return [replace(candidates[place], score=float(scores[place])) for place in order]


def others(index: Index, given: Mapping[str, Any] | None, examples: Sequence[str]) -> Filter | None:
    """Returns a filter in JSON and "none of these examples" as one; raises `E_USAGE_FILTER`."""
    parts: list[Filter] = []
    if given is not None:
        parts.append(parse_filter(given, index.columns))
    if examples:
        parts.append(Not(OneOf("id", "string", tuple(examples))))
    return Every(tuple(parts)) if parts else None
