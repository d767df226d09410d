"""A light decoder: a few layers that see one vector of what was read, and what is left of a target; nothing else.

In the paper's bridge the target reads e's keys and values in every layer of the model. Here it gets the last layer's
vector alone, the one that becomes the embedding, so all that a target needs must be in it.

Shapes: M targets, S sequence, D hidden.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from cocoa.backbones import Backbone
from cocoa.batch import Batch
from cocoa.layouts import LAYOUTS, Role
from cocoa.looks import Looks, placed
from cocoa.transfer import sent

_EVERYONE = LAYOUTS["bidirectional"]


def looks_apart(backbone: Backbone, apart: Batch) -> Looks | None:
    """Returns who looks at whom in targets that stand apart; None where attention takes a square mask."""
    if backbone.attention != "split":
        return None
    return _EVERYONE.looks(apart.roles, device=backbone.device.type)


class LightDecoder(nn.Module):
    """Copies of the backbone's last layers and of its final norm; they are trained and then dropped with the stage."""

    def __init__(self, backbone: Backbone, num_layers: int) -> None:
        super().__init__()
        # The last ones: what they give is what the backbone's head reads. A decoder with more of them than there are
        # (as where costs are counted on a backbone of one layer) copies some twice.
        places = [place % len(backbone.layers) for place in range(-num_layers, 0)]
        self.layers = nn.ModuleList(deepcopy(backbone.layers[place]) for place in places)
        self.norm = deepcopy(backbone.final_norm)

    def forward(
        self, backbone: Backbone, vectors: Tensor, apart: Batch, embedded: Tensor, looks: Looks | None = None
    ) -> Tensor:
        """Returns [M, S, D]: the states of targets, in which every token looks at every token and at the vector.

        `apart` has a target in each line, behind its e; `embedded` [M, S, D] is what stands at each place, and
        `vectors` [M, D] stand in the places of e; `looks` are those of `looks_apart`, if they were made before.
        """
        is_bridge = sent(apart.roles == Role.BRIDGE, embedded.device)[:, :, None]
        states = torch.where(is_bridge, vectors[:, None].to(embedded.dtype), embedded)
        looks = looks_apart(backbone, apart) if looks is None else looks.anew()
        allowed = placed(_EVERYONE.allowed(apart.roles) if looks is None else looks, embedded.device)
        for layer in self.layers:
            states = backbone.decode_once(layer, states, allowed, apart.position_ids)
        result: Tensor = self.norm(states)
        return result
