"""Backbones: a vision-language model behind one interface."""

import torch

from cocoa.backbones.encoded import Encoded, Kind
from cocoa.backbones.nano import NANO, NANO_UNTRAINED, load_nano
from cocoa.backbones.qwen_vl import Backbone, load_backbone
from cocoa.backbones.seen import Seen


def open_backbone(
    name: str, *, attention: str = "split", dtype: torch.dtype = torch.float32, weights: bool = True
) -> Backbone:
    """Returns the backbone that a recipe names: `nano` (ships here), `nano-untrained`, a model folder or a hub id.

    Without `weights` it has its shape only, see `load_backbone`. Nano is always opened in float32.
    """
    if name in (NANO, NANO_UNTRAINED):
        return load_nano(attention=attention, trained=name == NANO, weights=weights)
    return load_backbone(name, attention=attention, dtype=dtype, weights=weights)


__all__ = ["NANO", "NANO_UNTRAINED", "Backbone", "Encoded", "Kind", "Seen", "load_backbone", "open_backbone"]
