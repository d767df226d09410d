"""Next token: the stock model's own language modelling loss on the target and the closing e."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cocoa.backbones import Backbone, Kind
from cocoa.batch import Batch, closed_row, collate
from cocoa.layouts import LAYOUTS, Role
from cocoa.model import EmbeddingModel
from cocoa.objectives import Draws, NextTokenOptions, View
from cocoa.sample import Sample

Tiny = Callable[..., Backbone]
MakeSample = Callable[..., Sample]


def make_batch(backbone: Backbone, sample: MakeSample) -> Batch:
    chosen = [
        (sample("How many birds are there?", (60, 80)), sample("two cats and a dog")),
        (sample("", (56, 56)), sample("a red apple")),
        (sample("what is this <|image_1|>", (90, 57)), sample("grass")),
    ]
    encoded = [(backbone.encode(query), backbone.encode(target)) for query, target in chosen]
    return collate(backbone, [closed_row(backbone, query, target, 200) for query, target in encoded])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_loss_is_the_stock_models_own(tiny: Tiny, sample: MakeSample, attention: str) -> None:
    backbone = tiny(attention)
    batch = make_batch(backbone, sample)
    objective = NextTokenOptions().build(backbone)
    allowed = LAYOUTS["causal"].allowed(batch.roles)
    with torch.no_grad():
        same, hidden = objective.hide(batch, Draws(0, tuple(range(100))))
        states = EmbeddingModel(backbone).states(same, allowed)
        loss = objective.loss(View(backbone, same, allowed, states), hidden)
        wanted = (batch.roles == Role.TARGET) | (batch.roles == Role.BRIDGE)
        stock = backbone.stock(
            input_ids=batch.input_ids,
            attention_mask=(batch.roles != Role.PAD).long(),
            pixel_values=backbone.grid.normalised(batch.pixel_values),
            image_grid_thw=batch.image_grid_thw,
            mm_token_type_ids=(batch.kinds == Kind.IMAGE).int(),
            labels=batch.input_ids.masked_fill(~wanted, -100),
        )
    assert loss.count == int(wanted.sum())
    assert float(loss.sum) / loss.count == pytest.approx(float(stock.loss), rel=1e-6)


def test_the_target_and_the_closing_bridge_are_predicted_in_order(tiny: Tiny, sample: MakeSample) -> None:
    backbone = tiny()
    batch = make_batch(backbone, sample)
    same, hidden = NextTokenOptions().build(backbone).hide(batch, Draws(0, tuple(range(100))))
    assert same is batch, "nothing is hidden but by the causal order"
    words = backbone.text.words(hidden.words.tolist())
    assert words == "two cats and a dog<|im_end|>a red apple<|im_end|>grass<|im_end|>"


def test_a_picture_in_the_target_is_not_predicted(tiny: Tiny, sample: MakeSample) -> None:
    backbone = tiny()
    query, target = (backbone.encode(sample(*it)) for it in (("which one",), ("this <|image_1|> one", (84, 84))))
    batch = collate(backbone, [closed_row(backbone, query, target, 200)])
    _, hidden = NextTokenOptions().build(backbone).hide(batch, Draws(0, (0, 1)))
    assert backbone.text.words(hidden.words.tolist()) == "this  one<|im_end|>"


def test_e_ends_every_row(tiny: Tiny, sample: MakeSample) -> None:
    batch = make_batch(tiny(), sample)
    lengths = (batch.roles != Role.PAD).sum(1)
    assert torch.equal(batch.bridge % batch.roles.shape[1], lengths - 1)
