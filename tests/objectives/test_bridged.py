"""The light decoder: what it rebuilds comes from e's vector and what is left of the target, and from nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cocoa.backbones import Backbone, Kind
from cocoa.backbones.families import FAMILIES
from cocoa.batch import Batch, apart_row, collate, row_length, single_row
from cocoa.layouts import Role
from cocoa.model import EmbeddingModel
from cocoa.objectives import (
    BridgedPatch,
    BridgedPatchOptions,
    BridgedText,
    BridgedTextOptions,
    Draws,
    View,
)
from cocoa.objectives.masked_text import HiddenText
from cocoa.sample import Sample
from cocoa.training.reconstruct import look

Tiny = Callable[..., Backbone]
MakeSample = Callable[..., Sample]
DRAWS = Draws(0, tuple(range(100)))
every_family = pytest.mark.parametrize("family", FAMILIES)


def pairs(sample: MakeSample) -> list[tuple[Sample, Sample]]:
    return [
        (sample("How many birds are there?", (60, 80)), sample("two cats and a dog sleep on the green grass")),
        (sample("a dog"), sample("two")),
        (sample("<|image_2|> left of <|image_1|> ?", (90, 57), (56, 56)), sample("a red apple stands", (56, 84))),
        (sample("a blue bird"), sample("", (84, 56))),
    ]


def make_batch(backbone: Backbone, chosen: list[tuple[Sample, Sample]], lines: list[list[int]] | None = None) -> Batch:
    encoded = [(backbone.encode(query), backbone.encode(target)) for query, target in chosen]
    return collate(backbone, [apart_row(backbone, query, target, 200) for query, target in encoded], lines)


def seen(backbone: Backbone, batch: Batch) -> View:
    return look(EmbeddingModel(backbone, max_tokens=200), "bidirectional", batch)


def text(backbone: Backbone, rate: float = 0.6, layers: int = 1) -> BridgedText:
    torch.manual_seed(0)
    return BridgedTextOptions(rate=rate, layers=layers).build(backbone)


def patch(backbone: Backbone, rate: float = 0.6, layers: int = 1) -> BridgedPatch:
    torch.manual_seed(0)
    objective = BridgedPatchOptions(rate=rate, layers=layers).build(backbone)
    with torch.no_grad():  # as small as they start, they would show nothing
        objective.from_pixels.weight.mul_(10)
        objective.to_pixels.weight.mul_(10)
    return objective


def test_the_model_reads_the_query_and_e_and_never_the_target(tiny: Tiny, sample: MakeSample) -> None:
    backbone = tiny()
    batch = make_batch(backbone, pairs(sample))
    assert not (batch.roles == Role.TARGET).any()
    with torch.no_grad():
        view = seen(backbone, batch)
    for number, (query, _) in enumerate(pairs(sample)):
        alone = single_row(backbone, backbone.encode(query), 200)
        length = row_length(alone)
        assert int((batch.samples == number).sum()) == length
        with torch.no_grad():
            expected = seen(backbone, collate(backbone, [alone])).states[0]
        assert float((view.states[number, :length] - expected).abs().max()) <= 1e-5
    vectors = EmbeddingModel(backbone, max_tokens=200).encode([query for query, _ in pairs(sample)])
    found = torch.nn.functional.normalize(view.vectors, dim=-1).numpy()
    assert abs(vectors - found).max() <= 1e-5, "the vector that is read is the embedding"


@every_family
@pytest.mark.parametrize("layers", [1, 2])
def test_the_loss_of_words_is_that_of_the_slow_way(tiny: Tiny, sample: MakeSample, family: str, layers: int) -> None:
    """One target after the other: e's vector, then its words with masks among them, through the layers by hand."""
    backbone = tiny(family=family)
    chosen = pairs(sample)
    batch = make_batch(backbone, chosen)
    objective = text(backbone, layers=layers)
    masked, hidden = objective.hide(batch, DRAWS)
    with torch.no_grad():
        loss = objective.loss(seen(backbone, masked), hidden)
        total, count = 0.0, 0
        for number, (query, target) in enumerate(chosen):
            model = EmbeddingModel(backbone, max_tokens=200)
            row = collate(backbone, [model.row(backbone.encode(query))])
            vector = seen(backbone, row).states[0, -1]
            words = backbone.encode(target)
            ids = torch.from_numpy(words.ids)
            places = hidden.places[number, 1 : 1 + len(ids)]
            given = torch.where(places, backbone.text.control.mask, ids)
            states = torch.cat([vector[None], backbone.stock.get_input_embeddings()(given)])[None]
            kinds = torch.cat([torch.tensor([Kind.CONTROL]), torch.from_numpy(words.kinds)]).numpy()
            positions = torch.from_numpy(backbone.positions(kinds, words.grids))[:, None]
            everything = torch.ones(1, 1, len(ids) + 1, len(ids) + 1, dtype=torch.bool)
            for layer in objective.decoder.layers:
                states = backbone.decode_once(layer, states, everything, positions)
            scores = backbone.stock.lm_head(objective.decoder.norm(states))[0].float().log_softmax(-1)
            for place in places.nonzero().flatten().tolist():
                total -= float(scores[place, ids[place]])  # place + 1 in the row, from the state at place
                count += 1
    assert loss.count == count > 5
    assert float(loss.sum) / count == pytest.approx(total / count, abs=1e-4)


