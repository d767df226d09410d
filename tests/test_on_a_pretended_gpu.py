"""What goes wrong on a GPU alone and shows on any machine: tensors left on the CPU, and waits between passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stages import (
    ALONE,
    LARGE,
    SMALL,
    STAGES,
    assert_equal_gradients,
    calm_backbone,
    gradients,
    make_pairs,
    make_recipe,
    ready,
)

from cocoa.backbones.families import FAMILIES
from cocoa.layouts import Layout
from cocoa.model import EmbeddingModel
from cocoa.pooling import Pooling
from cocoa.recipe import MachineOptions
from cocoa.training.ranks import Ranks
from pretend_gpu import GPU, OnGpu, pretended

THERE = Ranks(0, 1, GPU)
PACKED = MachineOptions(chunk_tokens=256, pack_tokens=128)


def samples(sample):
    return [
        sample("a red apple"),
        sample("How many birds <|image_1|> are there <|image_2|>?", (90, 60), (70, 120)),
        sample("", (60, 60)),
        sample("two cats and a dog sleep on the green grass"),
    ]


@pytest.mark.parametrize("machine", [LARGE, SMALL, PACKED])
@pytest.mark.parametrize("name", STAGES)
def test_a_step_leaves_nothing_on_the_cpu_and_waits_for_nothing(sample, name, machine):
    pairs = make_pairs(sample)
    plain, expected = gradients(ready(calm_backbone(), make_recipe(name)), pairs, machine, ALONE)
    with pretended() as counts:
        setup = ready(calm_backbone().to(GPU), make_recipe(name))
        counts.clear()
        tally, found = gradients(setup, pairs, machine, THERE)
        assert not counts.waits
        assert counts.num_kernels > 100
        assert tally.losses == pytest.approx(plain.losses, rel=1e-6)
        assert len(counts.waits) == 1, "losses are asked for in one question"
        there = {key: value.cpu() for key, value in found.items()}
    assert_equal_gradients(expected, there)


@pytest.mark.parametrize("name", STAGES)
def test_looks_are_grouped_for_the_device_that_computes_them(sample, name, monkeypatch):
    plain, devices = Layout.looks, []

    def looks(*given, device="cpu", **options):
        devices.append(device)
        return plain(*given, device=device, **options)

    monkeypatch.setattr(Layout, "looks", looks)
    with pretended():
        gradients(ready(calm_backbone().to(GPU), make_recipe(name)), make_pairs(sample), LARGE, THERE)
    assert set(devices) == {"cuda"}


@pytest.mark.parametrize("attention", ["split", "sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", [Pooling(), Pooling(tokens=4), Pooling(kind="mean")], ids=lambda one: one.name)
def test_encoding_waits_once_for_all_vectors(tiny, sample, family, attention, pooling):
    model = EmbeddingModel(tiny(family=family, attention=attention), max_tokens=200, pooling=pooling).eval()
    expected = model.encode(samples(sample))
    with pretended() as counts:
        model.to(GPU)
        counts.clear()
        found = model.encode(samples(sample))
        assert sum(counts.waits.values()) == 1
    assert np.abs(found - expected).max() < 1e-6


def test_a_tensor_left_on_the_cpu_is_refused():
    with pretended():
        there = torch.ones(3).to(GPU)
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            np.asarray(there)
        assert isinstance(there + 1 + torch.tensor(1.0), OnGpu)
        assert isinstance(torch.zeros(3, device=GPU), OnGpu)


@pytest.mark.parametrize(
    "ask",
    [
        lambda there: there[there > 1],
        lambda there: float(there[0]),
        lambda there: bool((there > 1).any()),
        lambda there: there.tolist(),
        lambda there: there.cpu(),
        lambda there: there.nonzero(),
        lambda there: there[torch.tensor([0, 2])],
        lambda there: torch.equal(there, there),
    ],
)
def test_a_wait_is_counted(ask):
    with pretended() as counts:
        there = torch.arange(3.0).to(GPU)
        assert not counts.waits
        assert counts.copies == 1
        ask(there)
        assert sum(counts.waits.values()) == 1


def test_gradients_cross_to_the_gpu_and_back():
    with pretended():
        here = torch.arange(4.0, requires_grad=True)
        (here.to(GPU) * 2).cpu().sum().backward()
    assert here.grad.tolist() == [2.0] * 4
