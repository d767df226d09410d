"""The golden inputs once more, by whoever is asked: the smallest cosine with the golden vectors, by kind of input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cocoa.errors import CocoaError, DataError, ModelError, UsageError
from cocoa.files import check_folder
from cocoa.model import CARD, Card, EmbeddingModel
from cocoa.model.golden import Golden, GoldenInput, kinds_of
from cocoa.model.readme import README
from cocoa.verification.server import ask_server
from cocoa.verification.stock import ask_stock

THRESHOLD = 0.9999
"""Below this cosine a vector is not the golden one; float32 on another machine differs by some 1e-9."""
STOCK = "sentence-transformers"

Ask = Callable[[Sequence[GoldenInput]], NDArray[np.float32]]
"""Asks somebody for the vectors of inputs of one kind."""


@dataclass(frozen=True)
class KindResult:
    """How the inputs of one kind did: how many there are and their smallest cosine, or why there were no vectors."""

    kind: str
    count: int
    smallest_cosine: float | None
    reason: str = ""


@dataclass(frozen=True)
class Verification:
    """What was compared with a model folder's golden vectors, and how each kind of input did."""

    against: str
    threshold: float
    kinds: tuple[KindResult, ...]

    @property
    def passed(self) -> bool:
        """Whether every kind of input was answered with cosines of at least `threshold`."""
        return all(kind.smallest_cosine is not None and kind.smallest_cosine >= self.threshold for kind in self.kinds)

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON can hold it."""
        kinds = {
            kind.kind: {"inputs": kind.count, "smallest_cosine": kind.smallest_cosine, "reason": kind.reason}
            for kind in self.kinds
        }
        return {"against": self.against, "threshold": self.threshold, "passed": self.passed, "kinds": kinds}


def verify(
    folder: Path, *, against: str | None = None, threshold: float = THRESHOLD, api_key: str | None = None
) -> Verification:
    """Returns how the golden vectors of a model folder compare with those of `against`.

    `against` is None (this package), `sentence-transformers`, or the URL of a server with OpenAI's `/v1/embeddings`,
    which gets `api_key`. Before that every file of the folder is compared with its hash.

    Raises `E_MODEL_MISSING` for another folder, `E_MODEL_INCOMPLETE` for a file that is not the one written,
    `E_MODEL_GOLDEN` for no golden vectors, and what opening the model raises; a kind of input that is refused is a
    `KindResult` with the reason.
    """
    if not (folder / CARD).is_file():
        Card.read(folder)  # Which says what folder it is instead.
    try:
        check_folder(folder, hashes=True, free=(README,))
    except DataError as error:
        raise ModelError("E_MODEL_INCOMPLETE", error.message, where=str(folder)) from error
    golden = Golden.read(folder)
    ask = _asker(folder, against, api_key)
    kinds = tuple(_compare(golden, kind, places, ask) for kind, places in kinds_of(golden.inputs).items())
    return Verification(against or "cocoa", threshold, kinds)


def _asker(folder: Path, against: str | None, api_key: str | None) -> Ask:
    if against is None:
        # The self-test would refuse where this is to say how far off the model is.
        model = EmbeddingModel.load(folder, self_test=False)
        return lambda inputs: model.encode([one.sample for one in inputs])
    if against == STOCK:
        return ask_stock(folder)
    if against.startswith(("http://", "https://")):
        return ask_server(against, api_key)
    raise UsageError("E_USAGE_AGAINST", f"--against is {STOCK} or a URL, not {against!r}")


def _compare(golden: Golden, kind: str, places: list[int], ask: Ask) -> KindResult:
    try:
        vectors = ask([golden.inputs[place] for place in places])
    except CocoaError as error:
        return KindResult(kind, len(places), None, error.message)
    wanted = (len(places), golden.vectors.shape[1])
    if vectors.shape != wanted:
        return KindResult(kind, len(places), None, f"vectors of shape {vectors.shape}, not {wanted}")
    cosines = Golden(tuple(golden.inputs[place] for place in places), golden.vectors[places], {}).cosines(vectors)
    return KindResult(kind, len(places), float(cosines.min()))
