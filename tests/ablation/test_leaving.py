"""A study that is asked to stop beside training ends as training does, and nothing that is done is done again."""

from __future__ import annotations

import os
import signal
import tempfile
from functools import partial

import pytest
from studying import TEXT, write_study

from cocoa.ablation import costs, job, repeating
from cocoa.ablation.job import Job
from cocoa.ablation.leaving import leaving
from cocoa.ablation.repeating import repeat
from cocoa.ablation.study import load_study
from cocoa.errors import TrainingStoppedError
from cocoa.evaluation.runner import evaluate

SMALL = (
    TEXT.replace("seeds: [0, 1]", "seeds: [0]")
    .replace("tuning: {trials: 2, seeds: [7]}", "")
    .replace("validation: [{path: generated/validation, only: [scene_cls_seen]}]", "")
    .replace("  - {name: long, set: [stages.contrastive.steps=3], equal: flops}\n", "")
)
ONLY = ["plain/short/0", "mean/short/0"]


def ask(*_) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "_count", lambda recipe: 1e6)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return load_study(write_study(tmp_path, SMALL))


def test_asked_while_it_scores_it_is_left_and_goes_on_without_repeating_a_finished_arm(study, tmp_path, monkeypatch):
    steps, scored = [], []

    def watched(model, tasks, **options):
        scored.append(options["name"])
        return evaluate(model, tasks, on_progress=ask if len(scored) == 2 else None, **options)

    monkeypatch.setattr(job, "evaluate", watched)
    run = partial(Job, study, tmp_path / "out", folder=tmp_path, only=ONLY, on_step=lambda *step: steps.append(step))
    with pytest.raises(TrainingStoppedError, match="asked to stop; the same command goes on") as caught:
        run().run()
    assert caught.value.exit_code == 0
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert not [*(tmp_path / "temporary").iterdir(), *(tmp_path / "out").rglob(".*.draft")]
    assert len([*(tmp_path / "out").glob("runs/*/*/*.json")]) == 1
    trained = len(steps)
    records = run().run()
    assert len(records) == 2
    assert len(steps) == trained, "both were trained"
    assert len(scored) == 3 and scored[1] == scored[2] != scored[0], "one was scored"


def test_asked_while_a_run_is_scored_again_nothing_is_left_of_it(study, tmp_path, monkeypatch):
    made = Job(study, tmp_path / "out", folder=tmp_path, only=ONLY[:1])
    made.run()
    monkeypatch.setattr(repeating, "evaluate", partial(evaluate, on_progress=ask))
    with pytest.raises(TrainingStoppedError, match="nothing of this run is kept"):
        repeat(made, ONLY[0])
    assert not [*(tmp_path / "temporary").iterdir()]


def test_asked_while_sets_are_drawn_it_draws_them_next_time(study, tmp_path, monkeypatch):
    real = job.write_scene_tasks
    monkeypatch.setattr(job, "write_scene_tasks", lambda folder, **options: (real(folder, **options), ask()))
    made = Job(study, tmp_path / "out", folder=tmp_path, only=ONLY[:1])
    with pytest.raises(TrainingStoppedError, match="the same command goes on"):
        made.draw_sets()
    assert made.undrawn() == ["validation"]
    monkeypatch.setattr(job, "write_scene_tasks", real)
    made.draw_sets()
    assert made.undrawn() == []


def test_what_somebody_else_does_on_the_signal_is_left_to_them(tmp_path):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
    try:
        with leaving(tmp_path):
            ask()
        assert seen == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_comes_in_a_finaliser_is_not_lost(tmp_path):
    class Last:
        def __del__(self) -> None:
            ask()

    with pytest.raises(TrainingStoppedError), leaving(tmp_path):
        Last()
