"""Attention: our masks and positions are the stock model's own where it has any: each family, backend and padding."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor

from cocoa.backbones import Backbone, Kind
from cocoa.backbones.families import FAMILIES
from cocoa.batch import Batch, collate, joined_row
from cocoa.layouts import LAYOUTS, Role
from cocoa.model import EmbeddingModel
from cocoa.sample import Sample

Tiny = Callable[..., Backbone]
MakeSample = Callable[..., Sample]
ATTENTIONS = ("sdpa", "eager")
every_family = pytest.mark.parametrize("family", FAMILIES)


def pairs(sample: MakeSample, content: str) -> list[tuple[Sample, Sample]]:
    """Returns (query, target) of rows that differ in length."""
    text = [(sample("How many birds are there?"), sample("two")), (sample("a dog"), sample("two dogs"))]
    image = [
        (sample("what is this", (60, 80)), sample("a red apple")),
        (sample("<|image_2|> left of <|image_1|> ?", (90, 57), (56, 56)), sample("a cat and a dog sleep")),
    ]
    return {"text": text, "image": image, "mixed": [text[0], image[1], text[1], image[0]]}[content]


def rows(backbone: Backbone, chosen: list[tuple[Sample, Sample]], padding: str = "right") -> Batch:
    encoded = [(backbone.encode(query), backbone.encode(target)) for query, target in chosen]
    return collate(backbone, [joined_row(backbone, q, t, 200, bridged=True) for q, t in encoded], padding=padding)


def our_states(backbone: Backbone, batch: Batch, layout: str) -> Tensor:
    with torch.no_grad():
        return EmbeddingModel(backbone).states(batch, LAYOUTS[layout].allowed(batch.roles))


def stock_states(backbone: Backbone, batch: Batch) -> Tensor:
    """The stock model left alone: a 2D padding mask, its own rotary positions, its own causal order."""
    pixels = None if batch.pixel_values is None else backbone.grid.normalised(batch.pixel_values)
    with torch.no_grad():
        return backbone.stock.model(
            input_ids=batch.input_ids,
            attention_mask=(batch.roles != Role.PAD).long(),
            pixel_values=pixels,
            image_grid_thw=batch.image_grid_thw,
            mm_token_type_ids=(batch.kinds == Kind.IMAGE).int(),
            use_cache=False,
        ).last_hidden_state


def assert_close(one: Tensor, other: Tensor, tolerance: float) -> None:
    scale = max(1.0, float(other.abs().max()))
    assert float((one - other).abs().max()) <= tolerance * scale


@every_family
@pytest.mark.parametrize("content", ["text", "image", "mixed"])
@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_causal_layout_is_the_stock_models_own_attention(
    tiny: Tiny, sample: MakeSample, family: str, attention: str, padding: str, content: str
) -> None:
    backbone = tiny(attention, family=family)
    chosen = pairs(sample, content)
    groups = [[pair] for pair in chosen] if padding == "none" else [chosen]
    for group in groups:
        batch = rows(backbone, group, "right" if padding == "none" else padding)
        assert (padding != "none") == bool((batch.roles == Role.PAD).any())
        real = batch.roles != Role.PAD
        # Stock counts a left-padded row of text alone from the padding on; rotary angles then differ in rounding.
        tolerance = 2e-6 if padding == "left" and content == "text" else 1e-6
        assert_close(our_states(backbone, batch, "causal")[real], stock_states(backbone, batch)[real], tolerance)


@every_family
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_future_is_seen_by_the_bidirectional_layout_only(
    tiny: Tiny, sample: MakeSample, family: str, attention: str
) -> None:
    backbone = tiny(attention, family=family)
    batch = rows(backbone, pairs(sample, "image")[:1])
    ids = batch.input_ids.clone()
    ids[0, -1] = (ids[0, -1] + 1) % 400
    changed = batch.replace(input_ids=ids)
    for layout, seen in (("causal", False), ("bidirectional", True)):
        before, after = our_states(backbone, batch, layout), our_states(backbone, changed, layout)
        assert bool((before[0, 0] != after[0, 0]).any()) == seen
        assert torch.equal(before[0, :-1], after[0, :-1]) != seen
        assert not torch.equal(before[0, -1], after[0, -1])


@every_family
@pytest.mark.parametrize("padding", ["left", "right"])
def test_rotary_positions_are_the_stock_models_own_for_no_one_and_two_pictures(
    tiny: Tiny, sample: MakeSample, family: str, padding: str
) -> None:
    backbone = tiny(family=family)
    target = sample("a red apple on the grass")
    chosen = [
        (sample("no picture here"), target),
        (sample("before <|image_1|> after", (100, 57)), target),
        (sample("<|image_2|> then words <|image_1|> and more", (56, 90), (84, 84)), target),
        (sample("", (56, 56), (56, 112)), target),
    ]
    batch = rows(backbone, chosen, padding)
    stock, _ = backbone.stock.model.get_rope_index(
        batch.input_ids,
        mm_token_type_ids=(batch.kinds == Kind.IMAGE).int(),
        image_grid_thw=batch.image_grid_thw,
        attention_mask=(batch.roles != Role.PAD).long(),
    )
    real = batch.roles != Role.PAD
    assert len({tuple(grid) for grid in batch.image_grid_thw.tolist()}) >= 4
    assert torch.equal(batch.position_ids[:, real], stock[:, real])


@every_family
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sdpa_and_eager_agree(tiny: Tiny, sample: MakeSample, family: str, layout: str, padding: str) -> None:
    states = []
    for attention in ATTENTIONS:
        backbone = tiny(attention, family=family)
        batch = rows(backbone, pairs(sample, "mixed"), padding)
        assert backbone.attention_mask(LAYOUTS[layout].allowed(batch.roles)).dtype == (
            torch.bool if attention == "sdpa" else torch.float32
        )
        states.append(our_states(backbone, batch, layout)[batch.roles != Role.PAD])
    assert_close(*states, 1e-5)


@every_family
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_padding_on_either_side_changes_nothing(
    tiny: Tiny, sample: MakeSample, family: str, attention: str, layout: str
) -> None:
    backbone = tiny(attention, family=family)
    chosen = pairs(sample, "mixed")
    sides = [rows(backbone, chosen, padding) for padding in ("left", "right")]
    states = [our_states(backbone, batch, layout) for batch in sides]
    for number, pair in enumerate(chosen):
        alone = our_states(backbone, rows(backbone, [pair]), layout)[0]
        for batch, padded in zip(sides, states, strict=True):
            assert_close(padded[number, batch.roles[number] != Role.PAD], alone, 1e-5)


@every_family
def test_layouts_differ_in_the_states_that_they_give(tiny: Tiny, sample: MakeSample, family: str) -> None:
    backbone = tiny(family=family)
    batch = rows(backbone, pairs(sample, "mixed"))
    states = {layout: our_states(backbone, batch, layout) for layout in LAYOUTS}
    # The control cuts nothing, so the row is read as without a bridge; all others differ.
    assert torch.equal(states.pop("eos_open"), states["bidirectional"])
    for one, other in combinations(states.values(), 2):
        assert float((one - other).abs().max()) > 1e-2
