"""From documents to checked vectors: decoded ahead by threads, embedded together in windows of bounded size.

Shapes: W documents of a window, D dimensions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray

from cocoa.backbones import Encoded
from cocoa.batch import fitted
from cocoa.corpus.documents import BadDocument, Document
from cocoa.embedder import Embedder
from cocoa.errors import CocoaError, ModelError
from cocoa.precision import LENGTH_ERROR
from cocoa.prompts import prompted

WINDOW_ROWS = 512
WINDOW_TOKENS = 1 << 15
"""A window ends after so many rows or tokens: enough for even batches, few enough to hold their pixels in memory."""

_AHEAD_PER_THREAD = 4


@dataclass
class Window:
    """Documents that are embedded together, decoded, `cut_texts` of them only in part; `bad` could not be."""

    documents: list[Document] = field(default_factory=list)
    encoded: list[Encoded] = field(default_factory=list)
    bad: list[BadDocument] = field(default_factory=list)
    cut_texts: int = 0

    @property
    def rows(self) -> int:
        """Good and bad documents."""
        return len(self.documents) + len(self.bad)


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A document as the model reads it, and whether all of its text is in it."""

    document: Document
    encoded: Encoded
    is_cut: bool


class Windows:
    """An embedder with threads that decode for it; for `with`."""

    def __init__(self, embedder: Embedder, threads: int) -> None:
        self.embedder = embedder
        self._ahead = _AHEAD_PER_THREAD * threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="cocoa-decode")

    def __enter__(self) -> Windows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def decoded(self, rows: Iterable[Document | BadDocument]) -> Iterator[Window]:
        """Yields the rows in windows, in their order; where a window ends depends on the rows alone."""
        window, tokens = Window(), 0
        for row in self._decoded(rows):
            if isinstance(row, BadDocument):
                window.bad.append(row)
            else:
                window.documents.append(row.document)
                window.encoded.append(row.encoded)
                window.cut_texts += row.is_cut
                tokens += len(row.encoded)
            if window.rows >= WINDOW_ROWS or tokens >= WINDOW_TOKENS:
                yield window
                window, tokens = Window(), 0
        if window.rows:
            yield window

    def _decoded(self, rows: Iterable[Document | BadDocument]) -> Iterator[BadDocument | _Decoded]:
        """The rows one by one; threads are a few rows ahead, so that a slow picture holds up little."""
        upcoming: deque[Future[BadDocument | _Decoded]] = deque()
        for row in rows:
            upcoming.append(self._pool.submit(self._decode, row))
            if len(upcoming) > self._ahead:
                yield upcoming.popleft().result()
        while upcoming:
            yield upcoming.popleft().result()

    def _decode(self, row: Document | BadDocument) -> BadDocument | _Decoded:
        if isinstance(row, BadDocument):
            return row
        model = self.embedder.model
        try:
            whole = model.backbone.encode(prompted(row.sample, "document", None, model.prompts))
            encoded = fitted(whole, model.max_content_tokens)
            return _Decoded(row, encoded, is_cut=len(encoded) < len(whole))
        except CocoaError as error:
            return BadDocument(row.id, error if error.where else error.at(row.sample.where))

    def embed(self, window: Window) -> tuple[list[Document], NDArray[np.float32], list[BadDocument]]:
        """Returns the window's documents, their vectors float32 [W, D] and the bad ones.

        A vector that is not finite or not of unit length makes its row a bad one (`E_MODEL_OUTPUT`); vectors of another
        shape are the model's fault and raise it.
        """
        if not window.documents:
            return [], np.zeros((0, self.embedder.dimensions), np.float32), window.bad
        with torch.inference_mode():
            vectors = self.embedder.model.embed_all(window.encoded).cpu().numpy()
        if vectors.shape != (len(window.documents), self.embedder.dimensions):
            what = f"the model gave vectors of shape {vectors.shape} for {len(window.documents)} rows"
            raise ModelError("E_MODEL_OUTPUT", what, where=window.documents[0].sample.where)
        with np.errstate(invalid="ignore", over="ignore"):
            lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
            good = np.abs(lengths - 1) <= LENGTH_ERROR  # False for what is not finite.
        if good.all():
            return window.documents, vectors, window.bad
        bad = [
            BadDocument(document.id, _wrong_vector(document, float(length)))
            for document, length, fine in zip(window.documents, lengths, good, strict=True)
            if not fine
        ]
        kept = [document for document, fine in zip(window.documents, good, strict=True) if fine]
        return kept, vectors[good], window.bad + bad


def _wrong_vector(document: Document, length: float) -> ModelError:
    what = f"the vector has length {length:.4g}, not 1" if np.isfinite(length) else "the vector is not finite"
    return ModelError("E_MODEL_OUTPUT", what, where=document.sample.where)
