"""The losses of a short run of all three stages on one core; run this file to write them anew.

python tests/training/make_golden_losses.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from cocoa.backbones.nano import new_nano, train_tokenizer
from cocoa.recipe import Recipe, parse_recipe
from cocoa.training.loop import train

GOLDEN = Path(__file__).with_name("golden_losses.json")
TEXT = """
name: golden
seed: 5
backbone: {{name: "{folder}"}}
max_tokens: 64
stages:
  - name: warm-up
    layout: bidirectional
    objectives: [{{kind: masked_text, rate: 0.2}}, {{kind: masked_patch}}]
    data: [{{kind: scene_pairs, seed: 1, num_pairs: 30, num_things: 32}}]
    steps: 7
    batch_size: 4
    learning_rate: 3e-4
  - name: bridge
    layout: eos_bridge
    objectives: [{{kind: masked_text, rate: 0.7, roles: [target]}}]
    data: [{{kind: scene_pairs, seed: 1, num_pairs: 30, num_things: 32}}]
    steps: 7
    batch_size: 4
    learning_rate: 3e-4
    schedule: cosine
    warmup_steps: 2
  - name: contrastive
    layout: bidirectional
    objectives: [{{kind: contrastive, temperature: 0.2}}]
    data: [{{kind: scene_pairs, seed: 2, num_pairs: 30, num_things: 32, questions: 0.5}}]
    steps: 6
    batch_size: 4
    learning_rate: 3e-4
"""


def save_backbone(folder: Path) -> None:
    """Writes a small random backbone."""
    text = train_tokenizer(["A red apple stands left of a blue bird on a green ground."] * 2, vocab_size=320)
    torch.manual_seed(0)
    new_nano(text, hidden_size=32, num_layers=2, vision_size=32, num_vision_layers=1).save(folder)


def make_recipe(folder: Path) -> Recipe:
    """Returns the three-stage recipe on the backbone that `save_backbone` wrote."""
    return parse_recipe(TEXT.format(folder=folder))


def losses(work: Path) -> list[dict[str, float]]:
    """Returns each step's losses of a run in `work`."""
    save_backbone(work / "backbone")
    _, log = train(make_recipe(work / "backbone"), work / "run")
    return [record["losses"] for record in log.records]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        GOLDEN.write_text(json.dumps(losses(Path(work)), indent=1) + "\n")
