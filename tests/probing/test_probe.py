"""Probes of a model: what a linear map reads, what e holds, and that random vectors hold nothing."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
import torch
from torch.nn import functional
from typer.testing import CliRunner

from cocoa.backbones import Encoded
from cocoa.batch import collate, joined_row
from cocoa.cli import app
from cocoa.data.mmeb_eval import read_tasks
from cocoa.data.scene_tasks import write_scene_tasks
from cocoa.errors import DataError
from cocoa.layouts import LAYOUTS, Role
from cocoa.model import EmbeddingModel
from cocoa.objectives import Draws, MaskedTextOptions
from cocoa.probing import probe
from cocoa.probing.attributes import predict, recall, ridge
from cocoa.probing.geometry import alignment, anisotropy, effective_rank, uniformity
from cocoa.probing.looks import SHARES
from cocoa.probing.probe import bridge_losses
from cocoa.sample import Question, Sample, Task

probing = importlib.import_module("cocoa.probing.probe")  # The package's name for it is the function's.
GEOMETRY = ("alignment", "uniformity", "anisotropy", "effective_rank")


@pytest.fixture
def tasks(sample):
    texts = ["a red apple", "two cats and a dog", "an owl on green grass", "a blue bird"]
    samples = [sample("", (56, 56), seed=number) for number in range(4)]
    return [
        Task(
            "pictures",
            "retrieval",
            tuple(Question(s, (Sample(t), Sample("no"))) for s, t in zip(samples, texts, strict=True)),
        )
    ]


def test_the_map_of_least_squares_is_that_of_gradient_descent():
    rng = np.random.default_rng(0)
    vectors, truth = rng.standard_normal((60, 6)), rng.integers(0, 2, (60, 3)).astype(float)
    found = ridge(vectors, truth, 0.1)
    weights = torch.zeros(7, 3, dtype=torch.float64, requires_grad=True)
    given = torch.cat([torch.from_numpy(vectors), torch.ones(60, 1, dtype=torch.float64)], 1)
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        error = (given @ weights - torch.from_numpy(truth)).square().sum()
        total = error + 0.1 * 60 * float(vectors.var(0).mean()) * weights[:-1].square().sum()
        total.backward()
        return total

    optimiser.step(loss)
    assert np.abs(found - weights.detach().numpy()).max() < 1e-5


def test_what_is_in_the_vectors_is_read_and_what_is_not_is_not():
    rng = np.random.default_rng(1)
    kinds = rng.integers(0, 4, 900)
    truth = np.eye(4)[kinds]
    held = truth @ rng.standard_normal((4, 10)) + 0.05 * rng.standard_normal((900, 10))
    empty = rng.standard_normal((900, 10))
    for vectors, low, high in ((held, 0.99, 1.0), (empty, 0.15, 0.35)):
        assert low <= recall(predict(vectors[600:], ridge(vectors[:600], truth[:600])), truth[600:]) <= high


def test_recall_by_hand():
    scores = np.array([[0.9, 0.5, 0.1], [0.1, 0.2, 0.3], [0.0, 0.0, 1.0]])
    truth = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    assert recall(scores, truth) == pytest.approx((0.5 + 1.0) / 2), "a row without a true answer is not asked"


def slow_losses(model: EmbeddingModel, pairs: list[tuple[Encoded, Encoded]]) -> list[float]:
    """Row after row: the loss of each hidden word from the state before it, with its own picture and with the next."""
    totals = []
    for shift in (0, 1):
        total, count = 0.0, 0
        for number in range(len(pairs)):
            query, target = pairs[(number + shift) % len(pairs)][0], pairs[number][1]
            row = joined_row(model.backbone, query, target, model.max_tokens, bridged=True)
            batch = collate(model.backbone, [row])
            masked, hidden = (
                MaskedTextOptions(rate=0.7, roles=("target",)).build(model.backbone).hide(batch, Draws(7, (number,)))
            )
            states = model.states(masked, LAYOUTS["eos_bridge"].allowed(masked.roles))[0]
            for place in hidden.places[0].nonzero().flatten().tolist():
                assert masked.roles[0, place] == Role.TARGET
                scores = model.backbone.logits(states[place - 1])
                total += float(functional.cross_entropy(scores[None], batch.input_ids[0, place : place + 1]))
                count += 1
        totals.append(total / count)
    return totals


@torch.no_grad()
def test_what_e_holds_is_the_loss_through_its_own_against_that_through_anothers(tiny, tasks):
    model = EmbeddingModel(tiny(), max_tokens=128)
    questions = tasks[0].questions
    encode = model.backbone.encode
    pairs = [(encode(question.query), encode(question.candidates[0])) for question in questions]
    assert bridge_losses(model, pairs) == pytest.approx(slow_losses(model, pairs), abs=1e-4)


def test_all_probes_of_a_model_are_plain_numbers(tiny, tasks, monkeypatch):
    from cocoa.probing import attributes

    monkeypatch.setattr(attributes.attribute_probes, "__kwdefaults__", {"num_train": 40, "num_test": 20})
    model = EmbeddingModel(tiny(), max_tokens=128)
    found = probe(model, tasks)
    shared = {
        "alignment",
        "uniformity",
        "anisotropy",
        "effective_rank",
        *(f"reads_{name}" for name in ("ground", "count", "places", "things")),
    }
    assert set(found.whole) == shared | {"bridge_true", "bridge_shuffled", "bridge_nats"}
    assert found.whole["bridge_nats"] == found.whole["bridge_shuffled"] - found.whole["bridge_true"]
    assert len(found.layers) == 2
    for layer in found.layers:
        assert set(layer) == shared | {"hit_at_1", *SHARES}
        assert all(0 <= value <= 1 for name, value in layer.items() if name not in GEOMETRY)
    assert all(found.layers[-1][name] == found.whole[name] for name in shared), "the last layer's are the embeddings"
    assert found.layers[0]["alignment"] != found.layers[1]["alignment"]
    numbers = [*found.whole.values(), *(value for layer in found.layers for value in layer.values())]
    assert all(isinstance(value, float) and np.isfinite(value) for value in numbers)
    assert found == probe(model, tasks), "and so each time"


def test_the_embeddings_own_measures_are_those_of_the_vectors_that_the_model_gives(tiny, tasks):
    model = EmbeddingModel(tiny(), max_tokens=128)
    found = probe(model, tasks, attributes=False)
    queries = model.encode([question.query for question in tasks[0].questions])
    targets = model.encode([question.candidates[0] for question in tasks[0].questions])
    both = np.concatenate([queries, targets])
    expected = (alignment(queries, targets), uniformity(both), anisotropy(both), effective_rank(both))
    assert tuple(found.whole[name] for name in GEOMETRY) == pytest.approx(expected, abs=1e-5)


def test_an_equal_input_counts_once_though_its_vectors_differ_in_the_last_bit(tiny, tasks, monkeypatch):
    alike = (*tasks[0].questions, *(Question(q.query, tasks[0].questions[0].candidates) for q in tasks[0].questions))
    model = EmbeddingModel(tiny(), max_tokens=128)
    expected = probe(model, tasks, attributes=False).whole
    vectors_by_layer = probing.vectors_by_layer

    def shaken(model, samples):
        found = vectors_by_layer(model, samples)
        return found * (1 + 1e-6 * np.arange(len(samples), dtype=np.float32)[None, :, None])

    monkeypatch.setattr(probing, "vectors_by_layer", shaken)
    found = probe(model, [Task("alike", "retrieval", alike)], attributes=False).whole
    for name in ("uniformity", "anisotropy", "effective_rank"):
        assert found[name] == pytest.approx(expected[name], abs=1e-3)


def test_a_picture_that_leaves_no_room_for_words_is_left_out_of_the_bridges_measure(tiny, tasks, sample):
    backbone = tiny()
    wide = Question(sample("", (112, 112), seed=9), (Sample("a red apple", ()), Sample("no")))
    model = EmbeddingModel(backbone, max_tokens=len(backbone.encode(wide.query)) + 1)
    model.encode([wide.query])
    fits = probe(model, tasks, attributes=False).whole
    mixed = Task("mixed", "retrieval", (*tasks[0].questions, wide))
    found = probe(model, [mixed], attributes=False).whole
    assert found["bridge_true"] == pytest.approx(fits["bridge_true"], abs=1e-5)
    few = Task("few", "retrieval", (tasks[0].questions[0], wide))
    assert "bridge_true" not in probe(model, [few], attributes=False).whole
    # Its own words are few enough, and another's are not.
    room = Question(wide.query, (Sample("a"), Sample("no")))
    model = EmbeddingModel(backbone, max_tokens=len(backbone.encode(wide.query)) + 5)
    mixed = Task("mixed", "retrieval", (room, *tasks[0].questions))
    assert "bridge_true" in probe(model, [mixed], attributes=False).whole


def test_one_question_is_too_few(tiny, tasks):
    alone = Task("one", "retrieval", tasks[0].questions[:1])
    with pytest.raises(DataError, match="two questions"):
        probe(EmbeddingModel(tiny(), max_tokens=128), [alone])


def test_the_command_measures_a_model_folder(tiny, tmp_path, monkeypatch):
    from cocoa.probing import attributes

    monkeypatch.setattr(attributes.attribute_probes, "__kwdefaults__", {"num_train": 40, "num_test": 20})
    model = EmbeddingModel(tiny(), max_tokens=128)
    model.save(tmp_path / "model")
    write_scene_tasks(tmp_path / "tasks", seed=0, num_train=12, num_test=12, num_things=32)
    arguments = ["probe", str(tmp_path / "model"), "--tasks", str(tmp_path / "tasks")]
    answer = CliRunner().invoke(app, [*arguments, "--json", str(tmp_path / "probes.json")])
    assert answer.exit_code == 0, answer.output
    found = json.loads((tmp_path / "probes.json").read_text())
    expected = probe(model, read_tasks(tmp_path / "tasks"))
    layers = found.pop("layers")
    assert found == pytest.approx(expected.whole, abs=1e-5)
    for layer, other in zip(layers, expected.layers, strict=True):
        assert layer == pytest.approx(other, abs=1e-5)
    assert "content to e if even" in answer.output
    assert f"effective rank  {found['effective_rank']:.3f}" in answer.output.replace("   ", "  ")
