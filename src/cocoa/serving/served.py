"""The models of a server: each under its name, with an engine of its own and an index that fits it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cocoa.corpus.index import Index
from cocoa.errors import UsageError
from cocoa.serving.engine import Engine
from cocoa.serving.problems import RequestError

_SHARES = (2, 4, 8)
_LEAST_DIMENSIONS = 8


@dataclass(frozen=True)
class Served:
    """A model: what clients call it, what embeds, and what there is to search, if anything."""

    name: str
    engine: Engine
    index: Index | None = None

    @property
    def lengths(self) -> list[int]:
        """Lengths of vector that are offered, the whole one first: those that the model was trained for.

        A model that was trained for none offers a half, a quarter and an eighth.
        """
        whole = self.engine.dimensions
        shorter = list(reversed(self.engine.matryoshka)) or [
            part for part in (whole // share for share in _SHARES) if part >= _LEAST_DIMENSIONS
        ]
        return [whole, *shorter]

    def check_dimensions(self, dimensions: int | None) -> None:
        """Raises `E_LIMIT_DIMENSIONS` for a length that the model does not have, or was not trained for."""
        whole, trained = self.engine.dimensions, self.engine.matryoshka
        if dimensions is None or dimensions == whole:
            return
        if not 1 <= dimensions < whole:
            raise RequestError("E_LIMIT_DIMENSIONS", f"the model has {whole} dimensions", where="dimensions")
        if trained and dimensions not in trained:
            listed = ", ".join(map(str, trained))
            raise RequestError(
                "E_LIMIT_DIMENSIONS", f"the model was trained for {listed} or {whole} dimensions", where="dimensions"
            )

    def searched(self) -> Index:
        """Returns the index. Raises `E_REQUEST_INDEX` if there is none."""
        if self.index is None:
            raise RequestError("E_REQUEST_INDEX", "this model has no index; start the server with one", status=404)
        return self.index


def named(first: str, models: Sequence[str | Path]) -> list[str]:
    """Returns a name for each model: `first`, then each one's own, with as much of the way to it as tells it apart.

    Raises `E_USAGE_MODEL` where the whole way does not.
    """
    names = [first]
    for model in models:
        parts = Path(model).resolve().parts
        tails = ("/".join(parts[-number:]) for number in range(1, len(parts)))
        name = next((tail for tail in tails if tail not in names), None)
        if name is None:
            raise UsageError("E_USAGE_MODEL", "the same model is given too often", where=str(model))
        names.append(name)
    return names
