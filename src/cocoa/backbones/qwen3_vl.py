"""Qwen3-VL (arXiv 2511.21631): patches of 16 pixels, and early decoder layers that see the tower's inner layers too."""

from cocoa.backbones.family import LANGUAGE_LINEARS, Family
from cocoa.backbones.grid_facts import learned_positions, pictures

QWEN3_VL = Family(
    "qwen3_vl",
    example="Qwen/Qwen3-VL-2B-Instruct",
    language_linears=LANGUAGE_LINEARS,
    vision_linears=("qkv", "linear_fc1", "linear_fc2"),
    grid_facts=(pictures, learned_positions),
)
