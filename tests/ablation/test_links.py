"""Links of a chain: each begins from its parent's model, and goes on wherever the study's folder has come to lie."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from studying import TEXT, write_study

from cocoa.ablation import costs, links
from cocoa.ablation.job import Job
from cocoa.ablation.study import load_study
from cocoa.errors import TrainingStoppedError

SMALL = (
    TEXT.replace("workers: 0", "workers: 0, checkpoint_every: 1")
    .replace("seeds: [0, 1]", "seeds: [0]")
    .replace("tuning: {trials: 2, seeds: [7]}", "")
    .replace("validation: [{path: generated/validation, only: [scene_cls_seen]}]", "")
    .replace("{name: short}", "{name: short, set: [stages.contrastive.steps=3]}")
    .replace("  - {name: long, set: [stages.contrastive.steps=3], equal: flops}\n", "")
)
ONLY = ["mean/short/0"]


def test_a_stage_on_a_parents_model_leaves_the_first_backbones_revision(tmp_path, monkeypatch):
    study = load_study(write_study(tmp_path, SMALL))
    job = Job(study, tmp_path / "out", folder=tmp_path)
    recipe = study.recipe(study.arm("mean"), study.budgets[0], 0, folder=tmp_path, data=job.data)
    pinned = recipe.backbone.model_copy(update={"name": "somebody/model", "revision": "abc"})
    last = job._chain(recipe.model_copy(update={"backbone": pinned}))
    begun = []

    def train(recipe, out, **options):
        begun.append(recipe.backbone)
        (out / "checkpoints").mkdir(parents=True)

    monkeypatch.setattr(links, "train", train)
    for link in last.chain:
        links.train_link(link, job.links, say=print)
    first, second = begun
    assert (first.name, first.revision) == ("somebody/model", "abc")
    assert (second.name, second.revision) == (str(job.links / last.parent.address / "model"), None)


@pytest.mark.parametrize("step", [1, 3])
def test_a_study_that_is_asked_to_stop_stops_in_a_last_step_too_and_the_same_command_goes_on(
    tmp_path, monkeypatch, step
):
    monkeypatch.setattr(costs, "_count", lambda recipe: 1e6)
    study = load_study(write_study(tmp_path, SMALL))
    only = ["plain/short/0"]
    steps = []

    def ask(stage, record):
        steps.append(stage.name)
        if len(steps) == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingStoppedError, match="the same command goes on") as caught:
        Job(study, tmp_path / "out", folder=tmp_path, on_step=ask, only=only).run()
    assert "--resume" not in str(caught.value)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert not list((tmp_path / "out").glob("runs/*/*/*.json")), "nothing is done after it"
    [record] = Job(study, tmp_path / "out", folder=tmp_path, on_step=ask, only=only).run()
    assert len(steps) == record["cost"]["steps"] == 3


def test_a_model_that_two_arms_pool_otherwise_is_trained_once_and_then_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "_count", lambda recipe: 1e6)
    text = SMALL.replace("[warm-up, light, contrastive]", "[light, contrastive]")
    text = text.replace(", set: [stages.contrastive.steps=3]", "").replace(
        "{name: mean, stages: [warm-up, contrastive]",
        "{name: bare, stages: [warm-up]}\n  - {name: mean, stages: [warm-up]",
    )
    study = load_study(write_study(tmp_path, text))
    steps = []
    job = Job(
        study,
        tmp_path / "out",
        folder=tmp_path,
        on_step=lambda stage, _: steps.append(stage.name),
        only=["bare/short/0", "mean/short/0"],
    )
    bare, mean = job.run()
    assert bare["links"][0]["link"] == mean["links"][0]["link"]
    assert steps == ["warm-up"] * 2
    assert not list(job.links.glob("*/model"))


@pytest.mark.parametrize("moved", [False, True])
def test_a_half_done_link_goes_on_where_the_folder_is_called_or_lies_otherwise(tmp_path, monkeypatch, moved):
    monkeypatch.setattr(costs, "_count", lambda recipe: 1e6)
    here = tmp_path / "here"
    path = write_study(here, SMALL)
    monkeypatch.chdir(here)
    steps = []

    def stop(stage, record):
        steps.append(stage.name)
        if len(steps) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Job(load_study(path), Path("out"), folder=here, on_step=stop, only=ONLY).run()
    there = here.rename(tmp_path / "there") if moved else here
    again = []
    job = Job(
        load_study(there / path.name),
        there / "out",
        folder=there,
        on_step=lambda stage, _: again.append(stage.name),
        only=ONLY,
    )
    [record] = job.run()
    assert steps == ["warm-up"] * 2 + ["contrastive"] * 2
    # The second step had no checkpoint yet.
    assert again == ["contrastive"] * 2
    assert record["cost"]["steps"] == 2 + 3
