"""Masked patches: what is painted over, what must be painted back, and how that is scored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from cocoa.backbones import Backbone, Kind
from cocoa.batch import Batch, collate, joined_row
from cocoa.images import open_rgb
from cocoa.layouts import LAYOUTS
from cocoa.model import EmbeddingModel
from cocoa.objectives import Draws, MaskedPatchOptions, View
from cocoa.sample import Sample

Tiny = Callable[..., Backbone]
MakeSample = Callable[..., Sample]
FILLS = ("noise", "shared_noise", "zero", "mean")


@pytest.fixture
def chosen(sample: MakeSample) -> list[tuple[Sample, Sample]]:
    return [
        (sample("How many birds are there?", (84, 84)), sample("two cats")),
        (sample("a dog"), sample("two dogs and a cat")),
        (sample("<|image_2|> left of <|image_1|> ?", (90, 57), (56, 56)), sample("a red apple")),
    ]


def make_batch(backbone: Backbone, chosen: list[tuple[Sample, Sample]]) -> Batch:
    encoded = [(backbone.encode(query), backbone.encode(target)) for query, target in chosen]
    return collate(backbone, [joined_row(backbone, q, t, 200, bridged=False) for q, t in encoded])


def draws(seed: int = 0) -> Draws:
    return Draws(seed, tuple(range(100)))


def view(backbone: Backbone, batch: Batch) -> View:
    allowed = LAYOUTS["bidirectional"].allowed(batch.roles)
    return View(backbone, batch, allowed, EmbeddingModel(backbone).states(batch, allowed))


def pixels_of_tokens(
    backbone: Backbone, chosen: list[tuple[Sample, Sample]], batch: Batch
) -> dict[tuple[int, int], Tensor]:
    """Returns, for (row, place) of each visual token, the four pixel rows that the processor gives for it."""
    found = {}
    order = [[0], [], [1, 0]]  # pictures of each row in reading order
    for row, numbers in enumerate(order):
        patches = [backbone.grid.cut(open_rgb(chosen[row][0].images[number]))[0] for number in numbers]
        rows = np.concatenate(patches) if patches else np.zeros((0, 588), np.uint8)
        rows = backbone.grid.normalised(torch.from_numpy(rows))
        places = (batch.kinds[row] == Kind.IMAGE).nonzero()[:, 0].tolist()
        assert len(rows) == 4 * len(places)
        for number, place in enumerate(places):
            found[row, place] = rows[4 * number : 4 * number + 4].reshape(-1)
    return found


def test_the_target_is_what_the_processor_gave_for_the_hidden_tokens(
    tiny: Tiny, chosen: list[tuple[Sample, Sample]]
) -> None:
    backbone = tiny()
    batch = make_batch(backbone, chosen)
    _, hidden = MaskedPatchOptions().build(backbone).hide(batch, draws())
    expected = pixels_of_tokens(backbone, chosen, batch)
    places = [tuple(place) for place in hidden.places.nonzero().tolist()]
    assert len(places) == len(hidden.pixels) > 5
    for pixels, place in zip(hidden.pixels, places, strict=True):
        assert torch.equal(pixels, expected[place])


@pytest.mark.parametrize("fill", FILLS)
def test_hidden_patches_are_painted_over_and_visible_ones_are_not(
    tiny: Tiny, chosen: list[tuple[Sample, Sample]], fill: str
) -> None:
    backbone = tiny()
    batch = make_batch(backbone, chosen)
    given = batch.pixel_values.clone()
    before = backbone.grid.normalised(given)
    filled, hidden = MaskedPatchOptions(fill=fill).build(backbone).hide(batch, draws())
    rows = hidden.places[batch.kinds == Kind.IMAGE].repeat_interleave(4)
    assert 0 < int(rows.sum()) < len(rows)
    assert torch.equal(filled.pixel_values[~rows], before[~rows])
    painted = filled.pixel_values[rows]
    assert (painted != before[rows]).any(1).all()
    assert torch.equal(batch.pixel_values, given), "the batch that was given is unchanged"
    assert torch.equal(filled.input_ids, batch.input_ids)
    owners = batch.samples[batch.kinds == Kind.IMAGE].repeat_interleave(4)
    if fill == "noise":
        assert len(painted.unique(dim=0)) == len(painted)
    elif fill != "mean":
        assert len(painted.unique(dim=0)) == 1
    if fill == "zero":
        assert not painted.any()
    elif fill == "mean":
        for row, owner in zip(painted, owners[rows], strict=True):
            assert torch.allclose(row, before[owners == owner].mean(0), atol=1e-6)
    else:
        assert abs(float(painted.mean())) < 0.2
        assert float(painted.std()) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("normalise_target", [False, True])
def test_the_loss_is_the_squared_error_a_value_of_each_hidden_token(
    tiny: Tiny, chosen: list[tuple[Sample, Sample]], normalise_target: bool
) -> None:
    backbone = tiny()
    batch = make_batch(backbone, chosen)
    objective = MaskedPatchOptions(normalise_target=normalise_target).build(backbone)
    filled, hidden = objective.hide(batch, draws())
    with torch.no_grad():
        seen = view(backbone, filled)
        loss = objective.loss(seen, hidden)
        rotary = backbone.stock.model.language_model.rotary_emb(seen.states, batch.position_ids)
        painted = objective.to_pixels(
            objective.layer(seen.states, attention_mask=seen.allowed, position_embeddings=rotary)
        )
    expected = 0.0
    for (row, place), pixels in pixels_of_tokens(backbone, chosen, batch).items():
        if hidden.places[row, place]:
            wanted = pixels.reshape(4, -1).double()
            if normalise_target:
                wanted = torch.stack([(one - one.mean()) / (one.var() + 1e-6).sqrt() for one in wanted])
            expected += float((painted[row, place].double() - wanted.reshape(-1)).square().sum() / 4704)
    assert loss.count == int(hidden.places.sum())
    assert float(loss.sum) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.5, 1.0])
def test_each_row_hides_its_share_of_visual_tokens(
    tiny: Tiny, chosen: list[tuple[Sample, Sample]], rate: float
) -> None:
    backbone = tiny()
    batch = make_batch(backbone, chosen)
    _, hidden = MaskedPatchOptions(rate=rate).build(backbone).hide(batch, draws())
    tokens = (batch.kinds == Kind.IMAGE).sum(1).tolist()
    assert tokens[0] == 9
    assert tokens[1] == 0
    assert hidden.places.sum(1).tolist() == [max(1, round(rate * count)) if count else 0 for count in tokens]
    assert (batch.kinds[hidden.places] == Kind.IMAGE).all()


def test_a_batch_without_pictures_counts_nothing(tiny: Tiny, chosen: list[tuple[Sample, Sample]]) -> None:
    backbone = tiny()
    batch = make_batch(backbone, chosen[1:2])
    objective = MaskedPatchOptions().build(backbone)
    same, hidden = objective.hide(batch, draws())
    assert same.pixel_values is None
    loss = objective.loss(view(backbone, same), hidden)
    assert (float(loss.sum.detach()), loss.count) == (0.0, 0)
    loss.sum.backward()
    grads = [weight.grad for weight in backbone.parameters() if weight.grad is not None]
    assert grads
    assert not any(grad.any() for grad in grads)


def test_the_choice_depends_on_the_seed_alone(tiny: Tiny, chosen: list[tuple[Sample, Sample]]) -> None:
    backbone = tiny()
    batch = make_batch(backbone, chosen)
    objective = MaskedPatchOptions().build(backbone)
    (one, first), (two, second), (_, other) = (objective.hide(batch, draws(seed)) for seed in (3, 3, 4))
    assert torch.equal(one.pixel_values, two.pixel_values)
    assert torch.equal(first.places, second.places)
    assert not torch.equal(first.places, other.places)


def test_the_decoder_starts_as_a_copy_of_the_middle_layer(tiny: Tiny) -> None:
    backbone = tiny()
    objective = MaskedPatchOptions().build(backbone)
    middle = backbone.layers[1].state_dict()
    decoder = objective.layer.state_dict()
    assert decoder.keys() == middle.keys()
    for name, weight in middle.items():
        assert torch.equal(decoder[name], weight)
        assert decoder[name].data_ptr() != weight.data_ptr(), "a copy, not the layer itself"
    assert not torch.equal(decoder["self_attn.q_proj.weight"], backbone.layers[0].self_attn.q_proj.weight)


def test_gradient_reaches_the_decoder_and_the_vision_tower(tiny: Tiny, chosen: list[tuple[Sample, Sample]]) -> None:
    backbone = tiny()
    objective = MaskedPatchOptions().build(backbone)
    filled, hidden = objective.hide(make_batch(backbone, chosen), draws())
    objective.loss(view(backbone, filled), hidden).sum.backward()
    for module in (objective.layer, objective.to_pixels, backbone.stock.model.visual, backbone.layers):
        assert all(weight.grad is not None and weight.grad.abs().any() for weight in module.parameters())
