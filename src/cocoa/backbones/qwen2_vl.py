"""Qwen2-VL (arXiv 2409.12191): the paper's 2B backbone, and the shape of nano."""

from cocoa.backbones.family import LANGUAGE_LINEARS, Family

QWEN2_VL = Family(
    "qwen2_vl",
    example="Qwen/Qwen2-VL-2B-Instruct",
    language_linears=LANGUAGE_LINEARS,
    vision_linears=("qkv", "fc1", "fc2"),
)
