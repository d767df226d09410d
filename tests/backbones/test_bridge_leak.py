"""The bridge: what the target learns of the context comes through e, and through nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cocoa.backbones import Backbone
from cocoa.backbones.families import FAMILIES
from cocoa.batch import Batch, collate, joined_row, single_row
from cocoa.layouts import LAYOUTS, Layout, Role
from cocoa.model import EmbeddingModel
from cocoa.sample import Sample

Tiny = Callable[..., Backbone]
MakeSample = Callable[..., Sample]
OPEN = LAYOUTS["eos_bridge"]
BLIND = OPEN.without(Role.BRIDGE, Role.CONTEXT)
every_family = pytest.mark.parametrize("family", FAMILIES)
both_backends = pytest.mark.parametrize("attention", ["sdpa", "eager"])


@pytest.fixture
def chosen(sample: MakeSample) -> list[tuple[Sample, Sample]]:
    return [
        (sample("what is this", (60, 80)), sample("a red apple")),
        (sample("<|image_1|> How many birds are there?", (90, 57)), sample("two cats and a dog sleep")),
    ]


def joined(backbone: Backbone, chosen: list[tuple[Sample, Sample]]) -> Batch:
    encoded = [(backbone.encode(query), backbone.encode(target)) for query, target in chosen]
    return collate(backbone, [joined_row(backbone, q, t, 200, bridged=True) for q, t in encoded])


def gradients(backbone: Backbone, batch: Batch, layout: Layout) -> tuple[Tensor, Tensor]:
    """Returns the gradient of all logits at e and B, each with a weight of its own, in A's pixels and A's words."""
    pixels = backbone.grid.normalised(batch.pixel_values).requires_grad_()
    embedded: list[Tensor] = []
    hook = backbone.stock.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: (output.retain_grad(), embedded.append(output))[0]
    )
    states = EmbeddingModel(backbone).states(batch.replace(pixel_values=pixels), layout.allowed(batch.roles))
    hook.remove()
    logits = backbone.logits(states[batch.roles >= Role.BRIDGE])
    torch.manual_seed(1)
    (logits * torch.randn_like(logits)).sum().backward()
    words = batch.is_text & (batch.roles == Role.CONTEXT)
    return pixels.grad, embedded[0].grad[words]


@every_family
@both_backends
def test_a_blind_bridge_lets_no_gradient_through(
    tiny: Tiny, chosen: list[tuple[Sample, Sample]], family: str, attention: str
) -> None:
    backbone = tiny(attention, family=family)
    pixels, words = gradients(backbone, joined(backbone, chosen), BLIND)
    assert torch.count_nonzero(pixels) == 0
    assert torch.count_nonzero(words) == 0


@every_family
@both_backends
@pytest.mark.parametrize("layout", ["eos_bridge", "eos_bridge_encoder"])
def test_an_open_bridge_carries_every_picture_and_word(
    tiny: Tiny, chosen: list[tuple[Sample, Sample]], family: str, attention: str, layout: str
) -> None:
    backbone = tiny(attention, family=family)
    pixels, words = gradients(backbone, joined(backbone, chosen), LAYOUTS[layout])
    assert (pixels.abs().amax(1) > 1e-7).all(), "each patch matters"
    assert (words.abs().amax(1) > 1e-7).all(), "each word matters"


@every_family
@both_backends
def test_with_eos_bridge_encoder_context_and_bridge_are_as_if_there_were_no_target(
    tiny: Tiny, chosen: list[tuple[Sample, Sample]], family: str, attention: str
) -> None:
    backbone = tiny(attention, family=family)
    model = EmbeddingModel(backbone)
    layout = LAYOUTS["eos_bridge_encoder"]
    for query, target in chosen:
        row = joined(backbone, [(query, target)])
        alone = collate(backbone, [single_row(backbone, backbone.encode(query), 200)])
        with torch.no_grad():
            states = model.states(row, layout.allowed(row.roles))[0]
            expected = model.states(alone, layout.allowed(alone.roles))[0]
        assert float((states[: len(expected)] - expected).abs().max()) <= 1e-5


@every_family
@both_backends
@pytest.mark.parametrize(("layout", "changes"), [("eos_bridge_encoder", False), ("eos_bridge", True)])
def test_a_changed_target_reaches_context_and_bridge_only_where_e_looks_at_it(
    tiny: Tiny, chosen: list[tuple[Sample, Sample]], family: str, attention: str, layout: str, changes: bool
) -> None:
    backbone = tiny(attention, family=family)
    batch = joined(backbone, chosen)
    target = batch.roles == Role.TARGET
    other = batch.replace(input_ids=torch.where(target, (batch.input_ids + 31) % 400, batch.input_ids))
    model, allowed = EmbeddingModel(backbone), LAYOUTS[layout].allowed(batch.roles)
    with torch.no_grad():
        before, after = model.states(batch, allowed), model.states(other, allowed)
    for role in (Role.CONTEXT, Role.BRIDGE):
        assert torch.equal(before[batch.roles == role], after[batch.roles == role]) != changes
    assert not torch.equal(before[target], after[target])
