"""Fixtures that several tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from PIL import Image

from cocoa.backbones import Backbone
from cocoa.sample import Sample
from making import make_picture, make_tiny

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _disks_are_not_waited_for() -> Iterator[None]:
    """What is written need not outlive a power cut: processes are killed here, and what they wrote stays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


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


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Backbone]:
    """Makes a fresh copy of a tiny random backbone: `tiny(attention="sdpa", hidden_size=32, family="qwen2_vl")`."""
    made: dict[tuple[str, int, str], Backbone] = {}

    def make(attention: str = "sdpa", hidden_size: int = 32, family: str = "qwen2_vl") -> Backbone:
        key = (attention, hidden_size, family)
        if key not in made:
            made[key] = make_tiny(*key)
        return deepcopy(made[key])

    return make


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


@pytest.fixture
def at_a_keyboard() -> Iterator[None]:
    """Ctrl-C interrupts, here and in what is started from here; what a shell runs in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
