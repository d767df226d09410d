"""Qwen2.5-VL (arXiv 2502.13923): windows in the vision tower, gated maps in its blocks."""

from cocoa.backbones.family import LANGUAGE_LINEARS, Family
from cocoa.backbones.grid_facts import pictures, windows

QWEN2_5_VL = Family(
    "qwen2_5_vl",
    example="Qwen/Qwen2.5-VL-3B-Instruct",
    language_linears=LANGUAGE_LINEARS,
    vision_linears=("qkv", "gate_proj", "up_proj", "down_proj"),
    grid_facts=(pictures, windows),
)
