"""Split attention: the same numbers as through the square mask, without its cost, in every family and batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cocoa import looks as counting
from cocoa.backbones import Backbone, Kind, load_backbone
from cocoa.backbones.families import FAMILIES
from cocoa.batch import Batch, collate, joined_row, single_row
from cocoa.layouts import LAYOUTS, Role
from cocoa.looks import Looks
from cocoa.model import EmbeddingModel
from cocoa.sample import Sample

Tiny = Callable[..., Backbone]
MakeSample = Callable[..., Sample]
BRIDGES = ("eos_bridge", "eos_bridge_encoder")
every_family = pytest.mark.parametrize("family", FAMILIES)


@contextmanager
def counted() -> Iterator[list[int]]:
    """Yields the query-key pairs of every fused attention call of the block, over all heads, one number a call."""
    plain, found = functional.scaled_dot_product_attention, []

    def count(query: Tensor, key: Tensor, *others: Any, **options: Any) -> Tensor:
        found.append(query[..., 0].numel() * key.shape[2])
        return plain(query, key, *others, **options)

    functional.scaled_dot_product_attention = count
    try:
        yield found
    finally:
        functional.scaled_dot_product_attention = plain


def heads(backbone: Backbone) -> int:
    """Returns the attention heads of all layers."""
    return len(backbone.layers) * backbone.stock.config.text_config.num_attention_heads


def batch_of(backbone: Backbone, sample: MakeSample, *, padding: str = "right", num_bridges: int = 1) -> Batch:
    chosen = [
        (sample("How many birds are there?"), sample("two")),
        (sample("what is this", (60, 80)), sample("a red apple stands left of a blue bird")),
        (sample("<|image_2|> left of <|image_1|> ?", (90, 57), (56, 56)), sample("a cat")),
        (sample("a dog"), sample("two cats and a dog sleep on the green grass")),
    ]
    rows = [
        joined_row(
            backbone, backbone.encode(query), backbone.encode(target), 200, bridged=True, num_bridges=num_bridges
        )
        for query, target in chosen
    ]
    return collate(backbone, rows, padding=padding)  # type: ignore[arg-type]


def outcome(backbone: Backbone, batch: Batch, allowed: Tensor | Looks) -> tuple[Tensor, dict[str, Tensor], list[int]]:
    """Returns the states of real tokens, the gradient of every weight and pixel, and the pairs computed."""
    backbone.zero_grad()
    pixels = backbone.grid.normalised(batch.pixel_values).requires_grad_()
    seen = backbone.see(pixels, batch.image_grid_thw)
    with counted() as found:
        states = EmbeddingModel(backbone).states(batch, allowed, seen)
    real = states[batch.roles != Role.PAD]
    (real * torch.randn(real.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    gradients = {name: weight.grad.clone() for name, weight in backbone.named_parameters() if weight.grad is not None}
    return real.detach(), {**gradients, "pixels": pixels.grad}, found


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    norm = float(torch.stack([gradient.norm() for gradient in other.values()]).norm())
    for name, gradient in one.items():
        assert float((gradient - other[name]).abs().max()) <= tolerance * norm, name


@every_family
@pytest.mark.parametrize("call_cost", [0, 4096])
@pytest.mark.parametrize(("layout", "padding", "num_bridges"), [
    ("eos_bridge", "right", 1), ("eos_bridge", "left", 3), ("eos_bridge_encoder", "left", 1),
    ("eos_bridge_encoder", "right", 3), ("eos_open", "right", 1), ("bidirectional", "left", 1),
    ("causal", "right", 1), ("causal", "left", 1),
])  # fmt: skip
def test_states_and_every_gradient_are_those_of_the_square_mask(
    tiny: Tiny, sample: MakeSample, family: str, layout: str, padding: str, num_bridges: int, call_cost: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(counting, "CALL_LOOKS", call_cost)
    backbone, dense = tiny("split", family=family), tiny("sdpa", family=family)
    batch = batch_of(backbone, sample, padding=padding, num_bridges=num_bridges)
    rule = LAYOUTS[layout]
    expected, gradients, _ = outcome(dense, batch, rule.allowed(batch.roles, batch.samples))
    for group in (True, False):
        looks = rule.looks(batch.roles, batch.samples, group=group)
        states, found, pairs = outcome(backbone, batch, looks)
        assert float((states - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))
        assert_same(found, gradients, 1e-5)
        assert sum(pairs) == heads(backbone) * looks.num_computed, "what is said is what is computed"


@every_family
@pytest.mark.parametrize("layout", BRIDGES)
def test_a_bridge_step_computes_two_blocks_and_the_square_mask_their_sums_square(
    tiny: Tiny, sample: MakeSample, family: str, layout: str
) -> None:
    backbone, dense = tiny("split", family=family), tiny("sdpa", family=family)
    row = joined_row(
        backbone, backbone.encode(sample("a red apple " * 90)), backbone.encode(sample("a blue bird " * 70)), 900,
        bridged=True,
    )  # fmt: skip
    batch = collate(backbone, [row])
    context, target = (int((batch.roles == role).sum()) for role in (Role.CONTEXT, Role.TARGET))
    found = {}
    for name, model in (("split", EmbeddingModel(backbone)), ("dense", EmbeddingModel(dense))):
        with counted() as pairs, torch.no_grad():
            model.states(batch, model.allowed(batch, layout))
        found[name] = sum(pairs) / heads(backbone)
    blocks = (context + 1) ** 2 + (target + 1) ** 2
    assert found["dense"] == (context + 1 + target) ** 2
    assert abs(found["split"] - blocks) <= context + target + 2
    assert found["split"] < 0.6 * found["dense"]


@every_family
@pytest.mark.parametrize("call_cost", [0, 4096])
def test_a_blind_bridge_lets_exactly_nothing_through(
    tiny: Tiny, sample: MakeSample, family: str, call_cost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "CALL_LOOKS", call_cost)
    backbone = tiny("split", family=family)
    batch = batch_of(backbone, sample)
    for blind, leaks in ((True, False), (False, True)):
        rule = LAYOUTS["eos_bridge"]
        rule = rule.without(Role.BRIDGE, Role.CONTEXT) if blind else rule
        pixels = backbone.grid.normalised(batch.pixel_values).requires_grad_()
        looks = rule.looks(batch.roles, batch.samples, group=True)
        states = EmbeddingModel(backbone).states(batch.replace(pixel_values=pixels), looks)
        states[batch.roles == Role.TARGET].square().sum().backward()
        assert bool(torch.count_nonzero(pixels.grad)) == leaks


@every_family
def test_a_changed_target_never_reaches_an_encoders_context(tiny: Tiny, sample: MakeSample, family: str) -> None:
    backbone = tiny("split", family=family)
    batch = batch_of(backbone, sample)
    other = batch.replace(
        input_ids=torch.where(batch.roles == Role.TARGET, (batch.input_ids + 31) % 400, batch.input_ids)
    )
    looks = LAYOUTS["eos_bridge_encoder"].looks(batch.roles, batch.samples, group=True)
    with torch.no_grad():
        before, after = (EmbeddingModel(backbone).states(each, looks) for each in (batch, other))
    kept = (batch.roles == Role.CONTEXT) | (batch.roles == Role.BRIDGE)
    assert torch.equal(before[kept], after[kept])
    assert not torch.equal(before[batch.roles == Role.TARGET], after[batch.roles == Role.TARGET])


def test_recomputed_layers_give_the_same_gradients(tiny: Tiny, sample: MakeSample) -> None:
    found = []
    for recompute in (False, True):
        backbone = tiny("split").train()
        if recompute:
            backbone.checkpoint_activations()
        batch = batch_of(backbone, sample)
        looks = LAYOUTS["eos_bridge"].looks(batch.roles, batch.samples, group=True)
        found.append(outcome(backbone, batch, looks)[1])
    assert_same(*found, 1e-6)


def test_looks_made_in_inference_mode_can_be_trained_with(tiny: Tiny, sample: MakeSample) -> None:
    backbone = tiny("split")
    batch = batch_of(backbone, sample)
    looks = LAYOUTS["bidirectional"].looks(batch.roles, batch.samples)
    assert looks.masked is not None
    with torch.inference_mode():
        EmbeddingModel(backbone).states(batch, looks)
    EmbeddingModel(backbone).states(batch, looks).sum().backward()


def test_bfloat16_of_autocast_is_masked_too(tiny: Tiny, sample: MakeSample) -> None:
    backbone = tiny("split")
    batch = batch_of(backbone, sample)
    looks = LAYOUTS["eos_bridge_encoder"].looks(batch.roles, batch.samples, group=True)
    other = batch.replace(
        input_ids=torch.where(batch.roles == Role.TARGET, (batch.input_ids + 31) % 400, batch.input_ids)
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        states, changed = (EmbeddingModel(backbone).states(each, looks) for each in (batch, other))
    with torch.no_grad():
        whole = EmbeddingModel(backbone).states(batch, looks)
    real, kept = batch.roles != Role.PAD, (batch.roles == Role.CONTEXT) | (batch.roles == Role.BRIDGE)
    assert torch.equal(states[kept], changed[kept])
    assert functional.cosine_similarity(states[real].float(), whole[real], dim=-1).mean() > 0.98


@every_family
def test_the_stock_model_itself_is_as_under_sdpa(tiny: Tiny, sample: MakeSample, family: str, tmp_path: Path) -> None:
    """Whoever calls it directly, to generate for example, gives no looks."""
    states = []
    for attention in ("split", "sdpa"):
        backbone = tiny(attention, family=family)
        batch = batch_of(backbone, sample, padding="left")
        with torch.no_grad():
            stock = backbone.stock.model(
                input_ids=batch.input_ids,
                attention_mask=(batch.roles != Role.PAD).long(),
                pixel_values=backbone.grid.normalised(batch.pixel_values),
                image_grid_thw=batch.image_grid_thw,
                mm_token_type_ids=(batch.kinds == Kind.IMAGE).int(),
                use_cache=False,
            )
        states.append(stock.last_hidden_state[batch.roles != Role.PAD])
    assert torch.equal(*states)
    tiny("split", family=family).save(tmp_path)
    assert "split" not in (tmp_path / "config.json").read_text(), "how it is computed is not what it is"
    assert load_backbone(str(tmp_path), attention="sdpa").attention == "sdpa"
    assert load_backbone(str(tmp_path)).attention == "split"


def test_a_square_mask_is_needed_where_attention_does_not_split(tiny: Tiny, sample: MakeSample) -> None:
    backbone = tiny("sdpa")
    batch = collate(backbone, [single_row(backbone, backbone.encode(sample("a cat")), 50)])
    with pytest.raises(ValueError, match="square mask"):
        EmbeddingModel(backbone).states(batch, LAYOUTS["bidirectional"].looks(batch.roles))
