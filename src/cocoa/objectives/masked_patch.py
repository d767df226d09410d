"""Masked patches (MAE): pictures lose patches before the vision tower, a light decoder paints them back (method 4.1).

Shapes: N rows, S sequence, D hidden, P patches, F values a patch, T visual tokens, m patches a visual token.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from cocoa.backbones import Backbone, Kind
from cocoa.backbones.reading import obey, states_at
from cocoa.batch import Batch
from cocoa.objectives.draws import Draws, choose
from cocoa.objectives.objective import Loss, Rows, View
from cocoa.options import Options

Fill = Literal["noise", "shared_noise", "zero", "mean"]


class MaskedPatchOptions(Options):
    """Hide `rate` of the visual tokens of each sample and regress their pixels."""

    kind: Literal["masked_patch"] = "masked_patch"
    rows: ClassVar[Rows] = "joined"
    rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the visual tokens that is hidden: 0.5 in the paper's figure, 0.3 in its code (method O1)."""
    fill: Fill = "noise"
    """What stands in a hidden patch: its own unit Gaussian noise, one noise vector for the whole stage, zeros (the grey
    that normalises to 0), or the mean patch of the sample's pictures (method O3)."""
    normalise_target: bool = False
    """Regress each patch with its own mean 0 and deviation 1 instead of processor-normalised pixels (method O2)."""
    weight: Annotated[float, Field(gt=0)] = 0.5

    def build(self, backbone: Backbone) -> MaskedPatch:
        """Returns the objective; its decoder starts from the backbone's middle layer."""
        return MaskedPatch(self, backbone)


@dataclass(frozen=True)
class HiddenPatches:
    """Which visual tokens were hidden, bool [N, S], and their pixels, float32 [number hidden, m x F]."""

    places: Tensor
    pixels: Tensor
    at: Tensor
    """The same places in the flattened rows, int64 [number hidden]; a GPU that is asked for them is waited for."""

    @classmethod
    def of(cls, places: Tensor, pixels: Tensor) -> HiddenPatches:
        """Returns what was hidden at places, with pixels."""
        return cls(places, pixels, places.flatten().nonzero()[:, 0])

    @property
    def count(self) -> int:
        """Visual tokens to repaint."""
        return len(self.pixels)


class MaskedPatch(nn.Module):
    """MAE on a batch of joined rows: one extra decoder layer over the last states, then a linear map to pixels."""

    name = "masked_patch"
    rows: Rows = MaskedPatchOptions.rows

    def __init__(self, options: MaskedPatchOptions, backbone: Backbone) -> None:
        super().__init__()
        self.options = options
        self.weight = options.weight
        self.grid = backbone.grid
        self.patches_per_token = self.grid.patches_per_token
        self.layer = deepcopy(backbone.layers[len(backbone.layers) // 2])
        obey(self.layer)
        values = self.patches_per_token * self.grid.values_per_patch
        self.to_pixels = nn.Linear(backbone.hidden_size, values)
        nn.init.normal_(self.to_pixels.weight, std=0.02)
        nn.init.zeros_(self.to_pixels.bias)

    def hide(self, batch: Batch, draws: Draws) -> tuple[Batch, HiddenPatches]:
        """Returns the batch, normalised, with patches filled over, and the pixels that were there."""
        is_image = batch.kinds == Kind.IMAGE
        places = choose(is_image, batch.samples, self.options.rate, draws, self.name)
        if batch.pixel_values is None:
            return batch, HiddenPatches.of(places, torch.zeros(0, self.to_pixels.out_features))
        tokens = places[is_image]  # (T,) in reading order, as the patches are
        pixels = self.grid.normalised(batch.pixel_values)
        patches = pixels.reshape(len(tokens), self.patches_per_token, -1)  # (T, m, F)
        owners = batch.samples[is_image]
        filled = patches.clone()
        for sample in sorted(set(owners.tolist())):
            own = owners == sample
            filled[own & tokens] = self._fill(patches[own], int((own & tokens).sum()), draws, sample)
        hidden = HiddenPatches.of(places, patches[tokens].flatten(1))
        return batch.replace(pixel_values=filled.reshape(pixels.shape)), hidden

    def reads(self, batch: Batch, hidden: HiddenPatches) -> Tensor | None:
        """Returns None: the decoder's layer looks at every state; of rows without pictures, no place."""
        return None if len(hidden.pixels) else torch.zeros_like(batch.is_text)

    def loss(self, view: View, hidden: HiddenPatches) -> Loss:
        """Returns the squared error a value, summed over the hidden visual tokens."""
        if not len(hidden.pixels):
            return Loss(view.states.sum() * 0.0, 0)
        error = (self.paint(view, hidden.at) - self._target(hidden.pixels)).square().mean(1)
        return Loss(error.sum(), len(hidden.pixels))

    def paint(self, view: View, at: Tensor) -> Tensor:
        """Returns float32 [R, m x F]: the pixels that the decoder sees behind visual tokens, at R flat places."""
        states = view.backbone.decode_once(self.layer, view.states, view.allowed, view.batch.position_ids, read_at=at)
        painted: Tensor = self.to_pixels(states_at(states, at))
        return painted.float()

    def _target(self, pixels: Tensor) -> Tensor:
        if not self.options.normalise_target:
            return pixels
        patches = pixels.reshape(len(pixels), self.patches_per_token, -1)
        patches = (patches - patches.mean(2, keepdim=True)) / (patches.var(2, keepdim=True) + 1e-6).sqrt()
        return patches.reshape(len(pixels), -1)

    def _fill(self, patches: Tensor, num_tokens: int, draws: Draws, sample: int) -> Tensor:
        """What stands in the hidden tokens of a sample whose own patches are [T, m, F]: [num_tokens, m, F]."""
        shape = (num_tokens, *patches.shape[1:])
        match self.options.fill:
            case "noise":
                noise = draws.of(sample, "fill").standard_normal(shape, np.float32)
                return torch.from_numpy(noise)
            case "shared_noise":
                noise = draws.shared("fill").standard_normal(shape[2:], np.float32)
                return torch.from_numpy(noise).expand(shape)
            case "zero":
                return patches.new_zeros(shape)
            case "mean":
                return patches.mean((0, 1)).expand(shape)
