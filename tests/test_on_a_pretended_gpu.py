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
    make_samples,
    ready,
)

from cocoa.backbones.families import FAMILIES
from cocoa.layouts import Layout
from cocoa.model import EmbeddingModel
from cocoa.pooling import Pooling
from cocoa.recipe import MachineOptions, parse_recipe
from cocoa.training.loop import train
from cocoa.training.ranks import Ranks
from pretend_gpu import GPU, OnGpu, pretended

THERE = Ranks(0, 1, GPU)
PACKED = MachineOptions(chunk_tokens=256, pack_tokens=128)


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
def test_more_rows_in_a_pass_are_no_more_kernels(sample, name):
    """Where a step has too little work for a GPU, its time is that of starting kernels (docs/performance.md)."""
    found = []
    for copies in (1, 4):
        with pretended() as counts:
            setup = ready(calm_backbone().to(GPU), make_recipe(name))
            counts.clear()
            gradients(setup, make_pairs(sample) * copies, LARGE, THERE)
            found.append(counts.num_kernels)
    assert found[1] <= 1.02 * found[0], found


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
    expected = model.encode(make_samples(sample))
    with pretended() as counts:
        model.to(GPU)
        counts.clear()
        found = model.encode(make_samples(sample))
        assert sum(counts.waits.values()) == 1
    assert np.abs(found - expected).max() < 1e-6


RECIPE = parse_recipe("""
name: one
backbone: {name: nano}
max_tokens: 96
machine: {checkpoint_every: 2}
stages:
  - {name: warm-up, layout: bidirectional, objectives: [{kind: masked_text, rate: 0.2}, {kind: masked_patch}],
     data: [{kind: scene_pairs, num_pairs: 500}], steps: 3, batch_size: 4, learning_rate: 5e-4}
  - {name: bridge, layout: eos_bridge, objectives: [{kind: masked_text, rate: 0.7, roles: [target]}],
     data: [{kind: scene_pairs, num_pairs: 500}], steps: 3, batch_size: 4, learning_rate: 5e-4, adapter: {dropout: 0.2}}
  - {name: contrastive, layout: bidirectional, objectives: [{kind: contrastive, temperature: 0.05}],
     data: [{kind: scene_pairs, num_pairs: 500}], steps: 3, batch_size: 4, learning_rate: 1e-3}
""")


def test_a_run_waits_twice_a_step_and_goes_on_where_it_was_stopped(tmp_path):
    waits = []

    def look(stage, record):
        waits.append({place.rpartition(":")[2]: count for (_, place), count in counts.waits.items()})
        counts.waits.clear()
        if stop_at == (stage.name, record["step"]):
            raise KeyboardInterrupt

    with pretended() as counts:
        stop_at = None
        _, whole = train(RECIPE, tmp_path / "whole", ranks=THERE, on_step=look)
        # Steps behind those that a checkpoint or the end of a stage comes before.
        assert all(waits[step].keys() == {"_norm", "_read_sums"} for step in (1, 4, 7)), waits
        stop_at = ("bridge", 2)
        with pytest.raises(KeyboardInterrupt):
            train(RECIPE, tmp_path / "cut", ranks=THERE, on_step=look)
        stop_at = None
        _, resumed = train(RECIPE, tmp_path / "cut", resume=True, ranks=THERE)
    assert [record["losses"] for record in resumed.records] == [record["losses"] for record in whole.records]
    one, other = (EmbeddingModel.load(tmp_path / name / "model") for name in ("whole", "cut"))
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name


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
