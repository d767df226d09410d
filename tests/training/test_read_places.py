"""A reconstruction step computes the last layer, and a decoder's, only where they are read: the same step for less."""

from __future__ import annotations

import pytest
import torch
from stages import (
    LARGE,
    assert_equal_gradients,
    calm_backbone,
    encoded,
    gradients,
    make_pairs,
    make_recipe,
    ready,
)
from torch.utils.flop_counter import FlopCounterMode

from cocoa.backbones import Backbone
from cocoa.recipe import MachineOptions
from cocoa.training import reconstruct
from cocoa.training.reconstruct import hidden_chunks, look

PACKED = MachineOptions(chunk_tokens=4096, pack_tokens=128)
REBUILDING = ["warm-up", "bridge", "captioner", "light", "joint-bridge"]


@pytest.fixture
def everywhere(monkeypatch):
    """Makes everything be computed everywhere, which is the slow version."""

    def now() -> None:
        once = Backbone.decode_once
        monkeypatch.setattr(reconstruct, "_places_read", lambda model, batch, reads: None)
        monkeypatch.setattr(Backbone, "decode_once", lambda self, *args, read_at=None: once(self, *args))

    return now


@pytest.mark.parametrize("extra", ["", "adapter: {rank: 2, dropout: 0.0}"])
@pytest.mark.parametrize("machine", [LARGE, PACKED], ids=["padded", "packed"])
@pytest.mark.parametrize("name", REBUILDING)
def test_losses_and_gradients_are_those_of_a_step_that_computes_all(sample, everywhere, name, machine, extra) -> None:
    pairs = make_pairs(sample)
    less, found = gradients(ready(calm_backbone(), make_recipe(name, extra)), pairs, machine)
    everywhere()
    whole, expected = gradients(ready(calm_backbone(), make_recipe(name, extra)), pairs, machine)
    assert less.losses == pytest.approx(whole.losses, rel=1e-6)
    assert_equal_gradients(expected, found, 1e-5)


@pytest.mark.parametrize("name", ["warm-up", "bridge", "captioner"])
def test_less_is_computed(sample, everywhere, name) -> None:
    counts = []
    for prepare in (lambda: None, everywhere):
        prepare()
        with FlopCounterMode(display=False) as counter:
            gradients(ready(calm_backbone(), make_recipe(name)), make_pairs(sample))
        counts.append(counter.get_total_flops())
    assert counts[0] < 0.95 * counts[1]


@pytest.mark.parametrize("name", ["bridge", "captioner", "light"])
def test_states_are_there_where_objectives_read_them_and_zero_elsewhere(sample, name) -> None:
    setup = ready(calm_backbone(), make_recipe(name))
    model, stage = setup.trainee.model, setup.trainee.stage
    pairs = encoded(model.backbone, make_pairs(sample))
    [chunk] = hidden_chunks(model, stage, list(setup.trainee.objectives), pairs, LARGE, 0)
    with torch.no_grad():
        whole = look(model, stage.layout, chunk.batch).states
        read = look(model, stage.layout, chunk.batch, chunk.reads).states
    is_read = chunk.reads.clone()
    if name == "light":
        assert not is_read.any()
        is_read.view(-1)[chunk.batch.bridge] = True
    assert 0 < is_read.sum() < is_read.numel() / 2
    torch.testing.assert_close(read[is_read], whole[is_read], rtol=1e-5, atol=1e-5)
    assert read[~is_read].abs().max() == 0


def test_a_pass_in_which_nothing_is_hidden_still_has_gradients(sample, everywhere) -> None:
    """A rank without anything to predict takes part in every exchange of gradients."""
    pairs = [make_pairs(sample)[5]]  # its target is a picture: no word to hide
    less, found = gradients(ready(calm_backbone(), make_recipe("bridge")), pairs)
    everywhere()
    whole, expected = gradients(ready(calm_backbone(), make_recipe("bridge")), pairs)
    assert less.losses == whole.losses
    assert found.keys() == expected.keys() != set()
    assert all(gradient.abs().max() == 0 for gradient in found.values())
