"""What a stage costs, as a study counts it, against the products that a real step does."""

from __future__ import annotations

import pytest
import torch
from studying import write_study
from torch.utils.flop_counter import FlopCounterMode

from cocoa.ablation.costs import added, flops_of
from cocoa.recipe import parse_recipe
from cocoa.training.batches import encode_pairs
from cocoa.training.ranks import Ranks
from cocoa.training.setup import open_data, open_model, set_up
from cocoa.training.step import backward_step

STAGES = {
    "light": "[{kind: bridged_text, rate: 0.7, layers: 2}]",
    "patches": "[{kind: bridged_text, rate: 0.7}, {kind: bridged_patch, rate: 0.5}]",
    "beside": "[{kind: contrastive}, {kind: bridged_text, rate: 0.7}]",
}


@pytest.mark.parametrize("name", STAGES)
def test_the_flops_of_a_step_are_those_that_a_real_step_does(tmp_path, name):
    write_study(tmp_path)
    side = "text_to_image" if name == "patches" else "image_to_text"
    recipe = parse_recipe(f"""
name: one
backbone: {{name: {tmp_path}/backbone}}
max_tokens: 96
pooling: {{tokens: 2}}
stages:
  - {{name: {name}, layout: bidirectional, objectives: {STAGES[name]}, steps: 9, batch_size: 8, learning_rate: 1.0,
      data: [{{kind: scene_pairs, num_pairs: 8, num_things: 32, side: {side}}}]}}
""")
    counted = flops_of(recipe, tmp_path / "flops")
    # The counter does not know the CPU's fused attention; written out, it sees its products.
    eager = recipe.model_copy(update={"backbone": recipe.backbone.model_copy(update={"attention": "eager"})})
    model = open_model(eager)
    trainee = set_up(model, recipe, recipe.stages[0], sharded=False).trainee.train()
    mixture = open_data(recipe, recipe.stages[0])
    pairs = encode_pairs(model.backbone, mixture.batch(0, 8))
    with FlopCounterMode(display=False) as real:
        backward_step(trainee, pairs, Ranks(0, 1, torch.device("cpu")), recipe.machine, 0)
    assert counted == pytest.approx(real.get_total_flops(), rel=0.1)
    assert flops_of(recipe.model_copy(update={"seed": 3}), tmp_path / "flops") == counted
    assert len(list((tmp_path / "flops").iterdir())) == 1, "counted once"


def test_costs_add_up():
    one = {"steps": 2, "pairs": 8, "tokens": 100, "seconds": 1.5, "flops": 2e9}
    assert added([one, one]) == {"steps": 4, "pairs": 16, "tokens": 200, "seconds": 3.0, "flops": 4e9}
    assert added([]) == {"steps": 0, "pairs": 0, "tokens": 0, "seconds": 0.0, "flops": 0.0}
