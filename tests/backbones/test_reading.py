"""The last layer computed only where it is read: the same vectors and gradients for less work."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cocoa.backbones.families import FAMILIES
from cocoa.batch import collate
from cocoa.layouts import LAYOUTS
from cocoa.model import EmbeddingModel
from cocoa.pooling import Pooling

every_family = pytest.mark.parametrize("family", FAMILIES)


def batch_of(model, sample):
    samples = [sample("a red apple", (60, 80)), sample("two cats and a dog sleep"), sample("", (90, 57))]
    return collate(model.backbone, [model.row(model.backbone.encode(one)) for one in samples])


def allowed(batch, layout="bidirectional"):
    return LAYOUTS[layout].allowed(batch.roles, batch.samples)


@every_family
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("tokens", [1, 3])
def test_states_that_are_read_are_those_of_a_whole_pass_and_all_others_are_zero(
    tiny, sample, family, attention, tokens
):
    model = EmbeddingModel(tiny(attention, family=family), pooling=Pooling(tokens=tokens)).eval()
    batch = batch_of(model, sample)
    places = model.pooling.places(batch)
    with torch.inference_mode():
        whole = model.states(batch, allowed(batch)).flatten(0, 1)
        read = model.states(batch, allowed(batch), read_at=places).flatten(0, 1)
    torch.testing.assert_close(read[places], whole[places], rtol=1e-5, atol=1e-5)
    others = torch.ones(len(read), dtype=torch.bool)
    others[places] = False
    assert read[others].abs().max() == 0
    assert whole[others].abs().max() > 0


@pytest.mark.parametrize("checkpointed", [False, True])
@every_family
def test_so_are_the_gradients_of_every_weight_also_where_activations_are_computed_again(
    tiny, sample, family, checkpointed
):
    gradients = []
    for is_whole in (True, False):
        model = EmbeddingModel(tiny(family=family)).train()
        for weight in model.parameters():  # Calm, so that rounding is not blown up.
            weight.data.mul_(0.3 if weight.ndim > 1 else 1)
        if checkpointed:
            model.backbone.checkpoint_activations()
        batch = batch_of(model, sample)
        places = model.pooling.places(batch)
        states = model.states(batch, allowed(batch), read_at=None if is_whole else places)
        (states.flatten(0, 1)[places] * torch.linspace(-1, 1, states.shape[-1])).sum().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    whole, read = gradients
    assert whole.keys() == read.keys()
    size = torch.cat([one.flatten() for one in whole.values()]).norm()
    apart = torch.cat([(whole[name] - read[name]).flatten() for name in whole]).norm()
    assert apart < 1e-5 * size


def test_less_is_computed_and_a_mean_of_all_states_still_reads_all(tiny, sample):
    counts = {}
    for pooling in (Pooling(), Pooling(kind="mean")):
        model = EmbeddingModel(tiny(), pooling=pooling).eval()
        batch = batch_of(model, sample)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            model.embed(batch)
        counts[pooling.kind] = counter.get_flop_counts()["Global"][torch.ops.aten.mm]
    last = tiny().layers[-1]
    places, read = batch.roles.numel(), 3
    saved = sum(weight.numel() for weight in last.mlp.parameters()) + last.self_attn.o_proj.weight.numel()
    assert counts["mean"] - counts["bridge"] == 2 * saved * (places - read)


def test_nothing_of_one_pass_is_left_for_the_next(tiny, sample):
    model = EmbeddingModel(tiny()).eval()
    batch = batch_of(model, sample)
    with torch.inference_mode():
        before = model.states(batch, allowed(batch))
        model.embed(batch)
        rows = torch.randn(2, 5, model.backbone.hidden_size)
        assert model.backbone.layers[-1].mlp(rows).abs().amin(-1).min() > 0
        assert torch.equal(model.states(batch, allowed(batch)), before)
