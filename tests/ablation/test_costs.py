"""What a stage costs, as a study counts it, against the products that a real step does."""

from __future__ import annotations

import pytest
import torch
from studying import TEXT, write_study
from torch.utils.flop_counter import FlopCounterMode

from cocoa.ablation import costs
from cocoa.ablation.costs import added, flops_of
from cocoa.ablation.links import chain_of, places_of
from cocoa.ablation.study import GENERATED, load_study
from cocoa.recipe import MachineOptions, parse_recipe
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
    counted = flops_of(recipe, tmp_path / "flops", {})
    # The counter does not know the CPU's fused attention; written out, it sees its products.
    eager = recipe.model_copy(update={"backbone": recipe.backbone.model_copy(update={"attention": "eager"})})
    model = open_model(eager)
    trainee = set_up(model, recipe, recipe.stages[0], sharded=False).trainee.train()
    mixture = open_data(recipe, recipe.stages[0])
    pairs = encode_pairs(model.backbone, mixture.batch(0, 8))
    with FlopCounterMode(display=False) as real:
        backward_step(trainee, pairs, Ranks(0, 1, torch.device("cpu")), recipe.machine, 0)
    assert counted == pytest.approx(real.get_total_flops(), rel=0.1)
    assert flops_of(recipe.model_copy(update={"seed": 3}), tmp_path / "flops", {}) == counted
    assert len(list((tmp_path / "flops").iterdir())) == 1, "counted once"


def test_what_a_step_costs_is_of_no_machine_and_found_again_elsewhere(tmp_path, monkeypatch):
    counted = []
    monkeypatch.setattr(costs, "_count", lambda recipe: counted.append(recipe) or 1e6)
    text = TEXT.replace("workers: 0", "workers: 0, chunk_tokens: 64, activation_checkpointing: true")
    for home, said in (("here", TEXT), ("there/deeper", text)):
        folder = tmp_path / home
        study = load_study(write_study(folder, said))
        data = folder / "out" / GENERATED
        for arm in study.arms:
            recipe = study.recipe(arm, study.budgets[0], 0, folder=folder, data=data)
            places = places_of(data, folder)
            flops_of(chain_of(recipe, num_before=0, places=places).recipe, tmp_path / "flops", places)
    assert [recipe.machine for recipe in counted] == [MachineOptions()] * 2, "equal stages, and with the mean of all"
    assert [str(tmp_path / "here" / "backbone")] * 2 == [recipe.backbone.name for recipe in counted]


def test_costs_add_up():
    one = {"steps": 2, "pairs": 8, "tokens": 100, "seconds": 1.5, "flops": 2e9}
    assert added([one, one]) == {"steps": 4, "pairs": 16, "tokens": 200, "seconds": 3.0, "flops": 4e9}
    assert added([]) == {"steps": 0, "pairs": 0, "tokens": 0, "seconds": 0.0, "flops": 0.0}
