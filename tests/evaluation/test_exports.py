"""Exports hold the numbers of the evaluation in the forms that others read, and only for whole sets."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from cocoa.data.mmeb_v1 import TASKS
from cocoa.errors import UsageError
from cocoa.evaluation.exports import latex_row, leaderboard, markdown_row, write_exports
from cocoa.evaluation.runner import Evaluation
from cocoa.evaluation.scorer import score_task
from cocoa.model import EmbeddingModel
from cocoa.sample import Question, Sample, Task


@pytest.fixture(scope="module")
def evaluation():
    """All tasks of MMEB-V1 with random vectors, 40 queries among 12 candidates, one of which doubles the right one."""
    rng = np.random.default_rng(0)
    tasks, scores = [], []
    for name, entry in TASKS.items():
        candidates = rng.normal(size=(12, 8)).astype(np.float32)
        candidates[11] = candidates[0]
        queries = candidates[0] + 1.2 * rng.normal(size=(40, 8)).astype(np.float32)
        scores.append(score_task(queries, candidates, [np.arange(12)] * 39 + [np.arange(11)]))
        question = Question(Sample("q"), (Sample("a"), Sample("b")))
        tasks.append(Task(name, entry.meta_task, (question,) * 40, 0.5, None, entry.split))
    return Evaluation("runs/my_model & co", tuple(tasks), tuple(scores), True)


def test_the_leaderboard_gets_every_figure_by_its_own_rule(evaluation):
    content = leaderboard(evaluation, model_size=2.2, url="https://example.org")
    assert set(content) == {"metadata", "metrics"}
    assert content["metadata"]["model_name"] == "my_model & co"
    assert content["metadata"]["model_size"] == 2.2
    assert content["metadata"]["data_source"] == "Self-Reported"
    image = content["metrics"]["image"]
    assert list(image) == list(TASKS)
    for score, figures in zip(evaluation.scores, image.values(), strict=True):
        # Where the right candidate is listed twice, the leaderboard's rule says right and the strict one wrong.
        assert figures["hit@1"] == score.official_hit_at_1 > score.hit_at_1
        assert figures["hit@1"] <= figures["hit@5"] <= figures["hit@10"] <= 1
        assert figures["hit@1"] == figures["ndcg_linear@1"] == figures["mrr@1"] == figures["recall@1"]
        assert figures["precision@5"] == pytest.approx(figures["hit@5"] / 5)
        assert figures["num_pred"] == figures["num_data"] == 40


def test_the_leaderboards_figures_are_those_of_a_published_file(evaluation):
    """HatefulMemes of VLM2Vec-V1-Qwen2VL-2B (score file v2.0.1): two candidates, 579 of 1,000 right."""
    ranks = (1,) * 579 + (2,) * 421
    scores = tuple(replace(score, ranks=ranks, official_ranks=ranks) for score in evaluation.scores)
    figures = leaderboard(replace(evaluation, scores=scores))["metrics"]["image"]["HatefulMemes"]
    expected = {
        "hit@1": 0.579,
        "hit@5": 1.0,
        "ndcg_linear@1": 0.579,
        "ndcg_linear@5": 0.8446214262535836,
        "ndcg_exponential@10": 0.8446214262535836,
        "precision@5": 0.2,
        "precision@10": 0.1,
        "recall@10": 1.0,
        "f1@1": 0.579,
        "f1@5": 0.3333333333333333,
        "f1@10": 0.18181818181818182,
        "map@5": 0.7895,
        "mrr@10": 0.7895,
        "num_pred": 1000,
        "num_data": 1000,
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected)


def test_the_leaderboard_takes_no_part_of_the_tasks(evaluation):
    part = replace(evaluation, tasks=evaluation.tasks[:-1], scores=evaluation.scores[:-1], complete=False)
    with pytest.raises(UsageError, match="Visual7W-Pointing"):
        leaderboard(part)


def test_rows_hold_the_means_in_percent(evaluation):
    percent = [f"{100 * evaluation.summary[name]:.1f}" for name in ("classification", "vqa", "retrieval", "grounding")]
    percent += [f"{100 * evaluation.summary[name]:.1f}" for name in ("ind", "ood", "overall")]
    titles, rule, row = markdown_row(evaluation).splitlines()
    assert titles == "| model | Cls | VQA | Ret | Grd | IND | OOD | overall |"
    assert titles.count("|") == rule.count("|") == row.count("|")
    assert re.findall(r"\d+\.\d", row) == percent
    latex = latex_row(evaluation)
    assert latex.splitlines()[1] == rf"runs/my\_model \& co & {' & '.join(percent)} \\"


def test_a_part_of_a_set_has_no_row_and_writes_no_file(evaluation, tiny, tmp_path):
    part = replace(evaluation, complete=False)
    for make in (markdown_row, latex_row):
        with pytest.raises(UsageError, match="E_USAGE_EXPORT"):
            make(part)
    write_exports(part, EmbeddingModel(tiny()), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_an_earlier_evaluation_exported_does_not_stand_beside_one_that_cannot_export_it(
    evaluation, tiny, tmp_path
):
    model = EmbeddingModel(tiny())
    own = tuple(replace(task, name=f"own {task.name}") for task in evaluation.tasks)
    for later, kept in (
        (replace(evaluation, complete=False), set()),
        (replace(evaluation, tasks=own), {"row.md", "row.tex"}),
    ):
        write_exports(evaluation, model, tmp_path)
        write_exports(later, model, tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_whole_set_writes_all_of_them(evaluation, tiny, tmp_path):
    write_exports(evaluation, EmbeddingModel(tiny(), max_tokens=128), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"row.md", "row.tex", "leaderboard.json"}
    metadata = json.loads((tmp_path / "leaderboard.json").read_text())["metadata"]
    assert (metadata["embedding_dimension"], metadata["max_length_tokens"]) == (32, 128)
