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

LONG_FILES = (
    "corpus/test_durable_index.py",
    "planning/test_planning.py",
    "serving/test_load.py",
    "ablation/test_killed_study.py",
    "training/test_checkpoints.py",
    "mining/test_killed_mining.py",
    "corpus/test_searching.py",
    "serving/test_page_in_browser.py",
    "serving/test_stopping.py",
    "planning/test_counted_steps.py",
    "ablation/test_job_ablation.py",
    "ablation/test_records.py",
    "model/test_nano_embedder.py",
)
"""Files that take longest, longest first: begun last, one of them would keep a worker busy after the other is done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the long files first; within a file, and among the others, the order stays."""
    here = Path(__file__).parent
    places = {here / name: place for place, name in enumerate(LONG_FILES)}
    assert all(path.is_file() for path in places), "LONG_FILES names a file that is gone"
    items.sort(key=lambda item: places.get(item.path, len(places)))


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
