"""Whether a step may be taken: its losses and its gradient are numbers, and not absurdly large ones."""

from __future__ import annotations

from cocoa.errors import TrainingError
from cocoa.training.batches import EncodedPairs
from cocoa.training.tally import Tally

EXPLODED = 100.0
"""A loss so many times that of the stage's first step (or of 1, if that is larger) ends the run."""


def check_sane(tally: Tally, norm: float, first: dict[str, float], place: str, pairs: EncodedPairs) -> None:
    """Raises `E_TRAINING_DIVERGED` before a bad step is taken; the weights and checkpoints are still good.

    `norm` is the gradient's, `first` the losses of the stage's first step; `place` and the rows are told.
    """
    for name, loss in tally.losses.items():
        if not loss < EXPLODED * max(1.0, first[name]):  # also true of nan
            raise TrainingError("E_TRAINING_DIVERGED", f"{name} loss is {loss} at {place}; rows: {_rows(pairs)}")
    if not norm < float("inf"):
        raise TrainingError("E_TRAINING_DIVERGED", f"gradient norm is {norm} at {place}; rows: {_rows(pairs)}")


def _rows(pairs: EncodedPairs) -> str:
    places = [sample.where or f"row {number}" for number, sample in enumerate(pairs.queries)]
    return ", ".join(places[:8]) + (f" and {len(places) - 8} more" if len(places) > 8 else "")
