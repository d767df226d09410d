"""Backbones: a vision-language model behind one interface."""

from cocoa.backbones.encoded import Encoded, Kind
from cocoa.backbones.nano import NANO, NANO_UNTRAINED, load_nano
from cocoa.backbones.qwen_vl import Backbone, load_backbone


def open_backbone(name: str, *, attention: str = "sdpa") -> Backbone:
    """Returns the backbone that a recipe names: `nano` (ships here), `nano-untrained`, a model folder or a hub id."""
    if name in (NANO, NANO_UNTRAINED):
        return load_nano(attention=attention, trained=name == NANO)
    return load_backbone(name, attention=attention)


__all__ = ["NANO", "NANO_UNTRAINED", "Backbone", "Encoded", "Kind", "load_backbone", "open_backbone"]
