"""Whether a step may be taken, and a stage go on: losses and gradients are numbers, and every objective teaches."""

from __future__ import annotations

from collections import Counter
from typing import Any

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


MOST_IDLE_STEPS = 100
"""An objective that has had nothing to predict in so many steps ends the run."""


class Effects:
    """What each objective of a stage has had to predict in the stage's first steps."""

    def __init__(self, stage: str, steps: int) -> None:
        self.stage = stage
        self.left = min(MOST_IDLE_STEPS, steps)
        self.counts: Counter[str] = Counter()

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {"left": self.left, "counts": dict(self.counts)}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Goes on from a checkpoint's state.

        Of None, as in checkpoints of older versions, nothing more is judged: the steps that are left may well be idle.
        """
        self.left = state["left"] if state is not None else 0
        self.counts = Counter(state["counts"] if state is not None else {})

    def check(self, tally: Tally) -> None:
        """Counts a step. Raises `E_TRAINING_NO_EFFECT` where an objective has been idle all along."""
        if self.left == 0:
            return
        self.counts.update(tally.counts)
        self.left -= 1
        if self.left == 0 and (idle := [name for name in tally.counts if not self.counts[name]]):
            named = ", ".join(sorted(idle))
            message = f"{named} has had nothing to predict in any row: the data has none of what it hides; leave it out"
            raise TrainingError("E_TRAINING_NO_EFFECT", message, where=f"stage {self.stage}")


def _rows(pairs: EncodedPairs) -> str:
    places = [sample.where or f"row {number}" for number, sample in enumerate(pairs.queries)]
    return ", ".join(places[:8]) + (f" and {len(places) - 8} more" if len(places) > 8 else "")
