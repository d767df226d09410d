"""A plan beside the step itself: the operations and bytes that it foretells are those that are counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from stages import ALONE, calm_backbone, encoded, make_recipe, ready
from torch.utils.flop_counter import FlopCounterMode

from cocoa.objectives import ContrastiveOptions
from cocoa.planning import costs
from cocoa.planning.costs import Costs
from cocoa.planning.ledger import FUSED, LiveBytes
from cocoa.planning.passes import step_of
from cocoa.recipe import MachineOptions
from cocoa.sample import Pair
from cocoa.training import contrast
from cocoa.training.batches import EncodedPairs, encode_pair
from cocoa.training.step import backward_step


@pytest.mark.parametrize("attention", ["split", "sdpa"])
@pytest.mark.parametrize(
    ("name", "chunk_tokens"),
    [("warm-up", 2048), ("bridge", 2048), ("joint", 2048), ("joint", 1024), ("joint-patches", 2048)],
)
def test_a_step_does_and_holds_what_was_planned(
    name: str, chunk_tokens: int, attention: str, sample: Callable[..., Any]
) -> None:
    """Rows long enough that the bridge is split; what a square mask computes more is planned too."""
    pictures = [(84, 84)] if name == "joint-patches" else []
    pairs = [Pair(sample(" owl" * 280, (84, 84)), sample(" red" * 260, *pictures)) for _ in range(3)]
    recipe = make_recipe(name)
    setup = ready(calm_backbone(attention), recipe)
    setup.trainee.model.max_tokens = 4096
    backbone, machine = setup.trainee.model.backbone, MachineOptions(chunk_tokens=chunk_tokens)
    costs = Costs(backbone, recipe, recipe.stages[0])
    planned = step_of(setup.trainee.model, recipe.stages[0], [encode_pair(backbone, pair) for pair in pairs], machine)
    for weight in setup.trainee.trained.values():
        weight.grad = torch.zeros_like(weight)
    given = encoded(backbone, pairs)
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        tally = backward_step(setup.trainee, given, ALONE, machine, 0)
    with LiveBytes() as memory:
        backward_step(setup.trainee, given, ALONE, machine, 0)
    assert sum(part.area for part in planned.passes) == tally.num_looks
    if planned.joined:  # single rows of unlike lengths may share a pass, whose padding is looked at
        assert (tally.idle_look_rate < 0.01) == (attention == "split" or name == "warm-up")
    assert costs.flops(planned, machine) == pytest.approx(counter.get_total_flops(), rel=0.03)
    if attention == "split":  # square masks are not planned for
        assert costs.beyond(planned, machine) - costs.gradients == pytest.approx(memory.peak, rel=0.25)


@pytest.mark.parametrize("exact", [True, False], ids=["whole", "in part"])
def test_long_targets_of_short_queries_are_planned_as_they_are_decoded(
    exact: bool, sample: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exact:
        monkeypatch.setattr(costs, "_EXACT_PLACES", 0)
        monkeypatch.setattr(costs, "_PART_PLACES", 256)
    pairs = [Pair(sample("an owl"), sample(" red" * (90 + number % 7))) for number in range(16)]
    recipe = make_recipe("light")
    setup = ready(calm_backbone(), recipe)
    given = encoded(setup.trainee.model.backbone, pairs)
    for weight in setup.trainee.trained.values():
        weight.grad = torch.zeros_like(weight)
    found = []
    for chunk_tokens in (2048, 512) if exact else (2048,):
        machine = MachineOptions(chunk_tokens=chunk_tokens)
        planned = step_of(
            setup.trainee.model,
            recipe.stages[0],
            [encode_pair(setup.trainee.model.backbone, pair) for pair in pairs],
            machine,
        )
        assert all(part.places_aside <= chunk_tokens for part in planned.joined)
        planner = Costs(setup.trainee.model.backbone, recipe, recipe.stages[0])
        backward_step(setup.trainee, given, ALONE, machine, 0)
        with LiveBytes() as memory:
            backward_step(setup.trainee, given, ALONE, machine, 0)
        assert planner.beyond(planned, machine) - planner.gradients == pytest.approx(memory.peak, rel=0.2)
        found.append(memory.peak)
    assert not exact or found[1] < found[0] / 2


def test_what_a_frozen_tower_saw_is_held_by_gradient_caching_and_planned(
    sample: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("contrastive", "freeze_vision: true")
    machine = MachineOptions(chunk_tokens=128)
    setup = ready(calm_backbone(), recipe)
    backbone = setup.trainee.model.backbone
    pairs = [Pair(sample("an owl", (84, 84)), sample("red"))] * 128
    given = encoded(backbone, pairs)
    step = step_of(setup.trainee.model, recipe.stages[0], [encode_pair(backbone, pair) for pair in pairs], machine)
    few = step_of(setup.trainee.model, recipe.stages[0], [encode_pair(backbone, pair) for pair in pairs[:64]], machine)
    costs = Costs(backbone, recipe, recipe.stages[0])
    held = 128 * 9 * backbone.hidden_size * torch.float32.itemsize
    assert costs.beyond(step, machine) - costs.beyond(few, machine) == held / 2
    peaks = []
    pool = contrast._pool
    backward_step(setup.trainee, given, ALONE, machine, 0)
    for keep in (True, False):
        monkeypatch.setattr(contrast, "_pool", lambda *given, keep_seen=False, keep=keep: pool(*given, keep_seen=keep))
        with LiveBytes() as memory:
            backward_step(setup.trainee, given, ALONE, machine, 0)
        peaks.append(memory.peak)
    # Without it the tower is run once more, whose own bytes are a part of that peak.
    assert 0.5 * held < peaks[0] - peaks[1] <= held


@pytest.mark.parametrize(("dimensions", "num_queries"), [((), 300), ((8,), 300), ((8, 4), 300), ((), 20)])
def test_what_the_contrastive_loss_holds_is_planned(
    dimensions: tuple[int, ...], num_queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more queries than are compared at once, and of few beside many candidates."""
    monkeypatch.setattr(contrast, "_MOST_SCORES", 2**15)
    options = ContrastiveOptions(dimensions=dimensions)
    recipe = make_recipe("contrastive")
    stage = recipe.stages[0].model_copy(update={"objectives": (options,)})
    backbone = calm_backbone()
    vectors = torch.randn(2 * 300, backbone.hidden_size)[300 - num_queries :]
    none: list[Any] = [None]
    pairs = EncodedPairs(
        none * num_queries, none * num_queries, none * (300 - num_queries), torch.arange(300), list(range(num_queries))
    )
    objective = options.build(backbone)
    contrast._gradient_at_vectors(objective, vectors, pairs, ALONE)
    with LiveBytes() as memory:
        contrast._gradient_at_vectors(objective, vectors, pairs, ALONE)
    assert Costs(backbone, recipe, stage).contrast(num_queries, 300) == pytest.approx(memory.peak, rel=0.15)


@pytest.mark.parametrize("name", ["warm-up", "bridge", "contrastive"])
def test_operations_are_those_of_rows_with_and_without_pictures_short_and_long(
    name: str, sample: Callable[..., Any]
) -> None:
    """What a picture, a line and a token cost are told apart: no two passes have them in one relation."""
    pairs = [
        Pair(sample(" owl" * (3 + 9 * place), *([(84, 56 + 28 * (place % 2))] * (place % 3))), sample(" red" * 5))
        for place in range(1, 13)
    ]
    recipe = make_recipe(name)
    setup = ready(calm_backbone("split"), recipe)
    setup.trainee.model.max_tokens = 4096
    backbone, machine = setup.trainee.model.backbone, MachineOptions(chunk_tokens=256)
    planned = step_of(setup.trainee.model, recipe.stages[0], [encode_pair(backbone, pair) for pair in pairs], machine)
    assert len(planned.passes) > 4
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        backward_step(setup.trainee, encoded(backbone, pairs), ALONE, machine, 0)
    total = Costs(backbone, recipe, recipe.stages[0]).flops(planned, machine)
    assert total == pytest.approx(counter.get_total_flops(), rel=0.01)
