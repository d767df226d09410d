"""Evaluation embeds each distinct sample once, and scores as if every question had been asked alone."""

from __future__ import annotations

import numpy as np
import pytest

from cocoa.data.mmeb_eval import read_tasks
from cocoa.data.scene_tasks import write_scene_tasks
from cocoa.errors import ModelError
from cocoa.evaluation.runner import evaluate
from cocoa.model import EmbeddingModel


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks") / "scenes"
    write_scene_tasks(folder, seed=0, num_train=12, num_test=12)
    return read_tasks(folder, ["scene_t2i_seen", "scene_grounding_seen", "scene_vqa_unseen"])


@pytest.fixture
def model(tiny):
    return EmbeddingModel(tiny(), max_tokens=256)


def test_the_scores_are_those_of_a_plain_loop_over_questions(model, tasks):
    result = evaluate(model, tasks, name="tiny")
    for task, score in zip(tasks, result.scores, strict=True):
        right = 0
        for question in task.questions:
            query = model.encode([question.query])[0]
            candidates = np.concatenate([model.encode([sample]) for sample in question.candidates])
            cosines = candidates.astype(np.float64) @ query.astype(np.float64)
            right += bool((cosines[0] > cosines[1:]).all())
        assert score.hit_at_1 == pytest.approx(right / len(task.questions))
        assert score.queries == len(task.questions)


def test_no_sample_of_a_task_is_embedded_twice(model, tasks, monkeypatch):
    seen = []
    real = EmbeddingModel.encode

    def counted(self, samples, **options):
        keys = [sample.key for sample in samples]
        assert len(set(keys)) == len(keys)
        seen.append(len(keys))
        return real(self, samples, **options)

    monkeypatch.setattr(EmbeddingModel, "encode", counted)
    evaluate(model, tasks, name="tiny")
    asked = [sum(1 + len(question.candidates) for question in task.questions) for task in tasks]
    assert len(seen) == len(tasks)
    assert all(few < many for few, many in zip(seen, asked, strict=True))


def test_a_model_that_answers_all_the_same_scores_nothing(model, tasks, monkeypatch):
    monkeypatch.setattr(EmbeddingModel, "encode", lambda self, samples, **_: np.ones((len(samples), 4), np.float32))
    result = evaluate(model, tasks, name="constant")
    assert all(score.hit_at_1 == 0 for score in result.scores)
    assert all(score.official_hit_at_1 == 1 for score in result.scores)


def test_a_model_that_gives_nan_is_refused(model, tasks, monkeypatch):
    monkeypatch.setattr(
        EmbeddingModel, "encode", lambda self, samples, **_: np.full((len(samples), 4), np.nan, np.float32)
    )
    with pytest.raises(ModelError, match="not finite"):
        evaluate(model, tasks, name="nan")


def test_a_part_of_the_tasks_has_no_mean_over_all(model, tasks):
    assert evaluate(model, tasks, name="tiny", complete=False).to_dict()["summary"] == {}
