"""Bridged text: hidden words of a target, read by a light decoder that has e's vector and the words that are left.

Shapes: M targets, S sequence, D hidden.
"""

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
from cocoa.objectives.draws import Draws, choose
from cocoa.objectives.light_decoder import LightDecoder
from cocoa.objectives.masked_text import HiddenText
from cocoa.objectives.objective import Loss, Rows, View
from cocoa.options import Options


class BridgedTextOptions(Options):
    """Hide `rate` of the target's words from a light decoder that knows the query by its vector alone."""

    kind: Literal["bridged_text"] = "bridged_text"
    rows: ClassVar[Rows] = "apart"
    rate: Annotated[float, Field(gt=0, le=1)]
    """Share of the target's words that is hidden; what is left helps the decoder, so a higher rate asks more of e."""
    layers: Annotated[int, Field(ge=1)] = 1
    """Layers of the decoder: the fewer, the more must stand in e's vector."""
    weight: Annotated[float, Field(gt=0)] = 1.0

    def build(self, backbone: Backbone) -> BridgedText:
        """Returns the objective; its decoder starts from the backbone's last layers."""
        return BridgedText(self, backbone)


class BridgedText(torch.nn.Module):
    """Words of targets that stand apart, each predicted from the decoder's state one place before."""

    name = "bridged_text"
    rows: Rows = BridgedTextOptions.rows

    def __init__(self, options: BridgedTextOptions, backbone: Backbone) -> None:
        super().__init__()
        self.options = options
        self.weight = options.weight
        self.decoder = LightDecoder(backbone, options.layers)

    def hide(self, batch: Batch, draws: Draws) -> tuple[Batch, HiddenText]:
        """Returns the batch with mask tokens in the targets, and what they stand for."""
        apart = _apart(batch)
        eligible = apart.is_text & (apart.roles == Role.TARGET)
        places = choose(eligible, apart.samples, self.options.rate, draws, self.name)
        masked = apart.replace(input_ids=apart.input_ids.masked_fill(places, batch.mask_token))
        return batch.replace(apart=masked), HiddenText.of(places, apart.input_ids)

    def reads(self, batch: Batch, hidden: HiddenText) -> Tensor:
        """Returns no place: the decoder has the vectors."""
        return torch.zeros_like(batch.is_text)

    def loss(self, view: View, hidden: HiddenText) -> Loss:
        """Returns the cross-entropy of the hidden words; a target's pictures are blanks to the decoder."""
        apart = _apart(view.batch)
        assert view.vectors is not None
        embedded = view.backbone.words(apart.input_ids)
        states = self.decoder(view.backbone, view.vectors, apart, embedded, view.apart_looks)
        logits = view.backbone.logits(states_at(states, hidden.before))
        return Loss(functional.cross_entropy(logits, hidden.words, reduction="sum"), len(hidden.words))


def _apart(batch: Batch) -> Batch:
    assert batch.apart is not None, "the targets of these rows stand apart"
    return batch.apart
