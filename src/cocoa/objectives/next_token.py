"""Next-token prediction on the target and the closing e: how a generating backbone is trained."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from cocoa.backbones import Backbone
from cocoa.backbones.reading import states_at
from cocoa.batch import Batch
from cocoa.layouts import Role
from cocoa.objectives.draws import Draws
from cocoa.objectives.masked_text import HiddenText, places_before
from cocoa.objectives.objective import Loss, Rows, View
from cocoa.options import Options


class NextTokenOptions(Options):
    """Predict each token of the target from what stands before it; needs the causal layout."""

    kind: Literal["next_token"] = "next_token"
    rows: ClassVar[Rows] = "closed"
    weight: Annotated[float, Field(gt=0)] = 1.0

    def build(self, backbone: Backbone) -> NextToken:
        """Returns the objective."""
        return NextToken(self)


class NextToken(torch.nn.Module):
    """Language modelling of the target, given the query."""

    name = "next_token"
    rows: Rows = NextTokenOptions.rows

    def __init__(self, options: NextTokenOptions) -> None:
        super().__init__()
        self.weight = options.weight

    def hide(self, batch: Batch, draws: Draws) -> tuple[Batch, HiddenText]:
        """Returns the batch as it is (the causal layout hides the future), and the tokens to predict.

        Those are the target's words and the bridge behind it; a picture in the target has no words.
        """
        words = (batch.roles == Role.TARGET) & batch.is_text
        places = (words | (batch.roles == Role.BRIDGE)) & batch.has_before
        return batch, HiddenText.of(places, batch.input_ids)

    def reads(self, batch: Batch, hidden: HiddenText) -> Tensor:
        """Returns bool [N, S]: the places before the tokens to predict."""
        return places_before(hidden.places)

    def loss(self, view: View, hidden: HiddenText) -> Loss:
        """Returns the cross-entropy of the target's tokens."""
        logits = view.backbone.logits(states_at(view.states, hidden.before))
        return Loss(functional.cross_entropy(logits, hidden.words, reduction="sum"), len(hidden.words))
