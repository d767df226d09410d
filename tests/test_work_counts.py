"""What encoding, evaluating and a contrastive step cost, held by counts: a lost saving fails here on any machine."""

from __future__ import annotations

import pytest
from stages import ALONE, calm_backbone, make_recipe, ready

from cocoa.data.mmeb_eval import read_tasks
from cocoa.data.scene_tasks import write_scene_tasks
from cocoa.evaluation.runner import evaluate
from cocoa.images import image_key
from cocoa.model import EmbeddingModel, embedding_model
from cocoa.recipe import MachineOptions
from cocoa.sample import Pair, Sample
from cocoa.training.batches import encode_pairs
from cocoa.training.step import backward_step
from counting import counted
from making import SENTENCES

PASS = 512


@pytest.fixture(autouse=True)
def small_passes(monkeypatch):
    monkeypatch.setattr(embedding_model, "pass_tokens", lambda *_: PASS)


def mixed(sample, number):
    """So many samples of unlike lengths, a third each with text, picture and both."""
    made = []
    for seed in range(number):
        words = " ".join(SENTENCES[: 1 + seed % 4])[: 20 + seed]
        size = (56 + 28 * (seed % 3), 60 + seed)
        made.append([sample(words), sample("", size, seed=seed), sample(words, size, seed=seed)][seed % 3])
    return made


def patches_of(backbone, samples):
    return sum(len(patch) for one in samples for patch in backbone.encode(one, pixels=False).patches)


def test_encode_decodes_and_sees_each_picture_once_in_few_dense_passes(tiny, sample):
    model = EmbeddingModel(tiny()).eval()
    samples = mixed(sample, 48)
    with counted(model) as counts:
        model.encode(samples)
    pictures = sum(len(one.images) for one in samples)
    assert counts.decoded == pictures
    assert counts.patches == patches_of(model.backbone, samples)
    assert counts.pad_rate < 1 / 8
    assert counts.passes <= -(-counts.tokens // PASS) + 6
    assert counts.tower_passes <= counts.passes


def test_encode_holds_no_more_for_many_inputs_than_for_few(tiny, sample):
    model = EmbeddingModel(tiny()).eval()
    peaks = []
    for copies in (4, 16):
        samples = mixed(sample, 48) * copies
        with counted(model) as counts:
            model.encode(samples)
        peaks.append(counts.peak)
    vectors = 12 * 48 * 4 * model.backbone.hidden_size * 4
    assert peaks[1] < 1.2 * peaks[0] + vectors


def test_evaluation_embeds_what_is_distinct_only(tiny, tmp_path):
    write_scene_tasks(tmp_path / "scenes", seed=0, num_train=12, num_test=12)
    tasks = read_tasks(tmp_path / "scenes", ["scene_t2i_seen", "scene_vqa_unseen"])
    model = EmbeddingModel(tiny(), max_tokens=256).eval()
    with counted(model) as counts:
        receipt = evaluate(model, tasks, name="one").receipt
    samples = {
        one.key: one for task in tasks for question in task.questions for one in (question.query, *question.candidates)
    }
    assert receipt["samples_distinct"] == len(samples) < receipt["samples_asked"]
    assert counts.tokens == sum(
        len(model.backbone.encode(one, pixels=False)) + model.pooling.tokens for one in samples.values()
    )
    pictures = {image_key(image): image for one in samples.values() for image in one.images}
    assert counts.patches == patches_of(model.backbone, [Sample(images=(image,)) for image in pictures.values()])
    assert counts.decoded == sum(len(one.images) for one in samples.values())
    assert counts.pad_rate < 1 / 8


def contrastive(sample, chunk_tokens, extra):
    """Counts of a step of 24 pairs."""
    setup = ready(calm_backbone(), make_recipe("contrastive", extra))
    made = mixed(sample, 48)
    pairs = encode_pairs(setup.trainee.model.backbone, [Pair(*made[at : at + 2]) for at in range(0, 48, 2)])
    with counted(setup.trainee.model) as counts:
        tally = backward_step(setup.trainee, pairs, ALONE, MachineOptions(chunk_tokens=chunk_tokens), seed=0)
    return counts, tally, patches_of(setup.trainee.model.backbone, made)


def test_a_cached_contrastive_step_reads_each_row_twice_and_sees_each_picture_once(sample):
    counts, tally, patches = contrastive(sample, PASS, "freeze_vision: true")
    assert counts.tokens == 2 * tally.num_tokens
    assert counts.patches == patches
    assert counts.pad_rate < 1 / 8
    assert counts.passes <= 2 * (-(-tally.num_tokens // PASS) + 6)


def test_a_contrastive_step_that_fits_reads_each_row_once(sample):
    counts, tally, patches = contrastive(sample, 100_000, "")
    assert counts.tokens == tally.num_tokens
    assert counts.patches == patches


def test_caching_gradients_is_what_keeps_a_step_small(sample):
    small, large = (contrastive(sample, tokens, "freeze_vision: true")[0].peak for tokens in (PASS, 100_000))
    assert small < 0.6 * large
