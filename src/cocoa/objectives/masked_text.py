"""Masked next-token prediction (MNTP): a hidden word at i is predicted from the state at i-1 (method 4.1, 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from cocoa.backbones import Backbone
from cocoa.backbones.reading import states_at
from cocoa.batch import Batch
from cocoa.layouts import Role
from cocoa.objectives.draws import Draws, choose
from cocoa.objectives.objective import Loss, Rows, View
from cocoa.options import Options

_ROLES = {"context": Role.CONTEXT, "target": Role.TARGET}


class MaskedTextOptions(Options):
    """Hide `rate` of the text tokens of the given roles, in each row, and predict them."""

    kind: Literal["masked_text"] = "masked_text"
    rows: ClassVar[Rows] = "joined"
    rate: Annotated[float, Field(gt=0, le=1)]
    """Share of the text tokens that is hidden: 0.2 in the paper's warm-up, 0.7 in its bridge."""
    roles: Annotated[tuple[Literal["context", "target"], ...], Field(min_length=1)] = ("context", "target")
    """Where words may be hidden; the bridge hides words of the target only."""
    weight: Annotated[float, Field(gt=0)] = 1.0

    def build(self, backbone: Backbone) -> MaskedText:
        """Returns the objective."""
        return MaskedText(self)


@dataclass(frozen=True)
class HiddenText:
    """Where words were hidden, bool [N, S], and which, int64 [number hidden] in reading order."""

    places: Tensor
    words: Tensor
    before: Tensor
    """The places before them in the flattened rows, int64 [number hidden]; a GPU asked for them is waited for."""

    @classmethod
    def of(cls, places: Tensor, input_ids: Tensor) -> HiddenText:
        """Returns what was hidden at places of rows [N, S]; no place is the first of its row."""
        return cls(places, input_ids[places], places.flatten().nonzero()[:, 0] - 1)

    @property
    def count(self) -> int:
        """Words to predict."""
        return len(self.words)


class MaskedText(torch.nn.Module):
    """MNTP on a batch of joined rows."""

    name = "masked_text"
    rows: Rows = MaskedTextOptions.rows

    def __init__(self, options: MaskedTextOptions) -> None:
        super().__init__()
        self.options = options
        self.weight = options.weight

    def hide(self, batch: Batch, draws: Draws) -> tuple[Batch, HiddenText]:
        """Returns the batch with mask tokens in it, and what they stand for."""
        places = choose(self.eligible(batch), batch.samples, self.options.rate, draws, self.name)
        hidden = HiddenText.of(places, batch.input_ids)
        return batch.replace(input_ids=batch.input_ids.masked_fill(places, batch.mask_token)), hidden

    def eligible(self, batch: Batch) -> Tensor:
        """Returns bool [N, S]: words that may be hidden; the first token of a sample has no state before it."""
        wanted = torch.zeros_like(batch.is_text)
        for role in self.options.roles:
            wanted |= batch.roles == _ROLES[role]
        return batch.is_text & wanted & batch.has_before

    def reads(self, batch: Batch, hidden: HiddenText) -> Tensor:
        """Returns bool [N, S]: the places before hidden words."""
        return places_before(hidden.places)

    def loss(self, view: View, hidden: HiddenText) -> Loss:
        """Returns the cross-entropy of the hidden words; the head runs at their places only."""
        logits = view.backbone.logits(states_at(view.states, hidden.before))
        return Loss(functional.cross_entropy(logits, hidden.words, reduction="sum"), len(hidden.words))


def places_before(places: Tensor) -> Tensor:
    """Returns bool [N, S]: for each chosen place i the place i-1."""
    return functional.pad(places[:, 1:], (0, 1))
