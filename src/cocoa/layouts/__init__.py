"""Attention layouts by the name that a recipe gives them."""

from typing import Literal

from cocoa.layouts.bidirectional import BIDIRECTIONAL
from cocoa.layouts.causal import CAUSAL
from cocoa.layouts.eos_bridge import EOS_BRIDGE, EOS_BRIDGE_ENCODER, EOS_OPEN
from cocoa.layouts.layout import Layout, Role

LayoutName = Literal["causal", "bidirectional", "eos_bridge", "eos_bridge_encoder", "eos_open"]
LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (CAUSAL, BIDIRECTIONAL, EOS_BRIDGE, EOS_BRIDGE_ENCODER, EOS_OPEN)
}

__all__ = ["LAYOUTS", "Layout", "LayoutName", "Role"]
