"""What a run may stand on: named GPUs by their published rates, or this machine, measured when it is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

import psutil  # type: ignore[import-untyped]
import torch

from cocoa.errors import UsageError
from cocoa.model import best_device
from cocoa.recipe import Recipe

HERE = "here"

_CPU_GAPS = 0.25
"""What glibc's malloc kept beyond what was asked for, a byte of activations, in runs of 1.5 and 20 million weights."""
_GPU_GAPS = 0.1
"""Assumed for torch's caching allocator; not measured."""


@dataclass(frozen=True)
class Rates:
    """Published peak rates: FLOPs a second by type of number, bytes of memory traffic a second; `share_reached` of the
    FLOPs is what a run is assumed to reach."""

    bfloat16: float
    float32: float
    traffic: float
    share_reached: float

    def seconds(self, recipe: Recipe, flops: float, traffic: float) -> float:
        """Returns how long so many FLOPs, and then so many bytes of memory traffic, take."""
        peak = self.bfloat16 if recipe.precision == "bfloat16" else self.float32
        return flops / (peak * self.share_reached) + traffic / self.traffic


@dataclass(frozen=True)
class Device:
    """A device for each rank. Without `rates` it is this machine, whose speed must be tried out.

    `base_bytes` are taken before any weight is; `gap_rate` is what the allocator holds in gaps, a byte of activations;
    `type` is torch's word for it, `cpu` or `cuda`.
    """

    name: str
    title: str
    memory_bytes: int
    base_bytes: int
    gap_rate: float
    basis: str
    type: Literal["cpu", "cuda"]
    rates: Rates | None = None

    @property
    def holds_data(self) -> bool:
        """Whether the pictures that are read ahead are in its memory too."""
        return self.type == "cpu"


def open_device(name: str) -> Device:
    """Returns a device by name: `here`, or one of `known_devices`."""
    if name == HERE:
        return _here()
    known = _published()
    if name not in known:
        raise UsageError("E_USAGE_DEVICE", f"no device {name!r}; known: {', '.join(known_devices())}")
    entry = known[name]
    rates = Rates(
        entry["bfloat16_tflops"] * 1e12,
        entry["float32_tflops"] * 1e12,
        entry["memory_gigabytes_per_second"] * 1e9,
        entry["share_reached"],
    )
    return Device(
        name,
        entry["title"],
        entry["memory_bytes"],
        entry["base_bytes"],
        entry["gap_rate"],
        entry["basis"],
        type="cuda",
        rates=rates,
    )


def known_devices() -> list[str]:
    """Returns the names that `open_device` takes."""
    return [HERE, *_published()]


def _published() -> dict[str, dict[str, Any]]:
    content = (files("cocoa") / "assets" / "devices.json").read_text()
    known: dict[str, dict[str, Any]] = json.loads(content)
    return known


def _here() -> Device:
    device = best_device()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        basis = "measured here; the memory of the CUDA context and the allocator's gaps are assumed"
        return Device(HERE, properties.name, properties.total_memory, 1_000_000_000, _GPU_GAPS, basis, type="cuda")
    threads = torch.get_num_threads()
    title = f"this machine, {threads} thread{'' if threads == 1 else 's'}"
    memory = psutil.virtual_memory().total
    return Device(HERE, title, memory, _base_bytes(), _CPU_GAPS, "measured here", type="cpu")


@lru_cache(maxsize=1)
def _base_bytes() -> int:
    """The most memory of a process that has come to its first training step and holds no model: measured in one."""
    child = subprocess.run([sys.executable, "-c", _BARE], capture_output=True, text=True, check=True)
    return int(child.stdout.split()[-1])


# A first step on a single weight loads what torch and peft load late.
_BARE = """
import sys
import torch
from torch.nn import Linear, functional
import cocoa.training.loop
import cocoa.backbones
from cocoa.training.memory import most_memory
from transformers import AutoModelForImageTextToText
cocoa.backbones.open_backbone("nano", weights=False)
layer = Linear(1, 1)
optimiser = torch.optim.AdamW(layer.parameters())
layer(torch.ones(1, 1)).sum().backward()
torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
optimiser.step()
sys.stdout.write(str(most_memory()))
"""
