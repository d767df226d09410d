"""A very small study on a tiny random backbone."""

from __future__ import annotations

from pathlib import Path

import torch

from cocoa.backbones.nano import new_nano, train_tokenizer
from making import SENTENCES

TEXT = """
name: tiny
seeds: [0, 1]
backbone: {name: ./backbone}
max_tokens: 96
machine: {workers: 0}
generated:
  scenes: {seed: 0, num_train: 12, num_test: 12, num_things: 32}
  validation: {seed: 9, num_train: 12, num_test: 12, num_things: 32}
tests: [{path: generated/scenes, only: [scene_cls_seen, scene_i2t_combo]}]
validation: [{path: generated/validation, only: [scene_cls_seen]}]
tuning: {trials: 2, seeds: [7]}
probes: false
stages:
  warm-up:
    layout: bidirectional
    objectives: [{kind: masked_text, rate: 0.2}]
    data: [{kind: scene_pairs, num_pairs: 20, num_things: 32}]
    steps: 2
    batch_size: 2
    learning_rate: 1e-3
  light:
    layout: bidirectional
    objectives: [{kind: bridged_text, rate: 0.7}]
    data: [{kind: scene_pairs, num_pairs: 20, num_things: 32}, {kind: scene_pairs, num_pairs: 20, side: same_text}]
    steps: 2
    batch_size: 2
    learning_rate: 1e-3
  contrastive:
    layout: bidirectional
    objectives: [{kind: contrastive, temperature: 0.1}]
    data: [{kind: mmeb_train, path: generated/scenes}]
    steps: 2
    batch_size: 4
    learning_rate: 1e-3
baseline: plain
arms:
  - {name: plain, stages: [contrastive]}
  - {name: light, stages: [warm-up, light, contrastive], title: light decoder}
  - {name: mean, stages: [warm-up, contrastive], pooling: {kind: mean}}
budgets:
  - {name: short}
  - {name: long, set: [stages.contrastive.steps=3], equal: flops}
"""


def write_study(folder: Path, text: str = TEXT) -> Path:
    """Returns the file of a study, with the backbone that it names beside it."""
    torch.manual_seed(0)
    backbone = new_nano(
        train_tokenizer(SENTENCES, vocab_size=420), hidden_size=32, num_layers=2, vision_size=32, num_vision_layers=1
    )
    if not (folder / "backbone").exists():
        (folder / "backbone").mkdir(parents=True)
        backbone.save(folder / "backbone")
    path = folder / "study.yaml"
    path.write_text(text)
    return path
