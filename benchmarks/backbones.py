"""The backbones that the benchmarks run: the one that ships, and a random one with the proportions of a real model.

Nothing is learnt in a benchmark, so random weights cost what trained ones do.
"""

from __future__ import annotations

import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from cocoa.backbones import Backbone
from cocoa.backbones.nano import load_nano
from cocoa.backbones.patches import PatchGrid

RANDOM_20M_GRID = PatchGrid(min_pixels=56 * 56, max_pixels=224 * 224)
_HIDDEN, _LAYERS, _VISION, _BLOCKS = 384, 5, 256, 7
_VOCABULARY = 6144
"""Rows of the embedding table: more than the tokenizer has, as in the real models, so that the head has its share."""


def nano() -> Backbone:
    """Returns the nano backbone as it ships (1.5 million parameters, float32)."""
    return load_nano()


def random_20m(*, seed: int = 0) -> Backbone:
    """Returns a random Qwen2-VL of 20 million parameters in float32; equal seeds give equal weights.

    A token's work is shared out as in Qwen2-VL-2B: the head is a fifth of the decoder layers' (there 18 %), the vision
    tower two thirds of a visual token's (there 66 %). Tokenizer: nano's. Pictures: up to 224 x 224, 64 tokens.
    """
    text = load_nano().text
    control = text.control
    spread = _HIDDEN**-0.5
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": _VOCABULARY,
            "hidden_size": _HIDDEN,
            "intermediate_size": 4 * _HIDDEN,
            "num_hidden_layers": _LAYERS,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
            "bos_token_id": control.pad,
            "eos_token_id": control.bridge,
            "pad_token_id": control.pad,
            "tie_word_embeddings": True,
            "initializer_range": spread,
        },
        vision_config={
            "initializer_range": spread,
            "depth": _BLOCKS,
            "embed_dim": _VISION,
            "hidden_size": _HIDDEN,
            "num_heads": 4,
            "mlp_ratio": 4,
            "patch_size": RANDOM_20M_GRID.patch_size,
            "spatial_merge_size": RANDOM_20M_GRID.merge_size,
            "temporal_patch_size": RANDOM_20M_GRID.temporal_patch_size,
        },
        image_token_id=control.image,
        video_token_id=text.stock.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=control.vision_start,
        vision_end_token_id=control.vision_end,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Backbone(Qwen2VLForConditionalGeneration(config).eval(), text, RANDOM_20M_GRID)


BACKBONES = {"nano": nano, "random-20m": random_20m}
"""By the name that a benchmark's `--backbone` takes."""
