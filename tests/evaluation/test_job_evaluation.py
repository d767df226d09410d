"""A job reads folders, shows its progress and writes files; its processes need a folder that they share."""

from __future__ import annotations

import io
import json
import shutil

import pytest
from evaluating import save_model
from rich.console import Console

from cocoa.data.held_out import HeldOut
from cocoa.data.scene_tasks import write_scene_tasks
from cocoa.errors import UsageError
from cocoa.evaluation.job import run_job
from cocoa.evaluation.progress import EvaluationProgress
from cocoa.evaluation.vectors import Progress


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("job")
    save_model(tiny(), folder / "model")
    write_scene_tasks(folder / "tasks", seed=0, num_train=12, num_test=12)
    return folder


def test_a_whole_set_leaves_results_page_rows_and_receipt(home, tmp_path):
    result = run_job(home / "model", home / "tasks", tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"results.json", "report.html", "receipt.json", "row.md", "row.tex", "cache"}
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(result.to_dict()))
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    assert receipt["settings"]["max_pixels"] == 56 * 56
    assert receipt["samples_kept"] == 0
    assert (receipt["settings"]["attention"], receipt["data_revision"]) == ("split", None)


def test_the_receipt_says_of_which_revision_the_data_from_the_hub_are(home, tmp_path):
    snapshot = tmp_path / "datasets--a--b" / "snapshots" / ("0a" * 20)
    shutil.copytree(home / "tasks", snapshot)
    assert run_job(home / "model", snapshot, only=["scene_vqa_seen"]).receipt["data_revision"] == "0a" * 20


def test_a_part_of_a_set_has_no_overall_anywhere(home, tmp_path):
    result = run_job(home / "model", home / "tasks", tmp_path, only=["scene_vqa_seen", "scene_i2t_seen"])
    assert (result.complete, result.summary) == (False, {})
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "report.html", "receipt.json", "cache"}
    for name in ("results.json", "report.html"):
        assert "overall" not in (tmp_path / name).read_text()


@pytest.mark.parametrize("place", ["write_exports", "write_file", "Evaluation.write"])
def test_a_job_that_is_killed_as_it_writes_leaves_nothing_of_the_one_before(home, tmp_path, monkeypatch, place):
    run_job(home / "model", home / "tasks", tmp_path / "out", cache=tmp_path / "cache")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"cocoa.evaluation.job.{place}", killed)
    with pytest.raises(KeyboardInterrupt):
        run_job(home / "model", home / "tasks", tmp_path / "out", only=["scene_i2t_seen"], cache=tmp_path / "cache")
    left = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert "results.json" not in left
    assert not [name for name, content in left.items() if "scene_vqa_seen" in content or "row" in name]


def test_what_is_held_out_of_training_is_scored_under_names_of_its_own(home, tmp_path):
    result = run_job(home / "model", home / "tasks", tmp_path, held_out=HeldOut(share=0.4), processes=2)
    written = json.loads((tmp_path / "results.json").read_text())["tasks"]
    assert set(written) == {f"scene_{task}_held_out" for task in ("cls", "grounding", "i2t", "t2i", "vqa")}
    assert "overall" in result.summary


def test_without_out_nothing_is_written(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_job(home / "model", home / "tasks", only=["scene_vqa_seen"]).scores[0].queries
    assert list(tmp_path.iterdir()) == []


def test_a_cache_serves_jobs_with_other_folders(home, tmp_path):
    run_job(home / "model", home / "tasks", tmp_path / "one", only=["scene_vqa_seen"], cache=tmp_path / "cache")
    again = run_job(home / "model", home / "tasks", only=["scene_vqa_seen"], cache=tmp_path / "cache")
    assert again.receipt["samples_kept"] == again.receipt["samples_distinct"] > 0
    assert not (tmp_path / "one" / "cache").exists()


@pytest.mark.parametrize(("options", "world"), [({"processes": 2}, "1"), ({}, "2"), ({"processes": 0}, "1")])
def test_processes_without_a_folder_that_they_share_are_refused(home, options, world, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(UsageError, match="E_USAGE_WORKERS"):
        run_job(home / "model", home / "tasks", **options)


def test_a_rank_that_is_not_the_first_helps_and_writes_no_results(home, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert run_job(home / "model", home / "tasks", tmp_path) is None
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}
    monkeypatch.setenv("RANK", "0")
    first = run_job(home / "model", home / "tasks", tmp_path)
    assert first.receipt["samples_kept"] == first.receipt["samples_distinct"]


NOW = Progress(1000, 600, 200, 50_000, 30_000, 10_000, 12, 5, 20.0)


def test_what_is_left_is_told_by_tokens_not_by_samples():
    assert NOW.rate == 20
    assert NOW.seconds_left == 20
    assert Progress(10, 2, 2, 100, 20, 20, 1, 0, 0.0).seconds_left is None


def test_the_screen_shows_samples_tasks_rate_and_time_left(monkeypatch):
    screen = io.StringIO()
    with EvaluationProgress(Console(file=screen, force_terminal=True, width=100)) as progress:
        progress.pictures(3, 10)
        progress.embedding(NOW)
    shown = screen.getvalue()
    for said in ("600/1,000 samples", "20 s left", "5/12 tasks", "20 samples/s", "200 kept from before"):
        assert said in shown
    monkeypatch.setattr("cocoa.evaluation.progress.QUIET_SECONDS", 0)
    plain = io.StringIO()
    with EvaluationProgress(Console(file=plain, width=100)) as progress:
        progress.embedding(NOW)
    assert plain.getvalue().count("\n") == 1
    assert "600/1,000 samples" in plain.getvalue()
