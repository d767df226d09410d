"""An index against the embeddings that it was built from, which stay the source of truth."""

from __future__ import annotations

import numpy as np

from cocoa.corpus.embeddings import Embeddings, vectors_of
from cocoa.corpus.stores.rows import table_vectors
from cocoa.corpus.stores.store import Store, Verification

_SHOWN = 20


def compare(store: Store, embeddings: Embeddings) -> Verification:
    """Returns which ids the index lacks, has too many, or has with another vector; the first 20 of each by name."""
    missing: list[str] = []
    different: list[str] = []
    known: set[str] = set()
    for batch in embeddings.batches():
        names, vectors = batch.column("id").to_pylist(), vectors_of(batch)
        known.update(names)
        rows = store.take(names)
        held = dict(zip(rows["id"].to_pylist(), table_vectors(rows), strict=True))
        for name, vector in zip(names, vectors, strict=True):
            if name not in held:
                missing.append(name)
            elif not np.array_equal(held[name], vector):
                different.append(name)
    extra = [name for batch in store.scan(["id"]) for name in batch.column("id").to_pylist() if name not in known]
    damages = [
        line
        for what, names in (
            ("not in the index", missing),
            ("another vector in the index", different),
            ("not in the embeddings", extra),
        )
        for line in _lines(what, names)
    ]
    return Verification(len(known), damages)


def _lines(what: str, names: list[str]) -> list[str]:
    lines = [f"{name!r}: {what}" for name in names[:_SHOWN]]
    return [*lines, f"{len(names) - _SHOWN:,} more: {what}"] if len(names) > _SHOWN else lines
