"""A plan against what really happens: a run of its own process, its peak memory and its steps."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cocoa.backbones import open_backbone
from cocoa.backbones.nano import new_nano
from cocoa.backbones.patches import PatchGrid
from cocoa.planning.plan import plan
from cocoa.recipe import parse_recipe

STAGES = {
    "warm-up": ("bidirectional", "[{kind: masked_text, rate: 0.2}, {kind: masked_patch}]"),
    "bridge": ("eos_bridge", "[{kind: masked_text, rate: 0.7, roles: [target]}]"),
    "contrastive": ("bidirectional", "[{kind: contrastive}]"),
}
RUN = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from cocoa.training.memory import most_memory
from cocoa.recipe import load_recipe
from cocoa.training.loop import train
train(load_recipe(Path(sys.argv[1])), Path(sys.argv[2]))
sys.stdout.write(str(most_memory()))
"""


def save_small(folder: Path) -> Path:
    """Writes a random Qwen2-VL of 20 million parameters."""
    grid = PatchGrid(min_pixels=56 * 56, max_pixels=168 * 168)
    backbone = new_nano(
        open_backbone("nano").text, hidden_size=384, num_layers=8, vision_size=192, num_vision_layers=4, grid=grid
    )
    backbone.save(folder)
    return folder


def recipe_text(backbone: str, stage: str, *, steps: int, batch_size: int, pixels: int, extra: str = "") -> str:
    layout, objectives = STAGES[stage]
    return f"""
name: real
backbone: {{name: {backbone}}}
{extra}
stages:
  - name: {stage}
    layout: {layout}
    objectives: {objectives}
    data: [{{kind: scene_pairs, num_pairs: 1000, pixels: {pixels}}}]
    steps: {steps}
    batch_size: {batch_size}
    learning_rate: 1e-4
"""


def ratios(text: str, folder: Path) -> tuple[float, float, dict[str, object]]:
    """Returns planned over real peak memory and step seconds."""
    (folder / "recipe.yaml").write_text(text)
    planned = plan(parse_recipe(text)).stages[0]
    command = [sys.executable, "-c", RUN, str(folder / "recipe.yaml"), str(folder / "out")]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    real = int(child.stdout.split()[-1])
    lines = (folder / "out" / "metrics.jsonl").read_text().splitlines()
    seconds = statistics.median(json.loads(line)["seconds"] for line in lines[1:])
    detail = {"planned": planned.memory, "total": planned.memory.total, "real": real, "s": planned.step_seconds}
    return planned.memory.total / real, planned.step_seconds / seconds, {**detail, "real s": seconds}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("size", ["nano", "small", "small-cached"])
def test_memory_and_time_of_a_run_are_as_planned(size: str, stage: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    if size == "nano":
        text = recipe_text("nano", stage, steps=20, batch_size=32, pixels=84)
    else:
        extra = "machine: {chunk_tokens: 512}" if size == "small-cached" else ""
        backbone = str(save_small(tmp_path / "backbone"))
        text = recipe_text(backbone, stage, steps=6, batch_size=24, pixels=168, extra=extra)
    memory, seconds, detail = ratios(text, tmp_path)
    assert 0.85 < memory < 1.15, detail
    assert 0.75 < seconds < 1.25, detail
