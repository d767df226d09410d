"""Records outlive the machine that made them: tables come from them, and the study goes on from them."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from studying import TEXT, write_study
from typer.testing import CliRunner

from cocoa.ablation import costs, repeating
from cocoa.ablation import job as job_of_studies
from cocoa.ablation.analysis import analyse
from cocoa.ablation.job import Job
from cocoa.ablation.records import keep, read_records
from cocoa.ablation.repeating import repeat
from cocoa.ablation.study import load_study
from cocoa.ablation.writing import markdown
from cocoa.claims import Claims
from cocoa.cli import app
from cocoa.errors import DataError, UsageError

SMALL = (
    TEXT.replace("tuning: {trials: 2, seeds: [7]}", "tuning: {trials: 1, seeds: [7]}")
    .replace("{name: long, set: [stages.contrastive.steps=3], equal: flops}", "{name: same}")
    .replace("  - {name: mean, stages: [warm-up, contrastive], pooling: {kind: mean}}\n", "")
)
"""Two arms under two budgets that are one and the same, so that each model is that of two runs."""


@pytest.fixture(scope="module")
def _counted():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "_count", lambda recipe: 1e6 * recipe.stages[0].batch_size)
        yield


@pytest.fixture(scope="module")
def kept(tmp_path_factory, _counted):
    """A study that ran, and the folder in which its records are kept; nothing else of it is left."""
    home = tmp_path_factory.mktemp("kept")
    path = write_study(home / "here", SMALL)
    study = load_study(path)
    out = home / "here" / "out"
    records = Job(study, out, folder=path.parent).run()
    said = markdown(analyse(study, records))
    found = keep(out, home / "project", folder=path.parent)
    assert (found.new, found.old) == (2 * 2 * 2 + 2 * 2, 0)
    shutil.rmtree(home / "here")
    return home, found.folder, records, said


def plain(record):
    """A record without what a second training cannot repeat: seconds and, for kept ones, the place of files."""
    links = [{key: value for key, value in link.items() if key != "seconds"} for link in record["links"]]
    return {**record, "cost": {**record["cost"], "seconds": 0}, "links": links, "recipe": None}


def test_what_is_kept_is_small_plain_and_of_no_machine(kept):
    home, folder, records, _ = kept
    names = {str(path.relative_to(folder)) for path in folder.rglob("*.json")}
    assert {"study.json", "runs/light/short/0.json", "tuning/plain/same/0-7.json"} <= names
    for path in folder.rglob("*.json"):
        assert path.stat().st_size < 8000
        assert str(home) not in path.read_text()
    one = json.loads((folder / "runs" / "light" / "short" / "0.json").read_text())
    assert one["recipe"]["backbone"]["name"] == "./backbone"
    assert one["recipe"]["stages"][-1]["data"][0]["path"] == "generated/scenes"
    assert {"arm", "seed", "budget", "recipe", "tasks", "probes", "cost", "versions"} <= set(one)
    assert [plain(record) for record in read_records(folder)] == [
        plain(record) for record in sorted(records, key=lambda r: (r["arm"], r["budget"], r["seed"]))
    ]


def test_the_tables_come_from_the_kept_records_alone(kept):
    _, folder, _, said = kept
    study = load_study(write_study(folder.parent / "study", SMALL))
    assert markdown(analyse(study, read_records(folder))) == said
    assert "nothing here is a result yet" not in said


def resumed(kept, there, *lost):
    """The records after going on from kept ones without some, and the stages that were trained for it."""
    _, folder, _, _ = kept
    shutil.copytree(folder, there / "out")
    for name in lost:
        (there / "out" / name).unlink()
    path = write_study(there, SMALL)
    steps = []
    job = Job(load_study(path), there / "out", folder=there, on_step=lambda stage, _: steps.append(stage.name))
    return job.run(), steps


def test_a_study_goes_on_from_records_alone_and_does_nothing_twice(kept, tmp_path):
    records, steps = resumed(kept, tmp_path)
    assert not steps
    assert [plain(record) for record in records] == [plain(record) for record in kept[2]]
    assert not (tmp_path / "out" / "links").exists()


def test_what_a_missing_run_needs_is_trained_again_and_nothing_else(kept, tmp_path):
    lost = [f"runs/light/{budget}/1.json" for budget in ("short", "same")]
    records, steps = resumed(kept, tmp_path, *lost)
    assert steps == ["warm-up"] * 2 + ["light"] * 2 + ["contrastive"] * 2, "one chain, for two runs"
    assert [plain(record) for record in records] == [plain(record) for record in kept[2]]


def test_a_model_that_another_run_scored_is_not_looked_at_again(kept, tmp_path):
    records, steps = resumed(kept, tmp_path, "runs/light/same/1.json", "tuning/plain/short/0-7.json")
    assert not steps
    assert [plain(record) for record in records] == [plain(record) for record in kept[2]]


def test_scores_that_are_taken_from_a_record_keep_the_versions_that_made_them(kept, tmp_path, monkeypatch):
    monkeypatch.setattr(job_of_studies, "library_versions", lambda: {"torch": "newer"})
    records, _ = resumed(kept, tmp_path, "runs/light/same/1.json")
    [again] = [r for r in records if (r["arm"], r["budget"], r["seed"]) == ("light", "same", 1)]
    assert again["versions"] == kept[2][0]["versions"] != {"torch": "newer"}


def test_records_of_two_machines_are_kept_together(kept, tmp_path):
    _, folder, _, _ = kept
    for number, name in enumerate(("plain", "light")):
        one = tmp_path / f"machine-{number}"
        shutil.copytree(folder, one)
        shutil.rmtree(one / "runs" / name)
        found = keep(one, tmp_path / "project", folder=tmp_path)
        assert (found.new, found.old) == ((8, 0), (4, 4))[number]
    assert read_records(tmp_path / "project" / "tiny") == read_records(folder)


def test_machines_share_a_study_by_the_names_of_its_runs(kept, tmp_path):
    _, folder, _, _ = kept
    path = write_study(tmp_path, SMALL)
    shutil.copytree(folder, tmp_path / "out")
    for name in ("plain", "light"):
        (tmp_path / "out" / "runs" / name / "short" / "1.json").unlink()
        (tmp_path / "out" / "runs" / name / "same" / "1.json").unlink()

    def records(*only):
        return Job(load_study(path), tmp_path / "out", folder=path.parent, only=only).run()

    found = records("light/*/*", "plain/short/0")
    assert sorted((r["arm"], r["budget"], r["seed"]) for r in found) == [
        *(("light", budget, seed) for budget in ("same", "short") for seed in (0, 1)),
        ("plain", "short", 0),
    ]
    missing = tmp_path / "out" / "runs" / "plain" / "short" / "1.json"
    assert not missing.exists()
    with pytest.raises(UsageError, match=r"no run is called light/long/\*; one is plain/short/0") as caught:
        records("light/long/*")
    assert caught.value.code == "E_USAGE_RUN"
    assert len(records()) == 8
    assert missing.exists()


def test_a_machine_tunes_the_arms_of_its_own_runs_and_no_others(kept, tmp_path):
    _, folder, _, _ = kept
    path = write_study(tmp_path, SMALL)
    shutil.copytree(folder, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "tuning" / "plain")
    standings = []
    job = Job(load_study(path), tmp_path / "out", folder=path.parent, only=["light/*/*"], on_standing=standings.append)
    assert [(trial.arm, trial.budget) for trial in job.tuning()] == [("light", "short"), ("light", "same")]
    assert {record["arm"] for record in job.run()} == {"light"}
    assert standings[-1].done == standings[-1].of == 2 + 4
    assert not (tmp_path / "out" / "tuning" / "plain").exists()


def test_a_second_look_at_a_test_is_refused(kept, tmp_path):
    _, folder, _, _ = kept
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    path = again / "runs" / "light" / "short" / "0.json"
    record = json.loads(path.read_text())
    record["tasks"]["scene_cls_seen"]["hit_at_1"] += 0.5
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match="kept with other tasks") as caught:
        keep(again, folder.parent, folder=tmp_path)
    assert caught.value.code == "E_DATA_CONFLICT"
    (again / "study.json").write_text(
        (again / "study.json").read_text().replace('"max_tokens": 96', '"max_tokens": 97')
    )
    with pytest.raises(UsageError, match="another study of that name"):
        keep(again, folder.parent, folder=tmp_path)


def test_a_broken_record_is_named(kept, tmp_path):
    shutil.copytree(kept[1], tmp_path / "out")
    (tmp_path / "out" / "runs" / "light" / "short" / "0.json").write_text('{"arm": "light"')
    with pytest.raises(DataError, match=r"light/short/0\.json: not a record of a run"):
        read_records(tmp_path / "out")


def test_a_run_is_repeated_as_it_was_scored_from_its_model_folder(kept, tmp_path, monkeypatch):
    path = write_study(tmp_path, SMALL)
    shutil.copytree(kept[1], tmp_path / "out")
    record = tmp_path / "out" / "runs" / "plain" / "short" / "1.json"
    record.write_text(record.read_text().replace('"precision":"float32"', '"precision":"bfloat16"'))
    scored = []
    evaluated = repeating.evaluate
    monkeypatch.setattr(
        repeating, "evaluate", lambda model, tasks, name: scored.append(model) or evaluated(model, tasks, name=name)
    )
    repeat(Job(load_study(path), tmp_path / "out", folder=tmp_path), "plain/short/1")
    assert [model.dtype for model in scored] == [torch.float32]


def test_repeating_a_run_of_another_study_draws_nothing_into_its_folder(kept, tmp_path):
    path = write_study(tmp_path, SMALL.replace("scenes: {seed: 0", "scenes: {seed: 5"))
    shutil.copytree(kept[1], tmp_path / "out")
    job = Job(load_study(path), tmp_path / "out", folder=tmp_path)
    with pytest.raises(UsageError, match="of another study") as caught:
        repeat(job, "plain/short/1")
    assert caught.value.code == "E_USAGE_OUT"
    assert not job.data.exists()


def test_sets_are_not_drawn_where_another_process_may_draw_them(kept, tmp_path, monkeypatch):
    path = write_study(tmp_path, SMALL)
    shutil.copytree(kept[1], tmp_path / "out")
    # Locks are of a process: what another has is what this one is refused.
    monkeypatch.setattr(Claims, "take", lambda self, name: False)
    job = Job(load_study(path), tmp_path / "out", folder=tmp_path)
    with pytest.raises(UsageError, match="another process is at work"):
        repeat(job, "plain/short/1")
    assert not job.data.exists()


def test_the_command_keeps_an_unfinished_study_and_repeats_a_run_from_its_record(kept, tmp_path):
    _, folder, _, _ = kept
    path = write_study(tmp_path, SMALL)
    shutil.copytree(folder, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "runs" / "plain" / "same")
    base = ["ablate", str(path), "--out", str(tmp_path / "out")]
    answer = CliRunner().invoke(app, [*base, "--report-only", "--keep", str(tmp_path / "project")])
    assert answer.exit_code == 0, answer.output
    assert "10 records kept in" in answer.output
    answer = CliRunner().invoke(app, [*base, "--report-only", "--only", "light/short/1"])
    assert answer.exit_code == 1
    assert "E_USAGE_RUN" in str(answer.exception)
    answer = CliRunner().invoke(app, [*base, "--repeat", "light/short/1"])
    assert answer.exit_code == 0, answer.output
    assert "The same numbers." in answer.output
    changed = tmp_path / "out" / "runs" / "light" / "short" / "1.json"
    record = json.loads(changed.read_text())
    record["tasks"]["scene_cls_seen"]["hit_at_1"] = 0.987
    changed.write_text(json.dumps(record))
    answer = CliRunner().invoke(app, [*base, "--repeat", "light/short/1"])
    assert answer.exit_code == 1
    assert "98.70" in answer.output and "Not the same numbers" in answer.output
    answer = CliRunner().invoke(app, [*base, "--repeat", "light/short/9"])
    assert isinstance(answer.exception, UsageError) and answer.exception.code == "E_USAGE_RUN"
