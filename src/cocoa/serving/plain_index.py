"""A stand-in with the shape that the index will have, over today's exact one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cocoa.corpus.index import Index


@dataclass(frozen=True)
class PlainHit:
    """A hit with columns."""

    id: str
    score: float
    text: str
    image: str
    columns: dict[str, Any] = field(default_factory=dict)


class PlainIndex:
    """Exact search by vectors."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.columns: dict[str, str] = {}

    def search_vectors(
        self,
        vectors: NDArray[np.float32],
        k: int,
        *,
        filter: Any = None,  # noqa: A002
    ) -> list[list[PlainHit]]:
        """Returns the nearest documents of each vector."""
        rows = self.index.embeddings
        scores = vectors @ rows.vectors.T
        return [
            [PlainHit(rows.ids[n], float(row[n]), rows.texts[n], rows.images[n]) for n in np.argsort(-row)[:k]]
            for row in scores
        ]
