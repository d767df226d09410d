"""What every objective answers: what is hidden from the input, and what is predicted from where.

An objective returns `(sum, count)`; only the training step divides, by the count of the whole batch, so accumulation
and ranks do not change the number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from cocoa.backbones import Backbone
from cocoa.batch import Batch
from cocoa.looks import Looks
from cocoa.objectives.draws import Draws

Rows = Literal["joined", "closed", "apart", "single"]
"""How an objective wants a pair in rows: `joined` [query ; target] or [query ; e ; target] as the layout says,
`closed` [query ; target ; e], `apart` [query ; e] with the target beside it, which the model never reads, `single` one
row [sample ; e] for each side."""


@dataclass(frozen=True)
class View:
    """A forward pass as an objective sees it: the batch that went in, the states that came out, the mask between.

    `vectors` are what the states are pooled to, for each sample; they are there where the targets stand apart.
    `apart_looks` are the looks of those targets, where they were worked out before.
    """

    backbone: Backbone
    batch: Batch
    allowed: Tensor | Looks  # (N, 1, S, S) bool, or the same as looks
    states: Tensor  # (N, S, D)
    vectors: Tensor | None = None  # (M, D)
    apart_looks: Looks | None = None


@dataclass(frozen=True)
class Loss:
    """A sum over `count` predictions; `sum / count` is the loss that is reported."""

    sum: Tensor
    count: int


class Hidden(Protocol):
    """What an objective hid; `count` is the number of predictions to come, known before the forward pass."""

    @property
    def count(self) -> int: ...


class Reconstruction(Protocol):
    """An objective that hides a part of a pair and predicts it."""

    name: str
    rows: Rows
    weight: float

    def hide(self, batch: Batch, draws: Draws) -> tuple[Batch, Any]:
        """Returns the batch with a part hidden, and what is needed to score the prediction of it (a `Hidden`)."""
        ...

    def reads(self, batch: Batch, hidden: Any) -> Tensor | None:
        """Returns bool [N, S], the places of the batch whose states the loss reads of the view; None: all.

        What the view's vectors are pooled from is known without it.
        """
        ...

    def loss(self, view: View, hidden: Any) -> Loss:
        """Returns the loss of predicting what was hidden."""
        ...
