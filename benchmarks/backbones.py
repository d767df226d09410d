"""The backbones that the benchmarks run: the one that ships, and random ones with the shape of a real model or like it.

Nothing is learnt in a benchmark, so random weights cost what trained ones do.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from cocoa.backbones import Backbone, load_backbone
from cocoa.backbones.nano import load_nano
from cocoa.backbones.patches import PatchGrid
from cocoa.model import best_device

REAL_SHAPES = Path(__file__).resolve().parents[2] / "shared" / "qwen2_vl"
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


def qwen2_vl_2b() -> Backbone:
    """Returns a random Qwen2-VL-2B in bfloat16 on the best device: its real shape, tokenizer and picture settings."""
    return real_shape(REAL_SHAPES, "qwen2-vl-2b", best_device())


def real_shape(shapes: Path, name: str, device: torch.device, *, seed: int = 0) -> Backbone:
    """Returns a published configuration with random weights in bfloat16; equal seeds and devices give equal weights."""
    with tempfile.TemporaryDirectory() as work:
        shaped = load_backbone(str(shape_folder(shapes, name, Path(work))), dtype=torch.bfloat16, weights=False)
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            stock = type(shaped.stock)(shaped.stock.config)
    finally:
        torch.set_default_dtype(torch.float32)
    rounded = [name for name, buffer in stock.named_buffers() if buffer.dtype != torch.float32]
    assert not rounded, f"rotary frequencies are rounded: {rounded}"
    return Backbone(stock.eval(), shaped.text, shaped.grid).to(device)


def shape_folder(shapes: Path, name: str, folder: Path) -> Path:
    """Returns `folder` with a published configuration, its tokenizer and its picture settings in it; no weights."""
    shutil.copyfile(shapes / f"{name}.config.json", folder / "config.json")
    shutil.copyfile(shapes / "preprocessor_config.json", folder / "preprocessor_config.json")
    for path in (shapes / "tokenizer").iterdir():
        shutil.copyfile(path, folder / path.name)
    return folder


BACKBONES = {"nano": nano, "random-20m": random_20m, "qwen2-vl-2b": qwen2_vl_2b}
"""By the name that a benchmark's `--backbone` takes."""
SMALL = ("nano", "random-20m")
"""Those that a CPU runs in minutes."""
