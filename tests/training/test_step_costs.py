"""What a step costs, in counts that no machine changes: guards against a step that grows unnoticed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from stages import ALONE, LARGE, assert_equal_gradients, calm_backbone, encoded, gradients, make_recipe, ready
from torch import Tensor

from cocoa import looks as counting
from cocoa.backbones import Backbone
from cocoa.batch import collate
from cocoa.layouts import LAYOUTS
from cocoa.looks import Attend, Looks
from cocoa.objectives import MaskedText
from cocoa.planning.ledger import LiveBytes
from cocoa.recipe import MachineOptions
from cocoa.sample import Pair
from cocoa.training.reconstruct import hidden_chunks, stage_row
from cocoa.training.setup import Setup
from cocoa.training.step import backward_step
from cocoa.training.tally import Tally

RECONSTRUCTION = ("warm-up", "bridge")
TEXTS = ("two", "a red apple stands left of a blue bird", "an owl in the middle", "What is in the picture? " * 4)


@pytest.fixture
def mixed(sample: Callable[..., Any]) -> list[Pair]:
    """Twelve pairs of very unlike lengths, half of them with a picture."""
    pairs = []
    for number in range(12):
        pictures = ((56, 56), (84, 84))[number % 4 == 1 : 1 + (number % 4 == 1)] if number % 2 else ()
        query = sample(TEXTS[number % 3] + " How many birds are there?" * (number % 5), *pictures)
        pairs.append(Pair(query, sample(TEXTS[number % 4] * (1 + number // 6))))
    return pairs


class Counts:
    """How often the parts of a model run in a block, and on how much."""

    def __init__(self, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: Counter[str] = Counter()
        stock = setup.trainee.model.backbone.stock
        stock.lm_head.register_forward_hook(lambda module, given, out: self.add("head positions", out[..., 0].numel()))
        stock.model.visual.register_forward_hook(lambda module, given, out: self.add("vision passes", 1))
        stock.model.language_model.register_forward_hook(lambda module, given, out: self.add("forward passes", 1))
        plain = Looks.attend

        def attend(looks: Looks, attend: Attend, *states: Tensor) -> Tensor:
            def call(query: Tensor, key: Tensor, *others: Any) -> Tensor:
                self.add("looks", query.shape[0] * query.shape[2] * key.shape[2])
                return attend(query, key, *others)

            return plain(looks, call, *states)

        monkeypatch.setattr(Looks, "attend", attend)

    def add(self, name: str, count: int) -> None:
        self.found[name] += count


def step(setup: Setup, pairs: list[Pair], machine: MachineOptions = LARGE) -> Tally:
    return backward_step(setup.trainee, encoded(setup.trainee.model.backbone, pairs), ALONE, machine, 0)


@pytest.mark.parametrize("name", RECONSTRUCTION)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_does_each_thing_once_and_no_more_of_it_than_is_asked(
    name: str, checkpointing: bool, mixed: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(name, top=f"machine: {{activation_checkpointing: {str(checkpointing).lower()}}}")
    setup = ready(calm_backbone(), recipe)
    model, stage = setup.trainee.model, recipe.stages[0]
    chunks = hidden_chunks(
        model, stage, list(setup.trainee.objectives), encoded(model.backbone, mixed), recipe.machine, 0
    )
    words = sum(parts.count for chunk in chunks for parts in chunk.hidden[:1])
    counts = Counts(setup, monkeypatch)
    tally = step(setup, mixed, recipe.machine)
    assert isinstance(setup.trainee.objectives[0], MaskedText)
    assert counts.found["head positions"] == words, "the head runs where words are hidden, nowhere else"
    assert counts.found["forward passes"] == len(chunks), "all objectives share one pass"
    assert counts.found["vision passes"] == sum(chunk.batch.pixel_values is not None for chunk in chunks)
    layers = len(model.backbone.layers) * (2 if checkpointing else 1) + (name == "warm-up")  # one paints patches
    assert counts.found["looks"] == layers * tally.num_looks, "the metrics say what is computed"


@pytest.mark.parametrize("name", RECONSTRUCTION)
def test_little_of_a_step_is_padding(name: str, mixed: list[Pair]) -> None:
    setup = ready(calm_backbone(), make_recipe(name))
    many = 20 * mixed  # chunks as large as a real step's
    tally = step(setup, many)
    rows = [stage_row(setup.trainee.model, setup.trainee.stage, *pair) for pair in _both(setup, many)]
    together = collate(setup.trainee.model.backbone, rows)
    assert 1 - together.num_tokens / together.roles.numel() > 0.5, "as one batch more than half would be padding"
    assert tally.pad_rate < 0.14
    assert tally.num_tokens == together.num_tokens


def _both(setup: Setup, pairs: list[Pair]) -> list[tuple[Any, Any]]:
    backbone = setup.trainee.model.backbone
    return [(backbone.encode(pair.query), backbone.encode(pair.target)) for pair in pairs]


@pytest.mark.parametrize("call_cost", [0, 4096])
@pytest.mark.parametrize("machine", [LARGE, MachineOptions(chunk_tokens=512, pack_tokens=256)], ids=["pad", "pack"])
@pytest.mark.parametrize("name", ["warm-up", "bridge", "contrastive", "captioner", "joint", "joint-bridge"])
def test_a_step_has_the_loss_and_gradients_that_it_has_through_square_masks(
    name: str, machine: MachineOptions, call_cost: int, mixed: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "CALL_LOOKS", call_cost)
    monkeypatch.setattr(counting, "PLACE_LOOKS", -(10**9))  # whatever it costs
    split, square = (gradients(ready(calm_backbone(name_of), make_recipe(name)), mixed, machine)
                     for name_of in ("split", "sdpa"))  # fmt: skip
    for loss, value in square[0].losses.items():
        assert split[0].losses[loss] == pytest.approx(value, rel=1e-5, abs=1e-5)
    assert_equal_gradients(split[1], square[1], 1e-5)
    assert split[0].num_looks < square[0].num_looks


@pytest.mark.parametrize("layout", ["eos_bridge", "eos_bridge_encoder"])
def test_a_bridge_steps_looks_grow_as_two_blocks(layout: str, sample: Callable[..., Any]) -> None:
    """Twice the context beside the same target: four times the context's block, and not one look more of the target."""

    def looks(context: int, target: int) -> int:
        setup = ready(calm_backbone(), make_recipe("bridge").model_copy(update={"stages": (stage,)}))
        pairs = [Pair(sample(" owl" * context), sample(" owl" * target)) for _ in range(2)]
        setup.trainee.model.max_tokens = 4096
        return step(setup, pairs).num_looks

    stage = make_recipe("bridge").stages[0].model_copy(update={"layout": layout})
    few, many = 300, 600
    mixed_term = looks(many, many) - looks(many, few) - looks(few, many) + looks(few, few)
    # In squares it is 2 x 2 x 300 x 300.
    assert mixed_term == 0
    assert looks(many, many) < 0.6 * 2 * (many + 1 + many) ** 2


@pytest.mark.parametrize("name", RECONSTRUCTION)
def test_a_step_holds_far_less_than_one_with_scores_and_masks_of_all_positions(
    name: str, mixed: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes of living tensors at the worst moment, beside weights and gradients: counted, the same on each machine."""
    recipe = make_recipe(name)
    setup = ready(_wide_backbone(), recipe)
    model = setup.trainee.model
    for weight in setup.trainee.trained.values():
        weight.grad = torch.zeros_like(weight)
    with LiveBytes() as lean:
        step(setup, 4 * mixed)
    rows = [stage_row(model, recipe.stages[0], *pair) for pair in _both(setup, 4 * mixed)]
    batch = collate(model.backbone, rows)
    with LiveBytes() as plain:
        allowed = LAYOUTS[recipe.stages[0].layout].allowed(batch.roles, batch.samples)
        model.backbone.logits(model.states(batch, allowed)).logsumexp(-1).sum().backward()
    assert lean.peak < 0.5 * plain.peak


def _wide_backbone() -> Backbone:
    """A backbone whose head weighs what a real one's does."""
    backbone = calm_backbone()
    backbone.stock.resize_token_embeddings(2048, mean_resizing=False)
    return backbone
