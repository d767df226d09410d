"""Exact search over a folder of embeddings, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cocoa.corpus.embeddings import Embeddings
from cocoa.embedder import Embedder, Item, identity_difference
from cocoa.errors import ModelError, UsageError


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that was found; `score` is the cosine with the query, in [-1, 1]."""

    id: str
    score: float
    text: str
    image: str


class Index:
    """Embeddings that can be searched, with the model that made them and no other."""

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings = embeddings
        self._vectors = embeddings.vectors()
        rows = embeddings.table().select(["id", "text", "image"])
        self._rows = list(zip(*(column.to_pylist() for column in rows.columns), strict=True))

    @classmethod
    def open(cls, folder: str | Path) -> Index:
        """Returns the index of a folder that `cocoa embed` wrote."""
        return cls(Embeddings.open(folder))

    def __len__(self) -> int:
        return len(self._rows)

    def search(self, embedder: Embedder, queries: Sequence[Item], k: int = 10) -> list[list[Hit]]:
        """Returns for each query the `k` nearest documents, best first; equal scores keep the documents' order.

        Raises `E_MODEL_OTHER` for an embedder of another model: its vectors mean something else.
        """
        if k < 1:
            raise UsageError("E_USAGE_K", f"k is {k}; use 1 or more")
        if difference := identity_difference(self.embeddings.identity, embedder.identity):
            what = f"the index was made by {self.embeddings.model}, not by {embedder.folder}: {difference}"
            raise ModelError("E_MODEL_OTHER", what)
        scores = embedder.encode_query(queries) @ self._vectors.T  # (queries, documents)
        return [self._best(row, k) for row in scores]

    def _best(self, scores: NDArray[np.float32], k: int) -> list[Hit]:
        order = np.argsort(-scores, kind="stable")[:k]
        hits = []
        for number in order:
            name, text, image = self._rows[number]
            hits.append(Hit(name, float(scores[number]), text, image))
        return hits
