"""Models that learned nothing get no more than guessing gives, whatever MMEB's own rule would say."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cocoa.data.mmeb_eval import read_tasks
from cocoa.data.scene_tasks import write_scene_tasks
from cocoa.evaluation.runner import evaluate
from cocoa.evaluation.trivial import ConstantModel, GreyPictures, RandomModel, frequent_answers
from cocoa.model import EmbeddingModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks") / "scenes"
    write_scene_tasks(folder, seed=0, num_train=60, num_test=60)
    return folder


@pytest.fixture(scope="module")
def tasks(folder):
    return read_tasks(folder)


def scores(model, tasks):
    result = evaluate(model, tasks, name="trivial")
    return {task.name: score for task, score in zip(tasks, result.scores, strict=True)}


def test_a_constant_model_wins_by_the_official_rule_and_never_by_ours(tiny, tasks):
    found = scores(ConstantModel(tiny()), tasks)
    for task in tasks:
        score = found[task.name]
        assert (score.hit_at_1, score.official_hit_at_1) == (0, 1)
        # Every candidate shares the best score, so a draw among them is a guess.
        assert score.expected_hit_at_1 == pytest.approx(task.chance, abs=1e-4)


def test_a_random_model_is_near_chance_over_all_tasks(tiny, tasks):
    found = scores(RandomModel(tiny()), tasks)
    queries = sum(score.queries for score in found.values())
    hits = sum(score.hit_at_1 * score.queries for score in found.values())
    expected = sum(task.chance * len(task.questions) for task in tasks)
    # Five deviations of as many independent guesses.
    assert abs(hits - expected) < 5 * expected**0.5
    assert queries > 300


def test_a_model_that_sees_only_grey_cannot_tell_pictures_apart(tiny, tasks):
    model = EmbeddingModel(tiny(), max_tokens=256)
    found = scores(GreyPictures(model), tasks)
    for task in tasks:
        texts = {candidate.text for question in task.questions for candidate in question.candidates}
        if len(texts) == 1:  # all candidates are pictures under the same words, of one size
            assert found[task.name].hit_at_1 == 0, task.name
            assert found[task.name].ties > 0, task.name
    seen = scores(model, tasks)
    assert any(seen[name] != found[name] for name in found)


def test_frequent_answers_reach_what_the_set_says_of_a_blind_guesser(folder, tasks):
    found = frequent_answers(tasks, [folder])
    known = {task.name: task.blind for task in tasks if task.blind is not None}
    assert known and set(known) <= set(found)
    for name, blind in known.items():
        assert found[name].expected_hit_at_1 == pytest.approx(blind, abs=1e-4), name
        assert found[name].hit_at_1 <= found[name].expected_hit_at_1 <= found[name].official_hit_at_1


def test_an_answer_that_was_as_often_right_is_a_tie_and_an_unknown_question_is_a_guess(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    rows = [("which?", "red"), ("which?", "blue"), ("how many?", "two"), ("how many?", "two"), ("how many?", "one")]
    empty = [""] * len(rows)
    table = {"qry": [row[0] for row in rows], "qry_image_path": empty, "pos_text": [row[1] for row in rows]}
    pq.write_table(pa.table(table | {"pos_image_path": empty}), tmp_path / "train" / "colours.parquet")
    asked = {
        "qry_text": ["which?", "how many?", "where?"],
        "qry_img_path": [""] * 3,
        "tgt_text": [["red", "blue", "green"], ["two", "one"], ["here", "there", "far", "near"]],
        "tgt_img_path": [[""] * 3, [""] * 2, [""] * 4],
    }
    pq.write_table(pa.table(asked), tmp_path / "test" / "colours.parquet")
    (tmp_path / "manifest.json").write_text(json.dumps({"tasks": {"colours": {"meta_task": "vqa"}}}))
    score = frequent_answers(read_tasks(tmp_path), [tmp_path])["colours"]
    assert score.ranks == (2, 1, 4)
    assert score.expected_hit_at_1 == pytest.approx((1 / 2 + 1 + 1 / 4) / 3)
