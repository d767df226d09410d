"""Fixtures that several tests share."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cocoa.backbones import Backbone
from cocoa.backbones.nano import new_nano, train_tokenizer
from cocoa.sample import Sample

torch.set_num_threads(1)

SENTENCES = (
    "a red apple stands left of a blue bird",
    "two cats and a dog sleep on the green grass",
    "What is in the picture? Answer with one word.",
    "Represent the given image with the following question: How many birds are there?",
    "Find an image that matches the given caption.",
    "The picture shows an owl in the middle on an orange ground.",
)


@pytest.fixture
def open_sets() -> Path:
    """The openly licensed benchmark sets beside the checkout; without them the test is skipped."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "TASKS.md").is_file():
        pytest.skip("the open sets are not here (../shared/data)")
    return folder


@pytest.fixture(scope="session")
def real_qwen() -> Path:
    """The real tokenizer and configurations of Qwen2-VL; without them the test is skipped."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "qwen2_vl"
    if not (folder / "tokenizer" / "tokenizer.json").is_file():
        pytest.skip("the real tokenizer is not here (../shared/qwen2_vl)")
    return folder


def make_tiny(attention: str = "sdpa", hidden_size: int = 32) -> Backbone:
    """Returns a random Qwen2-VL of two layers; equal arguments give equal weights.

    Stock weights are so small that every attention is nearly even, and a wrong mask or position nearly unseen: they are
    made larger here, and biases and norms are moved off their start.
    """
    text = train_tokenizer(SENTENCES, vocab_size=420)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        backbone = new_nano(
            text, hidden_size=hidden_size, num_layers=2, vision_size=32, num_vision_layers=1, attention=attention
        )
        for weight in backbone.parameters():
            if weight.ndim > 1:
                weight.mul_(6)
            else:
                weight.add_(0.1 * torch.randn_like(weight))
    return backbone


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Backbone]:
    """Makes a fresh copy of a tiny random backbone: `tiny(attention="sdpa", hidden_size=32)`."""
    made: dict[tuple[str, int], Backbone] = {}

    def make(attention: str = "sdpa", hidden_size: int = 32) -> Backbone:
        key = (attention, hidden_size)
        if key not in made:
            made[key] = make_tiny(*key)
        return deepcopy(made[key])

    return make


def make_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Returns an RGB picture of random pixels."""
    pixels = np.random.default_rng([seed, width, height]).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """Makes a random picture: `picture(width, height, seed=0)`."""
    return make_picture


@pytest.fixture(scope="session")
def sample() -> Callable[..., Sample]:
    """Makes a sample with random pictures of the given sizes: `sample("a cat", (60, 80), (90, 40), seed=0)`."""

    def make(text: str = "", *sizes: tuple[int, int], seed: int = 0) -> Sample:
        return Sample(text, tuple(make_picture(*size, seed + number) for number, size in enumerate(sizes)))

    return make
