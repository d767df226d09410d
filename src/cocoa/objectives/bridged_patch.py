"""Bridged patches: hidden parts of a target's pictures, painted by a light decoder that has e's vector.

Shapes: M targets, S sequence, D hidden, T visual tokens of all targets, m patches a visual token, F values a patch.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cocoa.backbones import Backbone, Kind
from cocoa.backbones.reading import states_at
from cocoa.batch import Batch
from cocoa.objectives.draws import Draws, choose
from cocoa.objectives.light_decoder import LightDecoder
from cocoa.objectives.masked_patch import HiddenPatches
from cocoa.objectives.objective import Loss, Rows, View
from cocoa.options import Options


class BridgedPatchOptions(Options):
    """Hide `rate` of the target's visual tokens from a light decoder that knows the query by its vector alone."""

    kind: Literal["bridged_patch"] = "bridged_patch"
    rows: ClassVar[Rows] = "apart"
    rate: Annotated[float, Field(gt=0, le=1)]
    """Share of the target's visual tokens that is hidden; 1: the decoder has their places, and e."""
    layers: Annotated[int, Field(ge=1)] = 1
    """Layers of the decoder: the fewer, the more must stand in e's vector."""
    weight: Annotated[float, Field(gt=0)] = 0.5

    def build(self, backbone: Backbone) -> BridgedPatch:
        """Returns the objective; its decoder starts from the backbone's last layers."""
        return BridgedPatch(self, backbone)


class BridgedPatch(nn.Module):
    """Pixels of targets that stand apart; visible patches enter by a linear map, since the tower never sees them."""

    name = "bridged_patch"
    rows: Rows = BridgedPatchOptions.rows

    def __init__(self, options: BridgedPatchOptions, backbone: Backbone) -> None:
        super().__init__()
        self.options = options
        self.weight = options.weight
        self.grid = backbone.grid
        values = self.grid.patches_per_token * self.grid.values_per_patch
        self.decoder = LightDecoder(backbone, options.layers)
        self.from_pixels = nn.Linear(values, backbone.hidden_size)
        self.to_pixels = nn.Linear(backbone.hidden_size, values)
        for part in (self.from_pixels, self.to_pixels):
            nn.init.normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)

    def hide(self, batch: Batch, draws: Draws) -> tuple[Batch, HiddenPatches]:
        """Returns the batch with its targets normalised, their hidden patches 0, and the pixels that were there."""
        apart = batch.apart
        assert apart is not None, "the targets of these rows stand apart"
        is_image = apart.kinds == Kind.IMAGE
        places = choose(is_image, apart.samples, self.options.rate, draws, self.name)
        if apart.pixel_values is None:
            return batch, HiddenPatches.of(places, torch.zeros(0, self.to_pixels.out_features))
        chosen = places[is_image]  # (T,) in reading order, as the patches are
        pixels = self.grid.normalised(apart.pixel_values)
        tokens = pixels.reshape(len(chosen), -1)  # (T, m x F)
        left = tokens.masked_fill(chosen[:, None], 0.0)
        masked = apart.replace(
            input_ids=apart.input_ids.masked_fill(places, batch.mask_token),
            pixel_values=left.reshape(pixels.shape),
        )
        return batch.replace(apart=masked), HiddenPatches.of(places, tokens[chosen])

    def reads(self, batch: Batch, hidden: HiddenPatches) -> Tensor:
        """Returns no place: the decoder has the vectors."""
        return torch.zeros_like(batch.is_text)

    def loss(self, view: View, hidden: HiddenPatches) -> Loss:
        """Returns the squared error a value, summed over the hidden visual tokens."""
        if not len(hidden.pixels):
            return Loss(view.states.sum() * 0.0, 0)
        error = (self.paint(view, hidden) - hidden.pixels).square().mean(1)
        return Loss(error.sum(), len(hidden.pixels))

    def paint(self, view: View, hidden: HiddenPatches) -> Tensor:
        """Returns float32 [number hidden, m x F]: the pixels that the decoder puts in the hidden places."""
        apart = view.batch.apart
        assert apart is not None
        assert apart.pixel_values is not None
        assert view.vectors is not None
        embedded = view.backbone.words(apart.input_ids)
        is_image = apart.kinds == Kind.IMAGE
        pixels = apart.pixel_values.reshape(-1, self.from_pixels.in_features)  # (T, m x F)
        seen = self.from_pixels(pixels.to(embedded.dtype))  # (T, D)
        patched = embedded.masked_scatter(is_image[:, :, None], seen.to(embedded.dtype))
        # A hidden place keeps the mask token's own vector.
        embedded = torch.where((is_image & ~hidden.places)[:, :, None], patched, embedded)
        states = self.decoder(view.backbone, view.vectors, apart, embedded, view.apart_looks)
        painted: Tensor = self.to_pixels(states_at(states, hidden.at))
        return painted.float()
