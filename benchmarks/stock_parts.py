"""A backbone with the stock library's own modules in it for a while, over the same weights.

The product puts stand-ins where it has less to do for the same numbers; peers run the stock ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from cocoa.backbones import Backbone
from cocoa.backbones.stand_ins import GatedMaps, QuickGelu, RmsNorm
from cocoa.backbones.vision_attention import VisionAttention

STAND_INS = (GatedMaps, QuickGelu, RmsNorm, VisionAttention)


class StockParts:
    """The stock modules for a backbone's stand-ins; they hold the very weights that those hold."""

    def __init__(self, backbone: Backbone) -> None:
        stock = backbone.stock
        with torch.device("meta"):
            fresh = type(stock)(stock.config)
        self._stock = stock
        self._parts: list[tuple[str, nn.Module, nn.Module]] = []
        for name, module in stock.named_modules():
            if isinstance(module, STAND_INS):
                other = fresh.get_submodule(name)
                for held in (*module._parameters, *module._modules):
                    setattr(other, held, getattr(module, held))
                self._parts.append((name, module, other))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the stock modules stand where the stand-ins stood."""
        for name, module, other in self._parts:
            self._stock.set_submodule(name, other.train(module.training))
        try:
            yield
        finally:
            for name, module, _ in self._parts:
                self._stock.set_submodule(name, module)
