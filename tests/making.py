"""Small random things that tests are made of: pictures and backbones."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText

from cocoa.backbones import Backbone
from cocoa.backbones.attention import stock_attention
from cocoa.backbones.nano import new_nano, train_tokenizer
from cocoa.backbones.patches import PatchGrid
from cocoa.backbones.tokens import TextTokens

SENTENCES = (
    "a red apple stands left of a blue bird",
    "two cats and a dog sleep on the green grass",
    "What is in the picture? Answer with one word.",
    "Represent the given image with the following question: How many birds are there?",
    "Find an image that matches the given caption.",
    "The picture shows an owl in the middle on an orange ground.",
)


def make_tiny(attention: str = "sdpa", hidden_size: int = 32, family: str = "qwen2_vl") -> Backbone:
    """Returns a random model of two layers; equal arguments give equal weights.

    Stock weights are so small that every attention is nearly even, and a wrong mask or position nearly unseen: they are
    made larger here, and biases and norms are moved off their start.
    """
    text = train_tokenizer(SENTENCES, vocab_size=420)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        if family == "qwen2_vl":
            backbone = new_nano(
                text, hidden_size=hidden_size, num_layers=2, vision_size=32, num_vision_layers=1, attention=attention
            )
        else:
            backbone = new_small(family, text, hidden_size, attention)
        for weight in backbone.parameters():
            if weight.ndim > 1:
                weight.mul_(6)
            else:
                weight.add_(0.1 * torch.randn_like(weight))
    return backbone


VISION = {
    # One block that looks through windows of two tokens a side, one that looks at the whole picture.
    "qwen2_5_vl": {"hidden_size": 32, "intermediate_size": 64, "window_size": 56, "fullatt_block_indexes": [1]},
    "qwen3_vl": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "patch_size": 16,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    },
}
TINY_GRIDS = {
    "qwen2_5_vl": PatchGrid(min_pixels=56 * 56, max_pixels=140 * 140),
    "qwen3_vl": PatchGrid(
        min_pixels=64 * 64, max_pixels=96 * 96, patch_size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    ),
}


def new_small(family: str, text: TextTokens, hidden_size: int, attention: str) -> Backbone:
    """Returns a random backbone of a family that nano is not of, with two layers and two vision blocks."""
    control = text.control
    # Half of nano's: with its own, Qwen2.5-VL blows rounding up to the third digit.
    spread = 0.5 * hidden_size**-0.5
    rotary = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]}
    if family == "qwen3_vl":
        rotary["mrope_interleaved"] = True
    config = AutoConfig.for_model(
        family,
        text_config={
            "vocab_size": len(text.stock),
            "hidden_size": hidden_size,
            "intermediate_size": 3 * hidden_size,
            "num_hidden_layers": 2,
            "num_attention_heads": hidden_size // 8,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 2048,
            "rope_parameters": rotary,
            "bos_token_id": control.pad,
            "eos_token_id": control.bridge,
            "pad_token_id": control.pad,
            "tie_word_embeddings": True,
            "initializer_range": spread,
        },
        vision_config={
            "depth": 2,
            "num_heads": 4,
            "out_hidden_size": hidden_size,
            "initializer_range": spread,
            **VISION[family],
        },
        image_token_id=control.image,
        video_token_id=text.stock.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=control.vision_start,
        vision_end_token_id=control.vision_end,
        tie_word_embeddings=True,
    )
    stock = AutoModelForImageTextToText.from_config(config, attn_implementation=stock_attention(attention))
    return Backbone(stock.eval(), text, TINY_GRIDS[family])


def make_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Returns an RGB picture of random pixels."""
    pixels = np.random.default_rng([seed, width, height]).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
