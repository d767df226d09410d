"""A backbone of another's shape, with as many layers as one likes, without its weights."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from transformers import AutoModelForImageTextToText

from cocoa.backbones import Backbone
from cocoa.backbones.attention import stock_attention


@dataclass(frozen=True)
class Depth:
    """Decoder layers, and blocks of the vision tower."""

    layers: int
    blocks: int

    @classmethod
    def of(cls, backbone: Backbone) -> Depth:
        """Returns a backbone's own."""
        config = backbone.stock.config
        return cls(config.text_config.num_hidden_layers, config.vision_config.depth)


def stand_in(backbone: Backbone, depth: Depth | None = None, device: torch.device | None = None) -> Backbone:
    """Returns a backbone of the same shape, of `depth` if given: random on `device`, or without values."""
    config = deepcopy(backbone.stock.config)
    depth = depth or Depth.of(backbone)
    text, vision = config.text_config, config.vision_config
    text.num_hidden_layers = depth.layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[: depth.layers]
    vision.depth = depth.blocks
    for places in ("fullatt_block_indexes", "deepstack_visual_indexes"):
        if hasattr(vision, places):
            setattr(vision, places, [place for place in getattr(vision, places) if place < depth.blocks])
    attention = stock_attention(backbone.attention)
    with torch.device(device or "meta"):
        stock = AutoModelForImageTextToText.from_config(
            config, attn_implementation=attention, dtype=backbone.stock.dtype, trust_remote_code=False
        )
    return Backbone(stock, backbone.text, backbone.grid).eval()
