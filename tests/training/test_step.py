"""One step: the numbers do not depend on chunks, padding, packing or caching."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stages import (
    ALONE,
    LARGE,
    SMALL,
    assert_equal_gradients,
    calm_backbone,
    encoded,
    gradients,
    make_pairs,
    make_recipe,
    ready,
)
from torch.nn import functional

from cocoa.batch import collate, single_row
from cocoa.errors import RecipeError
from cocoa.layouts import LAYOUTS
from cocoa.objectives import Contrastive, ContrastiveOptions
from cocoa.planning.ledger import LiveBytes
from cocoa.recipe import MachineOptions
from cocoa.sample import Sample
from cocoa.training.batches import EncodedPairs, content_key
from cocoa.training.reconstruct import hidden_chunks, look
from cocoa.training.setup import open_data

ALL = ["warm-up", "bridge", "contrastive", "captioner", "light", "joint", "joint-patches", "joint-bridge"]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "machine",
    [SMALL, MachineOptions(chunk_tokens=4096, pack_tokens=128), MachineOptions(chunk_tokens=128, pack_tokens=96)],
    ids=["small chunks", "packed", "packed in small chunks"],
)
def test_chunks_and_packing_change_no_loss_and_no_gradient(sample, name, machine) -> None:
    pairs = make_pairs(sample)
    plain, expected = gradients(ready(calm_backbone(), make_recipe(name)), pairs, LARGE)
    cut, found = gradients(ready(calm_backbone(), make_recipe(name)), pairs, machine)
    assert cut.losses == pytest.approx(plain.losses, rel=1e-6)
    assert_equal_gradients(expected, found, 1e-5)
    if machine.pack_tokens:
        assert cut.pad_rate < plain.pad_rate
    assert cut.num_tokens == plain.num_tokens


@pytest.mark.parametrize("name", ["warm-up", "bridge"])
def test_packed_states_are_padded_states(sample, name) -> None:
    setup = ready(calm_backbone(), make_recipe(name))
    model, stage = setup.trainee.model, setup.trainee.stage
    pairs = encoded(model.backbone, make_pairs(sample))
    objectives = list(setup.trainee.objectives)
    states: list[dict[int, torch.Tensor]] = []
    for machine in (LARGE, MachineOptions(chunk_tokens=4096, pack_tokens=160)):
        found = {}
        order = []
        with torch.no_grad():
            for chunk in hidden_chunks(model, stage, objectives, pairs, machine, 0):
                view = look(model, stage.layout, chunk.batch)
                for number in chunk.batch.samples.unique().tolist():
                    if number >= 0:
                        own = view.states[chunk.batch.samples == number]
                        found[tuple(chunk.batch.input_ids[chunk.batch.samples == number].tolist())] = own
                order.append(len(chunk.batch.roles))
        states.append(found)
    padded, packed = states
    assert padded.keys() == packed.keys()
    assert len(padded) == 6
    for words, expected in padded.items():
        assert (packed[words] - expected).abs().max() < 1e-5


def test_no_sample_of_a_line_looks_into_another(sample) -> None:
    """The leak test of packing: changing one sample leaves the states of its neighbours exactly as they are."""
    backbone = calm_backbone()
    for layout in ("bidirectional", "eos_bridge"):
        texts = ("a red apple", "two cats and a dog", "an owl")
        states = []
        for middle in ("two cats and a dog", "the green grass is"):
            rows = [single_row(backbone, backbone.encode(sample(text)), 64) for text in (texts[0], middle, texts[2])]
            batch = collate(backbone, rows, [[0, 1, 2]])
            allowed = LAYOUTS[layout].allowed(batch.roles, batch.samples)
            with torch.no_grad():
                found = backbone.hidden_states(batch.input_ids, batch.kinds, allowed, batch.position_ids)
            states.append((found, batch.samples))
        (one, owners), (other, _) = states
        assert one.shape == other.shape
        for number, changed in ((0, False), (1, True), (2, False)):
            difference = (one[owners == number] - other[owners == number]).abs().max()
            assert (difference > 0) == changed


@pytest.mark.parametrize("extra", ["", "adapter: {dropout: 0.3}", "freeze_vision: true"])
def test_cached_gradients_are_uncached_ones(sample, extra) -> None:
    """With dropout too: the second pass must draw what the first drew."""
    pairs = make_pairs(sample)
    recipe = make_recipe("contrastive", extra)
    setup = ready(calm_backbone(), recipe)
    with torch.no_grad():  # an adapter that is still zero would hide half of the gradients
        for weight in setup.trainee.trained.values():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    tally, cached = gradients(setup, pairs, SMALL)

    # The slow version: one graph over everything, plain InfoNCE written out. It must draw the same dropout, so it runs
    # the same chunks, in the same order.
    from cocoa.training import contrast

    trainee = setup.trainee
    trainee.zero_grad()
    torch.manual_seed(5)
    stepped = encoded(trainee.model.backbone, pairs)
    chunks = contrast.single_chunks(trainee, stepped, SMALL)
    assert len(chunks) > 2
    vectors = {
        place: vector
        for chunk in chunks
        for place, vector in zip(chunk.places.tolist(), trainee.model.embed(chunk.batch), strict=True)
    }
    queries = [vectors[place] for place in range(6)]
    candidates = [vectors[place] for place in range(6, len(vectors))]
    total = 0.0
    for number, query in enumerate(queries):
        scores = torch.stack([query @ candidate / 0.2 for candidate in candidates])
        keep = [
            place
            for place in range(len(candidates))
            if place == number or stepped.content[place] != stepped.content[number]
        ]
        total = total - torch.log_softmax(scores[keep], 0)[keep.index(number)]
    (total / 6).backward()
    expected = {name: weight.grad for name, weight in trainee.trained.items() if weight.grad is not None}
    assert tally.losses["contrastive"] == pytest.approx(total.item() / 6, abs=1e-6)
    assert_equal_gradients(expected, cached, 1e-6)


def gradient_at_vectors(num_queries: int, num_negatives: int = 0, **options: Any) -> tuple[torch.Tensor, float]:
    """The gradient at random vectors, of which some have equal content, and the loss."""
    from cocoa.training import contrast

    draws = torch.Generator().manual_seed(0)
    content = torch.randint(0, 30, (num_queries + num_negatives,), generator=draws)
    vectors = torch.randn(num_queries + len(content), 16, generator=draws)
    none: list[Any] = [None]
    pairs = EncodedPairs(
        none * num_queries, none * num_queries, none * num_negatives, content, list(range(num_queries))
    )
    objective = Contrastive(ContrastiveOptions(temperature=0.2, **options))
    gradient, loss, count = contrast._gradient_at_vectors(objective, vectors, pairs, ALONE)
    assert count == num_queries
    if num_queries:  # as all at once
        leaf = vectors.clone().requires_grad_()
        unit = functional.normalize(leaf, dim=-1)
        whole = objective.loss(unit[:num_queries], unit[num_queries:], content)
        [expected] = torch.autograd.grad(whole.sum / num_queries, leaf)
        assert float(loss) == pytest.approx(whole.sum.item(), rel=1e-6)
        assert (gradient - expected).abs().max() <= 1e-6 * expected.norm()
        if contrast.block_size(len(content)) >= num_queries:
            assert torch.equal(gradient, expected)
            assert torch.equal(loss, whole.sum)
    return gradient, float(loss)


@pytest.mark.parametrize("dimensions", [(), (8, 4)])
@pytest.mark.parametrize("num_negatives", [0, 7])
@pytest.mark.parametrize("most", [1, 600, 10_000])
def test_queries_compared_a_few_at_a_time_get_the_gradient_that_they_get_all_at_once(
    dimensions, num_negatives, most, monkeypatch
) -> None:
    monkeypatch.setattr("cocoa.training.contrast._MOST_SCORES", most)
    gradient_at_vectors(40, num_negatives, dimensions=dimensions)
    assert not gradient_at_vectors(0)[0].numel()


def test_what_the_contrastive_loss_holds_does_not_grow_as_the_square_of_the_batch(monkeypatch) -> None:
    from cocoa.training import contrast

    monkeypatch.setattr(contrast, "_MOST_SCORES", 2**14)
    objective, peaks = Contrastive(ContrastiveOptions()), []
    for size in (256, 1024):
        vectors, none = torch.randn(2 * size, 8), [None]
        pairs = EncodedPairs(none * size, none * size, [], torch.arange(size), list(range(size)))
        with LiveBytes() as memory:
            contrast._gradient_at_vectors(objective, vectors, pairs, ALONE)
        peaks.append(memory.peak)
    assert peaks[1] < 2 * peaks[0]


@pytest.mark.parametrize("machine", [LARGE, SMALL], ids=["whole", "cached"])
@pytest.mark.parametrize("name", ["joint", "joint-bridge"])
def test_a_loss_beside_the_contrastive_one_adds_its_gradient(sample, name, machine) -> None:
    """The slow version: each objective as a stage of its own, and the sum of both gradients by their weights."""
    pairs = make_pairs(sample)
    setup = ready(calm_backbone(), make_recipe(name))
    together, found = gradients(setup, pairs, machine)
    contrastive, rebuilt = setup.trainee.objectives
    expected: dict[str, torch.Tensor] = {}
    for number, (objective, other) in enumerate(((contrastive, rebuilt), (rebuilt, contrastive))):
        setup.trainee.objectives = torch.nn.ModuleList([objective])
        alone, part = gradients(setup, pairs, machine)
        assert alone.losses == {objective.name: pytest.approx(together.losses[objective.name], rel=1e-6)}
        for key, gradient in part.items():
            key = key.replace("objectives.0", f"objectives.{number}")
            expected[key] = expected.get(key, 0) + gradient
        assert other.name in together.losses
    assert_equal_gradients(expected, found, 1e-6)


def test_the_weight_of_a_loss_beside_the_contrastive_one_scales_it(sample) -> None:
    pairs = make_pairs(sample)
    setup = ready(calm_backbone(), make_recipe("joint"))
    rebuilt = setup.trainee.objectives[1]
    found = []
    for weight in (1e-9, 1.0, 2.0):
        rebuilt.weight = weight
        found.append(gradients(setup, pairs)[1]["model.backbone.stock.model.language_model.norm.weight"])
    none, one, two = found
    assert (one - none).abs().max() > 0
    assert float(((two - none) - 2 * (one - none)).abs().max()) <= 1e-5 * float((one - none).abs().max() + none.norm())


def test_dropout_would_be_seen_if_it_were_not_replayed(sample, monkeypatch) -> None:
    from cocoa.training.contrast import RandomState

    pairs = make_pairs(sample)
    recipe = make_recipe("contrastive", "adapter: {dropout: 0.3}")
    _, replayed = gradients(ready(calm_backbone(), recipe), pairs, SMALL)
    monkeypatch.setattr(RandomState, "restore", lambda self: None)
    _, other = gradients(ready(calm_backbone(), recipe), pairs, SMALL)
    with pytest.raises(AssertionError):
        assert_equal_gradients(replayed, other, 1e-6)


def test_a_batch_that_fits_is_passed_through_once_and_a_larger_one_twice(sample, monkeypatch) -> None:
    setup = ready(calm_backbone(), make_recipe("contrastive"))
    passes = []
    plain = setup.trainee.model.states
    monkeypatch.setattr(setup.trainee.model, "states", lambda *a, **k: passes.append(1) or plain(*a, **k))
    gradients(setup, make_pairs(sample), LARGE)
    once = len(passes)
    from cocoa.training import contrast

    pairs = encoded(setup.trainee.model.backbone, make_pairs(sample))
    assert once == len(contrast.single_chunks(setup.trainee, pairs, LARGE))
    passes.clear()
    gradients(setup, make_pairs(sample), SMALL)
    assert len(passes) == 2 * len(contrast.single_chunks(setup.trainee, pairs, SMALL))


@pytest.mark.parametrize(("extra", "expected"), [("freeze_vision: true", 1), ("", 2)])
def test_a_frozen_vision_tower_looks_at_each_picture_once(sample, monkeypatch, extra, expected) -> None:
    setup = ready(calm_backbone(), make_recipe("contrastive", extra))
    tower = setup.trainee.model.backbone.vision
    seen = []
    plain = tower.forward
    monkeypatch.setattr(tower, "forward", lambda pixels, **k: seen.append(len(pixels)) or plain(pixels, **k))
    pairs = make_pairs(sample)
    gradients(setup, pairs, SMALL)
    patches = sum(
        len(patch)
        for side in (
            encoded(setup.trainee.model.backbone, pairs).queries,
            encoded(setup.trainee.model.backbone, pairs).targets,
            encoded(setup.trainee.model.backbone, pairs).negatives,
        )
        for one in side
        for patch in one.patches
    )
    assert sum(seen) == expected * patches


def test_hard_negatives_of_one_query_stand_against_all(sample) -> None:
    setup = ready(calm_backbone(), make_recipe("contrastive"))
    pairs = make_pairs(sample)
    with_negatives, _ = gradients(setup, pairs)
    without, _ = gradients(setup, [type(pair)(pair.query, pair.target) for pair in pairs])
    assert with_negatives.losses["contrastive"] > without.losses["contrastive"]


def test_activation_checkpointing_changes_no_gradient(sample) -> None:
    pairs = make_pairs(sample)
    for name in ("warm-up", "contrastive"):
        _, expected = gradients(ready(calm_backbone(), make_recipe(name)), pairs)
        light = make_recipe(name, top="machine: {activation_checkpointing: true}")
        _, found = gradients(ready(calm_backbone(), light), pairs)
        assert_equal_gradients(expected, found, 1e-6)


def test_bfloat16_keeps_trained_weights_and_losses_in_float32(sample) -> None:
    pairs = make_pairs(sample)
    for name in ("warm-up", "bridge", "contrastive"):
        exact, _ = gradients(ready(calm_backbone(), make_recipe(name)), pairs)
        for extra in ("", "adapter: {dropout: 0.0}"):
            setup = ready(calm_backbone(), make_recipe(name, extra, top="precision: bfloat16"))
            tally, found = gradients(setup, pairs)
            assert {gradient.dtype for gradient in found.values()} == {torch.float32}
            frozen = {weight.dtype for weight in setup.trainee.parameters() if not weight.requires_grad}
            assert frozen == ({torch.bfloat16} if extra else set())
            for kind, loss in exact.losses.items():
                assert tally.losses[kind] == pytest.approx(loss, rel=0.1)
                assert tally.losses[kind] != loss


def test_matryoshka_trains_the_first_dimensions_too(sample) -> None:
    """The slow version: InfoNCE on each prefix, normalised again, averaged."""
    recipe = make_recipe("contrastive")
    options = recipe.stages[0].objectives[0]
    nested = options.model_copy(update={"dimensions": (8, 16)})
    torch.manual_seed(0)
    queries, candidates = (functional.normalize(torch.randn(size, 32), dim=1) for size in (4, 6))
    content = torch.arange(6)
    loss = nested.build(calm_backbone()).loss(queries, candidates, content)
    parts = []
    for size in (8, 16, 32):
        own, others = (functional.normalize(side[:, :size], dim=1) for side in (queries, candidates))
        parts.append(functional.cross_entropy(own @ others.T / 0.2, torch.arange(4), reduction="sum"))
    assert float(loss.sum) == pytest.approx(float(sum(parts)) / 3, rel=1e-6)
    assert loss.count == 4


def test_candidates_that_look_the_same_are_the_same_wherever_they_come_from(sample, tmp_path) -> None:
    backbone = calm_backbone()
    picture = sample("", (56, 56)).images[0]
    picture.save(tmp_path / "one.png")
    picture.save(tmp_path / "two.png")
    one, two, other = (
        content_key(backbone.encode(Sample("an owl", (image,))))
        for image in (tmp_path / "one.png", tmp_path / "two.png", sample("", (84, 56)).images[0])
    )
    assert one == two != other
    assert content_key(backbone.encode(Sample("an owl"))) not in (one, other)


def test_sub_batches_of_the_only_table_are_refused() -> None:
    recipe = make_recipe("contrastive", "sub_batch: 2")
    with pytest.raises(RecipeError, match="sub_batch has no effect"):
        open_data(recipe, recipe.stages[0])
