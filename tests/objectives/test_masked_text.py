"""Masked text: what is hidden, and that each hidden word is scored from the state before it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cocoa.backbones import Backbone, Kind
from cocoa.batch import Batch, collate, joined_row
from cocoa.layouts import LAYOUTS, Role
from cocoa.model import EmbeddingModel
from cocoa.objectives import Draws, MaskedTextOptions, View
from cocoa.objectives.masked_text import HiddenText
from cocoa.sample import Sample

Tiny = Callable[..., Backbone]
MakeSample = Callable[..., Sample]


def make_batch(backbone: Backbone, sample: MakeSample, *, bridged: bool = True, padding: str = "right") -> Batch:
    chosen = [
        (sample("How many birds are there?", (60, 80)), sample("two cats and a dog sleep on the green grass")),
        (sample("a dog"), sample("two")),
        (sample("<|image_2|> left of <|image_1|> ?", (90, 57), (56, 56)), sample("a red apple")),
        (sample("", (56, 56)), sample("The picture shows an owl in the middle on an orange ground.")),
    ]
    encoded = [(backbone.encode(query), backbone.encode(target)) for query, target in chosen]
    rows = [joined_row(backbone, query, target, 200, bridged=bridged) for query, target in encoded]
    return collate(backbone, rows, padding=padding)


def draws(seed: int = 0) -> Draws:
    return Draws(seed, tuple(range(100)))


def view(backbone: Backbone, batch: Batch, layout: str = "eos_bridge") -> View:
    allowed = LAYOUTS[layout].allowed(batch.roles)
    return View(backbone, batch, allowed, EmbeddingModel(backbone).states(batch, allowed))


def slow_loss(backbone: Backbone, seen: View, places: Tensor, original: Batch) -> float:
    total = 0.0
    for row in range(places.shape[0]):
        for place in range(places.shape[1]):
            if places[row, place]:
                scores = backbone.stock.lm_head(seen.states[row, place - 1])
                total -= float(torch.log_softmax(scores, -1)[original.input_ids[row, place]])
    return total


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("layout", ["bidirectional", "eos_bridge"])
def test_the_loss_is_that_of_each_hidden_word_from_the_state_before_it(
    tiny: Tiny, sample: MakeSample, layout: str, padding: str
) -> None:
    backbone = tiny()
    batch = make_batch(backbone, sample, bridged=layout == "eos_bridge", padding=padding)
    objective = MaskedTextOptions(rate=0.5).build(backbone)
    masked, hidden = objective.hide(batch, draws())
    with torch.no_grad():
        seen = view(backbone, masked, layout)
        loss = objective.loss(seen, hidden)
        expected = slow_loss(backbone, seen, hidden.places, batch)
    assert loss.count == int(hidden.places.sum()) > 10
    assert float(loss.sum) / loss.count == pytest.approx(expected / loss.count, abs=1e-5)


def test_the_first_word_of_the_target_is_predicted_from_the_bridge(tiny: Tiny, sample: MakeSample) -> None:
    backbone = tiny()
    batch = make_batch(backbone, sample)
    objective = MaskedTextOptions(rate=1.0, roles=("target",)).build(backbone)
    masked, hidden = objective.hide(batch, draws())
    seen = view(backbone, masked)
    states = seen.states.detach().clone().requires_grad_()
    first = torch.zeros_like(hidden.places)
    rows = torch.arange(len(batch.bridge))
    columns = batch.bridge % batch.roles.shape[1]
    first[rows, columns + 1] = True
    assert hidden.places[first].all()
    objective.loss(View(backbone, masked, seen.allowed, states), HiddenText.of(first, batch.input_ids)).sum.backward()
    used = states.grad.abs().sum(-1) > 0
    expected = torch.zeros_like(used)
    expected[rows, columns] = True
    assert torch.equal(used, expected)


@pytest.mark.parametrize("rate", [0.2, 0.7, 1.0, 0.01])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_each_row_hides_its_share_of_words_and_nothing_else(
    tiny: Tiny, sample: MakeSample, rate: float, padding: str
) -> None:
    backbone = tiny()
    batch = make_batch(backbone, sample, padding=padding)
    masked, hidden = MaskedTextOptions(rate=rate).build(backbone).hide(batch, draws())
    control = torch.tensor(list(vars(backbone.text.control).values()))
    for row in range(len(batch.roles)):
        first = int((batch.roles[row] != Role.PAD).int().argmax())
        eligible = 0
        for place in range(batch.roles.shape[1]):
            may = bool(batch.kinds[row, place] == Kind.TEXT and batch.roles[row, place] != Role.PAD and place != first)
            eligible += may
            if not may:
                assert not hidden.places[row, place]
        assert int(hidden.places[row].sum()) == max(1, round(rate * eligible))
    assert not torch.isin(hidden.words, control).any()
    assert (masked.input_ids[hidden.places] == backbone.text.control.mask).all()
    assert torch.equal(masked.input_ids[~hidden.places], batch.input_ids[~hidden.places])
    assert not (batch.input_ids == backbone.text.control.mask).any(), "the batch that was given is unchanged"


def test_labels_read_as_the_hidden_words(tiny: Tiny, sample: MakeSample) -> None:
    backbone = tiny()
    batch = make_batch(backbone, sample)
    _, hidden = MaskedTextOptions(rate=1.0, roles=("target",)).build(backbone).hide(batch, draws())
    counts = hidden.places.sum(1).tolist()
    words = [backbone.text.words(ids.tolist()) for ids in hidden.words.split(counts)]
    assert words == [
        "two cats and a dog sleep on the green grass",
        "two",
        "a red apple",
        "The picture shows an owl in the middle on an orange ground.",
    ]


@pytest.mark.parametrize("role", ["context", "target"])
def test_words_are_hidden_in_the_given_roles_only(tiny: Tiny, sample: MakeSample, role: str) -> None:
    batch = make_batch(tiny(), sample)
    _, hidden = MaskedTextOptions(rate=1.0, roles=(role,)).build(tiny()).hide(batch, draws())
    assert set(batch.roles[hidden.places].tolist()) == {Role[role.upper()]}


def test_a_row_without_a_word_counts_nothing(tiny: Tiny, sample: MakeSample) -> None:
    backbone = tiny()
    pairs = [(sample("", (56, 56)), sample("", (84, 56))), (sample("", (56, 56)), sample("two cats", (56, 56)))]
    encoded = [(backbone.encode(query), backbone.encode(target)) for query, target in pairs]
    rows = [joined_row(backbone, query, target, 200, bridged=True) for query, target in encoded]
    objective = MaskedTextOptions(rate=0.7).build(backbone)

    batch = collate(backbone, rows)
    _, hidden = objective.hide(batch, draws())
    assert hidden.places.sum(1).tolist() == [0, 1]

    batch = collate(backbone, rows[:1])
    masked, hidden = objective.hide(batch, draws())
    loss = objective.loss(view(backbone, masked), hidden)
    assert (float(loss.sum.detach()), loss.count) == (0.0, 0)
    loss.sum.backward()
    assert all(weight.grad is None or not weight.grad.abs().any() for weight in backbone.parameters())


def test_the_choice_depends_on_the_seed_alone(tiny: Tiny, sample: MakeSample) -> None:
    batch = make_batch(tiny(), sample)
    objective = MaskedTextOptions(rate=0.5).build(tiny())
    choices = [objective.hide(batch, draws(seed))[1].places for seed in (3, 3, 4)]
    assert torch.equal(choices[0], choices[1])
    assert not torch.equal(choices[0], choices[2])


def test_every_word_is_hidden_about_as_often(tiny: Tiny, sample: MakeSample) -> None:
    batch = make_batch(tiny(), sample)
    objective = MaskedTextOptions(rate=0.5).build(tiny())
    counts = sum(objective.hide(batch, draws(seed))[1].places.int() for seed in range(400))
    for row, eligible in enumerate(objective.eligible(batch)):
        share = max(1, round(0.5 * int(eligible.sum()))) / int(eligible.sum())
        assert (counts[row][eligible] / 400 - share).abs().max() < 0.11, "more than four deviations off"
