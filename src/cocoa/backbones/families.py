"""The model families that can be opened, by their `model_type`."""

from __future__ import annotations

from cocoa.backbones.family import Family
from cocoa.backbones.qwen2_5_vl import QWEN2_5_VL
from cocoa.backbones.qwen2_vl import QWEN2_VL
from cocoa.backbones.qwen3_vl import QWEN3_VL

FAMILIES: dict[str, Family] = {family.model_type: family for family in (QWEN2_VL, QWEN2_5_VL, QWEN3_VL)}