def test_the_loss_of_pixels_is_that_of_the_slow_way(tiny: Tiny, sample: MakeSample) -> None:
    backbone = tiny()
    chosen = pairs(sample)
    batch = make_batch(backbone, chosen)
    objective = patch(backbone)
    masked, hidden = objective.hide(batch, DRAWS)
    per_token = backbone.grid.patches_per_token
    with torch.no_grad():
        loss = objective.loss(seen(backbone, masked), hidden)
        total, count = 0.0, 0
        for number, (query, target) in enumerate(chosen):
            row = collate(backbone, [EmbeddingModel(backbone, max_tokens=200).row(backbone.encode(query))])
            states = [seen(backbone, row).states[0, -1]]
            there = backbone.encode(target)
            parts = [backbone.grid.normalised(torch.from_numpy(part)) for part in there.patches]
            pixels = [part.reshape(-1, per_token * part.shape[1]) for part in parts]
            tokens = iter(torch.cat(pixels)) if pixels else iter(())
            truth = []
            for place, (word, kind) in enumerate(zip(there.ids, there.kinds, strict=True)):
                table = backbone.stock.get_input_embeddings().weight
                if kind != Kind.IMAGE:
                    states.append(table[word])
                    continue
                token = next(tokens)
                if hidden.places[number, place + 1]:
                    states.append(table[backbone.text.control.mask])
                    truth.append((place + 1, token))
                else:
                    states.append(objective.from_pixels(token))
            kinds = torch.cat([torch.tensor([Kind.CONTROL]), torch.from_numpy(there.kinds)]).numpy()
            positions = torch.from_numpy(backbone.positions(kinds, there.grids))[:, None]
            everything = torch.ones(1, 1, len(states), len(states), dtype=torch.bool)
            decoded = backbone.decode_once(
                objective.decoder.layers[0], torch.stack(states)[None], everything, positions
            )
            painted = objective.to_pixels(objective.decoder.norm(decoded))[0]
            for place, token in truth:
                total += float((painted[place] - token).square().mean())
                count += 1
    assert loss.count == count == len(hidden.pixels) > 3
    assert float(loss.sum) / count == pytest.approx(total / count, rel=1e-4)


@every_family
@pytest.mark.parametrize("make", [text, patch])
def test_with_the_vector_cut_off_no_gradient_reaches_the_query(
    tiny: Tiny, sample: MakeSample, family: str, make: Callable[..., BridgedText | BridgedPatch]
) -> None:
    backbone = tiny(family=family)
    batch = make_batch(backbone, pairs(sample)[:3])
    objective = make(backbone)
    masked, hidden = objective.hide(batch, DRAWS)
    for cut in (True, False):
        pixels = backbone.grid.normalised(masked.pixel_values).requires_grad_()
        view = seen(backbone, masked.replace(pixel_values=pixels))
        vectors = view.vectors.detach() if cut else view.vectors
        loss = objective.loss(View(view.backbone, view.batch, view.allowed, view.states, vectors), hidden).sum
        [gradient] = torch.autograd.grad(loss, pixels, allow_unused=True)
        if cut:
            assert gradient is None or torch.count_nonzero(gradient) == 0
        else:
            assert gradient.abs().sum() > 0
            # All three targets have words, and one of them a picture.
            assert make is patch or (gradient.abs().amax(1) > 0).all(), "each patch of each query matters"


