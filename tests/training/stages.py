"""Stages, pairs and trainees that several tests of training share."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cocoa.backbones import Backbone, load_backbone
from cocoa.backbones.nano import new_nano, train_tokenizer
from cocoa.model import EmbeddingModel
from cocoa.recipe import MachineOptions, Recipe, Stage, parse_recipe
from cocoa.sample import Pair, Sample
from cocoa.training.batches import EncodedPairs, encode_pair, join
from cocoa.training.ranks import Ranks
from cocoa.training.setup import Setup, set_up
from cocoa.training.step import backward_step
from cocoa.training.tally import Tally
from making import SENTENCES

STAGES = {
    "warm-up": ("bidirectional", "[{kind: masked_text, rate: 0.2}, {kind: masked_patch}]"),
    "bridge": ("eos_bridge", "[{kind: masked_text, rate: 0.7, roles: [target]}]"),
    "contrastive": ("bidirectional", "[{kind: contrastive, temperature: 0.2}]"),
    "captioner": ("causal", "[{kind: next_token}]"),
    "light": ("bidirectional", "[{kind: bridged_text, rate: 0.7, layers: 2}]"),
    "joint": ("bidirectional", "[{kind: contrastive, temperature: 0.2}, {kind: bridged_text, rate: 0.7, weight: 0.3}]"),
    "joint-patches": (
        "bidirectional",
        "[{kind: contrastive, temperature: 0.2}, {kind: bridged_text, rate: 0.7}, {kind: bridged_patch, rate: 0.5}]",
    ),
    "joint-bridge": (
        "eos_bridge",
        "[{kind: contrastive, temperature: 0.2}, {kind: masked_text, rate: 0.5, roles: [context, target]}]",
    ),
}
ALONE = Ranks(0, 1, torch.device("cpu"))
SMALL = MachineOptions(chunk_tokens=64)
LARGE = MachineOptions(chunk_tokens=100_000)


def calm_backbone(attention: str = "split", *, num_layers: int = 2) -> Backbone:
    """Returns a random Qwen2-VL of few layers, always the same, whose gradients are of the size that training meets.

    The fixture `tiny` is made to show every wrong look; its gradients are so large that rounding would hide the rest.
    """
    text = train_tokenizer(SENTENCES, vocab_size=420)
    torch.manual_seed(0)
    return new_nano(
        text, hidden_size=32, num_layers=num_layers, vision_size=32, num_vision_layers=1, attention=attention
    )


def make_recipe(name: str, extra: str = "", top: str = "") -> Recipe:
    """Returns a recipe of one stage; `extra` adds options to the stage, `top` to the recipe."""
    layout, objectives = STAGES[name]
    return parse_recipe(f"""
name: one
backbone: {{name: nano-untrained}}
{top}
stages:
  - {{name: {name}, layout: {layout}, objectives: {objectives}, data: [{{kind: scene_pairs, num_pairs: 9}}],
      steps: 1, batch_size: 4, learning_rate: 1.0{", " + extra if extra else ""}}}
""")


def make_stage(name: str) -> Stage:
    """Returns the stage alone."""
    return make_recipe(name).stages[0]


def make_pairs(sample) -> list[Pair]:
    """Returns six pairs of unlike lengths: with pictures and without, equal targets, unequal numbers of negatives."""
    return [
        Pair(sample("what is this", (56, 56)), sample("a red apple stands left of a blue bird")),
        Pair(sample("a dog"), sample("two cats and a dog sleep on the green grass"), (sample("a cat"), sample("two"))),
        Pair(sample("", (84, 56)), sample("an owl in the middle")),
        Pair(sample("<|image_1|> How many birds are there?", (56, 84)), sample("two"), (sample("three"),)),
        Pair(sample("What is in the picture? Answer with one word.", (56, 56)), sample("an owl in the middle")),
        Pair(sample("a blue bird left of a red apple"), sample("", (84, 84)), (sample("", (56, 56)), sample("grass"))),
    ]


def make_samples(sample) -> list[Sample]:
    """Returns five samples to embed, of unlike lengths and shapes: texts, pictures and both."""
    return [
        sample("a red apple"),
        sample("How many birds <|image_1|> are there <|image_2|>?", (90, 60), (70, 120)),
        sample("", (60, 60)),
        sample("two cats and a dog sleep on the green grass"),
        sample("what is this", (60, 60)),
    ]


def encoded(backbone: Backbone, pairs: list[Pair], places: range | None = None) -> EncodedPairs:
    """Returns some of the pairs, numbered by their place in the whole list."""
    places = range(len(pairs)) if places is None else places
    return join([encode_pair(backbone, pairs[place]) for place in places], list(places))


def ready(backbone: Backbone, recipe: Recipe, *, sharded: bool = False) -> Setup:
    """Returns a trainee for the recipe's only stage."""
    model = EmbeddingModel(backbone, max_tokens=256)
    setup = set_up(model, recipe, recipe.stages[0], sharded=sharded)
    setup.trainee.train()
    return setup


def gradients(
    setup: Setup, pairs: list[Pair], machine: MachineOptions = LARGE, ranks: Ranks = ALONE, seed: int = 0
) -> tuple[Tally, dict[str, Tensor]]:
    """Returns a step's sums and the gradient of each weight."""
    share = ranks.share(len(pairs))
    torch.manual_seed(5)
    setup.trainee.zero_grad()
    tally = backward_step(setup.trainee, encoded(setup.trainee.model.backbone, pairs, share), ranks, machine, seed)
    found = {
        name: (weight.grad.full_tensor() if hasattr(weight.grad, "full_tensor") else weight.grad.clone())
        for name, weight in setup.trainee.trained.items()
        if weight.grad is not None
    }
    return tally, found


def assert_equal_gradients(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    """Holds every single difference below `tolerance` of the norm of the whole gradient."""
    assert one.keys() == other.keys()
    norm = float(torch.stack([gradient.norm() for gradient in one.values()]).norm())
    assert norm > 0
    for name, gradient in one.items():
        worst = float((gradient - other[name]).abs().max())
        assert worst <= tolerance * norm, (name, worst, norm)


def open_folder(folder: Path) -> Backbone:
    """Returns the backbone that a test saved."""
    return load_backbone(str(folder))


def plain_sample(text: str = "", *sizes: tuple[int, int]) -> Sample:
    """Returns a sample with pictures of random pixels; the same as the fixture `sample` gives."""
    from making import make_picture

    return Sample(text, tuple(make_picture(*size, number) for number, size in enumerate(sizes)))
