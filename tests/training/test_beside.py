"""A light decoder beside a contrastive objective: the numbers of encoding each query twice, from encoding it once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from stages import (
    ALONE,
    LARGE,
    SMALL,
    assert_equal_gradients,
    calm_backbone,
    encoded,
    gradients,
    make_pairs,
    make_recipe,
    ready,
)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cocoa.objectives import BridgedPatch, BridgedText
from cocoa.planning.ledger import FUSED
from cocoa.pooling import Pooling
from cocoa.recipe import MachineOptions
from cocoa.sample import Pair
from cocoa.training import beside
from cocoa.training.contrast import contrast_backward
from cocoa.training.reconstruct import hidden_chunks, reconstruct_backward
from cocoa.training.setup import Setup
from cocoa.training.step import backward_step
from cocoa.training.tally import Tally

BESIDE = ["joint", "joint-patches"]
PACKED = MachineOptions(chunk_tokens=128, pack_tokens=96)
EXTRAS = ["", "freeze_vision: true", "adapter: {dropout: 0.0}"]


def two_passes(
    setup: Setup, pairs: list[Pair], machine: MachineOptions, seed: int = 0
) -> tuple[Tally, dict[str, Tensor]]:
    """The slow truth: each half of the step with passes of its own, one after the other."""
    trainee = setup.trainee
    trainee.zero_grad()
    contrastive, *decoders = trainee.objectives
    given = encoded(trainee.model.backbone, pairs)
    tally = reconstruct_backward(trainee, decoders, given, ALONE, machine, seed)
    tally.join(contrast_backward(trainee, contrastive, given, ALONE, machine))
    return tally, {name: weight.grad for name, weight in trainee.trained.items() if weight.grad is not None}


def setup_of(name: str, extra: str = "", top: str = "") -> Setup:
    setup = ready(calm_backbone(), make_recipe(name, extra, top))
    with torch.no_grad():  # an adapter that is still zero would hide half of the gradients
        for key, weight in setup.trainee.trained.items():
            if "lora" in key:
                weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return setup


def assert_is_two_passes(setup: Setup, pairs: list[Pair], machine: MachineOptions, tolerance: float = 1e-6) -> None:
    once, found = gradients(setup, pairs, machine, seed=3)
    found = {name: gradient.clone() for name, gradient in found.items()}
    twice, expected = two_passes(setup, pairs, machine, seed=3)
    assert once.losses == pytest.approx(twice.losses, rel=max(tolerance, 1e-6))
    assert_equal_gradients(expected, found, tolerance)
    for number in range(1, len(setup.trainee.objectives)):  # a decoder's gradients are small beside the model's
        own, its = (
            {name: gradient for name, gradient in one.items() if name.startswith(f"objectives.{number}.")}
            for one in (expected, found)
        )
        assert_equal_gradients(own, its, 10 * tolerance)
    assert once.num_tokens < twice.num_tokens


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("machine", [LARGE, SMALL, PACKED], ids=["fits", "cached", "packed"])
@pytest.mark.parametrize("name", BESIDE)
def test_a_shared_pass_has_the_losses_and_gradients_of_two(
    name: str, machine: MachineOptions, extra: str, sample: Callable[..., Any]
) -> None:
    pairs = make_pairs(sample)
    assert any(pair.negatives for pair in pairs)
    assert_is_two_passes(setup_of(name, extra), pairs, machine)


@pytest.mark.parametrize("machine", [LARGE, SMALL], ids=["fits", "cached"])
@pytest.mark.parametrize("pooling", [Pooling(tokens=4), Pooling(kind="mean")], ids=lambda pooling: pooling.name)
def test_vectors_of_several_tokens_and_of_several_lengths_are_shared_too(
    pooling: Pooling, machine: MachineOptions, sample: Callable[..., Any]
) -> None:
    """Rows are cut here, each side as where it has a pass of its own."""
    setup = setup_of("joint-patches")
    model, [contrastive, *_] = setup.trainee.model, setup.trainee.objectives
    model.pooling, model.max_tokens = pooling, 20
    contrastive.options = contrastive.options.model_copy(update={"dimensions": (8, 16)})
    pairs = [*make_pairs(sample), Pair(sample("an owl " * 20), sample("a red bird " * 20))]
    given = encoded(model.backbone, pairs)
    assert all(len(side[-1]) > 2 * model.max_tokens for side in (given.queries, given.targets))
    assert_is_two_passes(setup, pairs, machine)


@pytest.mark.parametrize("machine", [LARGE, SMALL], ids=["fits", "cached"])
def test_in_bfloat16_it_is_the_same_up_to_its_rounding(machine: MachineOptions, sample: Callable[..., Any]) -> None:
    for extra in ("", "adapter: {dropout: 0.0}"):
        setup = setup_of("joint-patches", extra, "precision: bfloat16")
        assert_is_two_passes(setup, make_pairs(sample), machine, 2e-2)
        assert {weight.grad.dtype for weight in setup.trainee.trained.values() if weight.grad is not None} == {
            torch.float32
        }


def test_a_decoders_gradient_reaches_the_model_through_the_vectors(sample: Callable[..., Any]) -> None:
    """Doubling its weight doubles what it adds, in the model's layers as in its own."""
    setup = setup_of("joint")
    decoder = setup.trainee.objectives[1]
    found = []
    for weight in (0.0, 0.5, 1.0):
        decoder.weight = weight
        found.append(gradients(setup, make_pairs(sample), SMALL)[1])
    none, half, whole = found
    for name in ("model.backbone.stock.model.language_model.norm.weight", "objectives.1.decoder.norm.weight"):
        added = half[name] - none[name]
        assert added.abs().max() > 0
        assert torch.allclose(whole[name] - none[name], 2 * added, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", BESIDE)
def test_what_is_hidden_is_what_passes_of_their_own_hide(name: str, sample: Callable[..., Any]) -> None:
    setup = setup_of(name)
    model, stage = setup.trainee.model, setup.trainee.stage
    decoders = list(setup.trainee.objectives)[1:]
    pairs = encoded(model.backbone, make_pairs(sample))
    found = []
    for chunks in (
        hidden_chunks(model, stage, decoders, pairs, SMALL, 7),
        beside.target_chunks(model, decoders, pairs, SMALL, 7),
    ):
        hidden = {}
        for chunk in chunks:
            apart = chunk.batch.apart
            assert apart is not None
            for line, place in enumerate(chunk.places):
                length = int((apart.samples[line] == line).sum())
                own = [tuple(parts.places[line, :length].tolist()) for parts in chunk.hidden]
                hidden[place] = (tuple(apart.input_ids[line, :length].tolist()), own)
        found.append(hidden)
    assert found[0] == found[1]
    assert len(found[0]) == 6


@pytest.mark.parametrize("machine", [LARGE, SMALL], ids=["fits", "cached"])
@pytest.mark.parametrize("name", BESIDE)
def test_the_language_model_does_what_the_contrastive_objective_alone_asks(
    name: str, machine: MachineOptions, sample: Callable[..., Any]
) -> None:
    counts = []
    for kind in ("contrastive", name):
        setup = setup_of(kind)
        passes = []
        setup.trainee.model.backbone.stock.model.language_model.register_forward_hook(lambda *_: passes.append(1))  # noqa: B023
        with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
            tally = backward_step(
                setup.trainee, encoded(setup.trainee.model.backbone, make_pairs(sample)), ALONE, machine, 0
            )
        flops = counter.get_flop_counts()
        [of_model] = [flops[key] for key in flops if key.endswith(".language_model")]
        counts.append((len(passes), sum(of_model.values()), tally.num_tokens, tally.num_places, tally.num_looks))
    assert counts[0] == counts[1]
    assert counts[0][1] > 0


def test_the_decoders_passes_are_no_larger_than_a_chunk(sample: Callable[..., Any], monkeypatch) -> None:
    setup = setup_of("joint-patches")
    decoded = []
    for objective in setup.trainee.objectives:
        if isinstance(objective, BridgedText | BridgedPatch):
            objective.decoder.register_forward_pre_hook(lambda module, given: decoded.append(given[3].shape[:2]))
    pairs = 2 * make_pairs(sample)
    gradients(setup, pairs, SMALL)
    backbone = setup.trainee.model.backbone
    assert all(1 + len(target) < SMALL.chunk_tokens for target in encoded(backbone, pairs).targets)
    assert all(lines * length <= SMALL.chunk_tokens for lines, length in decoded)
    assert sum(lines for lines, _ in decoded) >= len(pairs)


@pytest.mark.parametrize("machine", [SMALL, PACKED], ids=["padded", "packed"])
def test_long_targets_of_short_queries_share_no_more_passes_than_a_chunk_holds(
    machine: MachineOptions, sample: Callable[..., Any]
) -> None:
    """Where queries are read for the decoder alone, a pass is bounded by what it decodes as by what it reads."""
    pairs = [Pair(sample("a"), sample("a red bird " * (1 + number % 5))) for number in range(14)]
    sizes: dict[MachineOptions, list[tuple[int, int]]] = {machine: [], LARGE: []}
    found = []
    for each, decoded in sizes.items():
        setup = setup_of("light")
        decoder = setup.trainee.objectives[0].decoder
        decoder.register_forward_pre_hook(lambda _, given, decoded=decoded: decoded.append(tuple(given[3].shape[:2])))
        found.append(gradients(setup, pairs, each, seed=3))
    assert len(sizes[LARGE]) == 1 and LARGE.chunk_tokens > 14 * sizes[LARGE][0][1]
    assert sum(lines for lines, _ in sizes[machine]) == len(pairs)
    assert all(lines * length <= machine.chunk_tokens for lines, length in sizes[machine])
    (small, own), (large, expected) = found
    assert small.losses == pytest.approx(large.losses, rel=1e-6)
    assert small.num_tokens == large.num_tokens
    assert_equal_gradients(expected, own)