@pytest.mark.parametrize("make", [text, patch])
def test_a_target_reads_its_own_vector_alone(
    tiny: Tiny, sample: MakeSample, make: Callable[..., BridgedText | BridgedPatch]
) -> None:
    backbone = tiny()
    batch = make_batch(backbone, pairs(sample))
    objective = make(backbone)
    masked, hidden = objective.hide(batch, DRAWS)
    view = seen(backbone, masked)
    for number in range(4):
        only = hidden.places & (torch.arange(4) == number)[:, None]
        if not only.any():
            continue
        vectors = view.vectors.detach().clone().requires_grad_()
        own = View(view.backbone, view.batch, view.allowed, view.states, vectors)
        if make is text:
            loss = objective.loss(own, HiddenText.of(only, batch.apart.input_ids)).sum
        else:
            loss = objective.paint(own, hidden)[only[hidden.places]].square().sum()
        [gradient] = torch.autograd.grad(loss, vectors)
        used = gradient.abs().sum(1) > 0
        assert used.tolist() == [place == number for place in range(4)]


@pytest.mark.parametrize("make", [text, patch])
def test_what_is_hidden_does_not_leak(
    tiny: Tiny, sample: MakeSample, make: Callable[..., BridgedText | BridgedPatch]
) -> None:
    """Other words and pixels in the hidden places: what the decoder is given is the same to the last bit."""
    backbone = tiny()
    batch = make_batch(backbone, pairs(sample))
    objective = make(backbone)
    masked, hidden = objective.hide(batch, DRAWS)
    apart = batch.apart
    if make is text:
        other = apart.replace(input_ids=torch.where(hidden.places, (apart.input_ids + 31) % 400 + 8, apart.input_ids))
    else:
        chosen = hidden.places[apart.kinds == Kind.IMAGE].repeat_interleave(backbone.grid.patches_per_token)
        other = apart.replace(pixel_values=torch.where(chosen[:, None], apart.pixel_values + 1, apart.pixel_values))
    again, _ = objective.hide(batch.replace(apart=other), DRAWS)
    assert not torch.equal(apart.input_ids, other.input_ids) or not torch.equal(apart.pixel_values, other.pixel_values)
    assert torch.equal(masked.apart.input_ids, again.apart.input_ids)
    assert torch.equal(masked.apart.pixel_values, again.apart.pixel_values)


@pytest.mark.parametrize("rate", [0.01, 0.5, 1.0])
def test_each_target_hides_its_share_of_words_and_its_first_word_too(
    tiny: Tiny, sample: MakeSample, rate: float
) -> None:
    backbone = tiny()
    batch = make_batch(backbone, pairs(sample))
    masked, hidden = text(backbone, rate).hide(batch, DRAWS)
    for places, kinds, roles in zip(hidden.places, batch.apart.kinds, batch.apart.roles, strict=True):
        eligible = int(((kinds == Kind.TEXT) & (roles == Role.TARGET)).sum())
        assert int(places.sum()) == (max(1, round(rate * eligible)) if eligible else 0)
        assert not (places & (roles != Role.TARGET)).any()
    assert hidden.count == len(hidden.words)
    assert torch.equal(masked.input_ids, batch.input_ids), "the query is whole"
    assert (masked.apart.input_ids[hidden.places] == backbone.text.control.mask).all()
    assert hidden.places[:, 1].any() or rate < 1


def test_lines_that_samples_share_change_no_vector_and_no_loss(tiny: Tiny, sample: MakeSample) -> None:
    backbone = tiny()
    plain, packed = (make_batch(backbone, pairs(sample), lines) for lines in (None, [[2], [0, 1, 3]]))
    objective = text(backbone)
    losses: list[Tensor] = []
    for batch in (plain, packed):
        masked, hidden = objective.hide(batch, DRAWS)
        with torch.no_grad():
            losses.append(objective.loss(seen(backbone, masked), hidden).sum)
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-5)


def test_targets_without_a_word_or_a_picture_count_nothing(tiny: Tiny, sample: MakeSample) -> None:
    backbone = tiny()
    wordless = make_batch(backbone, pairs(sample)[3:])
    blind = make_batch(backbone, pairs(sample)[:2])
    for objective, batch in ((text(backbone), wordless), (patch(backbone), blind)):
        masked, hidden = objective.hide(batch, DRAWS)
        loss = objective.loss(seen(backbone, masked), hidden)
        assert (float(loss.sum.detach()), loss.count, hidden.count) == (0.0, 0, 0)
        loss.sum.backward()


@pytest.mark.parametrize(("num", "places"), [(1, [1]), (2, [0, 1]), (3, [1, 0, 1])])
def test_the_decoder_begins_as_copies_of_the_last_layers(tiny: Tiny, num: int, places: list[int]) -> None:
    backbone = tiny()
    layers = text(backbone, layers=num).decoder.layers
    for layer, place in zip(layers, places, strict=True):
        for own, copied in zip(layer.parameters(), backbone.layers[place].parameters(), strict=True):
            assert torch.equal(own, copied)
            assert own is not copied
