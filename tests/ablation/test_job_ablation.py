"""A study from end to end, very small: what is shared, what is resumed, what is looked at once, what is written."""

from __future__ import annotations

import json
import shutil

import pytest
from studying import TEXT, write_study
from typer.testing import CliRunner

from cocoa.ablation import costs
from cocoa.ablation.analysis import analyse
from cocoa.ablation.job import Job
from cocoa.ablation.records import read_records
from cocoa.ablation.study import load_study
from cocoa.ablation.writing import write_results
from cocoa.cli import app
from cocoa.data.mmeb_eval import read_tasks
from cocoa.errors import RecipeError, UsageError
from cocoa.evaluation.runner import evaluate
from cocoa.recipe import Recipe, read_options
from cocoa.training.loop import train


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study that is run once, with the trials in their order."""
    folder = tmp_path_factory.mktemp("study")
    path = write_study(folder)
    study = load_study(path)
    order = []
    steps = []
    job = Job(
        study,
        folder / "out",
        folder=folder,
        on_standing=lambda standing: order.append(standing),
        on_step=lambda stage, record: steps.append(stage.name),
    )
    with pytest.MonkeyPatch.context() as patch:
        # Counting takes longer than training does here; what is counted is held to a real step in test_costs.py.
        patch.setattr(costs, "_count", lambda recipe: 1e6 * recipe.stages[0].batch_size)
        records = job.run()
    write_results(analyse(study, records), records, folder / "out")
    return path, job, records, order, steps


def test_every_arm_budget_and_seed_has_one_record(done):
    _, job, records, _, _ = done
    names = [(record["budget"], record["arm"], record["seed"]) for record in records]
    assert len(set(names)) == len(names) == 3 * 2 * 2
    assert records == [job.record(trial) for trial in job.runs()]
    key = lambda record: (record["arm"], record["budget"], record["seed"])  # noqa: E731
    assert sorted(read_records(job.out), key=key) == sorted(records, key=key)
    for record in records:
        assert set(record["tasks"]) == {"scene_cls_seen", "scene_i2t_combo"}
        rates = [task["hit_at_1"] for task in record["tasks"].values()]
        assert record["score"] == pytest.approx(sum(rates) / 2)


def test_all_tuning_is_over_before_a_test_is_looked_at(done):
    _, job, _, order, _ = done
    now = [standing.now for standing in order if standing.now is not None]
    counting = [trial.number is None for trial in now]
    assert counting == sorted(counting)
    assert counting.count(False) == 3 * 2 * 2
    assert {trial.seed for trial in now if trial.number is not None} == {7}
    for trial in job.tuning():
        assert set(job.record(trial)["tasks"]) == {"scene_cls_seen"}
    assert order[-1].done == order[-1].of == 24


def test_every_arm_is_tried_as_often_and_the_best_setting_is_taken(done):
    _, job, records, _, _ = done
    trials = job.tuning()
    for arm, budget in job._pairs():
        own = [trial for trial in trials if (trial.arm, trial.budget) == (arm.name, budget.name)]
        assert [trial.number for trial in own] == [0, 1]
        assert set(own[0].factors.values()) == {1.0}
        scores = [job.record(trial)["score"] for trial in own]
        best = own[scores.index(max(scores))]
        for record in records:
            if (record["arm"], record["budget"]) == (arm.name, budget.name):
                assert record["factors"] == best.factors
    light, mean = ({t.number: t.factors for t in trials if t.arm == arm} for arm in ("light", "mean"))
    assert light[1]["warm-up"] == mean[1]["warm-up"] != 1.0, "equal stages draw the same, so that they are shared"


def test_a_shared_stage_is_trained_once(done):
    _, job, _, _, steps = done
    folders = [path.name for path in job.links.iterdir()]
    trained = [
        json.loads((job.links / name / "metrics.jsonl").read_text().splitlines()[0])["stage"] for name in folders
    ]
    assert steps.count("warm-up") == 2 * trained.count("warm-up")
    # Two settings with the tuning seed; then each arm's best with both seeds, shared or not.
    assert trained.count("warm-up") <= 2 + 2 * 2


def test_equal_flops_are_equal(done):
    _, _, records, _, _ = done
    for budget, equal in (("short", False), ("long", True)):
        flops = [record["cost"]["flops"] for record in records if record["budget"] == budget]
        spread = max(flops) / min(flops)
        assert (spread < 1.2) == equal
        for record in records:
            parts = [link for link in record["links"] if link["counted"]]
            assert record["cost"]["steps"] == sum(link["steps"] for link in parts)


def test_a_run_repeated_from_its_stored_recipe_gives_the_same_numbers(done, tmp_path):
    """The slow version of the chain: the whole recipe at once, in another folder."""
    _, job, records, _, _ = done
    record = next(record for record in records if record["arm"] == "light")
    recipe = read_options(Recipe, record["recipe"], where="record")
    assert [stage.name for stage in recipe.stages] == ["warm-up", "light", "contrastive"]
    model, _ = train(recipe, tmp_path / "run")
    found = evaluate(model, read_tasks(job.data / "scenes", ["scene_cls_seen", "scene_i2t_combo"]), name="again")
    again = {name: task["hit_at_1"] for name, task in found.to_dict()["tasks"].items()}
    assert again == {name: task["hit_at_1"] for name, task in record["tasks"].items()}
    losses = [line["losses"] for line in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())]
    own = [
        json.loads(line)["losses"]
        for link in record["links"]
        for line in (job.links / link["link"] / "metrics.jsonl").read_text().splitlines()
    ]
    assert losses == own, "to the last bit"


def test_run_again_nothing_is_done_again(done):
    path, job, records, _, _ = done
    steps = []
    again = Job(load_study(path), job.out, folder=path.parent, on_step=lambda *each: steps.append(each))
    assert again.run() == records
    assert not steps


def test_a_folder_of_another_study_is_refused(done, tmp_path):
    path, job, _, _, _ = done
    other = load_study(path, ["seeds=[0]"])
    with pytest.raises(UsageError, match="of another study"):
        Job(other, job.out, folder=path.parent).run()
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        Job(other, tmp_path, folder=path.parent).run()


def test_the_results_are_written_for_people_and_for_programs(done):
    _, job, records, _, _ = done
    result = json.loads((job.out / "results.json").read_text())
    assert result["complete"]
    short = result["budgets"][0]
    light = next(arm for arm in short["arms"] if arm["arm"] == "light")
    plain = next(arm for arm in short["arms"] if arm["arm"] == "plain")
    pairs = {(r["arm"], r["seed"]): r["score"] for r in records if r["budget"] == "short"}
    assert light["difference"] == pytest.approx(sum(pairs["light", seed] - pairs["plain", seed] for seed in (0, 1)) / 2)
    assert plain["difference"] is None
    page = (job.out / "results.md").read_text()
    assert f"| light decoder | 2 | {100 * light['score']:.1f}" in page
    assert "nothing here is a result yet" not in page
    assert (job.out / "runs.csv").read_text().count("\n") == 1 + len(records)
    assert (job.out / "arms.csv").read_text().count("\n") == 1 + 6
    html = (job.out / "report.html").read_text()
    assert "light decoder" in html and "<script" not in html
    for name in ("scores-short", "differences-long"):
        assert (job.out / "charts" / f"{name}.svg").read_text().startswith('<svg xmlns="http')


def test_the_command_shows_the_study_and_writes_it_again_without_training(done):
    path, job, _, _, _ = done
    before = {name: (job.out / name).read_text() for name in ("results.json", "results.md", "runs.csv", "arms.csv")}
    for name in before:
        (job.out / name).unlink()
    for options in (["--report-only"], []):
        answer = CliRunner().invoke(app, ["ablate", str(path), "--out", str(job.out), *options])
        assert answer.exit_code == 0, answer.output
        assert "Tables in" in answer.output
    assert "24 of 24 runs" in answer.output
    again = {name: (job.out / name).read_text() for name in before}
    assert {name: sorted(text.splitlines()) for name, text in again.items()} == {
        name: sorted(text.splitlines()) for name, text in before.items()
    }, "the same rows"


def test_a_report_of_what_was_not_begun_or_was_changed_is_refused_and_writes_nothing(done, tmp_path):
    path, job, _, _, _ = done
    changed = path.with_name("changed.yaml")
    changed.write_text(path.read_text().replace("steps: 2", "steps: 4"))
    for study, out in ((path, tmp_path / "new"), (changed, job.out)):
        answer = CliRunner().invoke(app, ["ablate", str(study), "--out", str(out), "--report-only"])
        assert "E_USAGE_OUT" in str(answer.exception)
    assert not (tmp_path / "new").exists()


def test_repeating_a_run_takes_no_other_option(done):
    path, job, _, _, _ = done
    for other in (["--report-only"], ["--only", "*/*/0"], ["--keep", "kept"]):
        words = ["ablate", str(path), "--out", str(job.out), "--repeat", "plain/short/0", *other]
        assert "E_USAGE_RUN" in str(CliRunner().invoke(app, words).exception)


def test_tasks_of_one_name_in_two_folders_are_refused(done, tmp_path):
    path, job, _, _, _ = done
    text = path.read_text().replace("tests: [", "tests: [{path: generated/scenes, only: [scene_i2t_combo]}, ")
    study = load_study(write_study(tmp_path, text))
    shutil.copytree(job.data, tmp_path / "out" / job.data.name)
    with pytest.raises(RecipeError, match="two folders of tasks have one called scene_i2t_combo"):
        # Before anything is tuned or trained.
        Job(study, tmp_path / "out", folder=tmp_path).draw_sets()


@pytest.mark.slow
def test_a_study_that_is_stopped_goes_on_where_it_was(tmp_path):
    """Stopped in the middle of a stage, and begun again: the same records as of the study that ran through."""
    text = (
        TEXT.replace("workers: 0", "workers: 0, checkpoint_every: 1")
        .replace("tuning: {trials: 2, seeds: [7]}", "")
        .replace("validation: [{path: generated/validation, only: [scene_cls_seen]}]", "")
        .replace("seeds: [0, 1]", "seeds: [0]")
        .replace("  - {name: long, set: [stages.contrastive.steps=3], equal: flops}\n", "")
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    found = {}
    for folder in (whole, broken):
        study = load_study(write_study(folder, text))
        for stop_after in (2, 4, 3) if folder is broken else ():
            count = []

            def stop(stage, record, count=count, stop_after=stop_after):
                count.append(record)
                if len(count) == stop_after:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                Job(study, folder / "out", folder=folder, on_step=stop).run()
        found[folder] = Job(study, folder / "out", folder=folder).run()
    for one, other in zip(found[whole], found[broken], strict=True):
        assert one["tasks"] == other["tasks"]
        assert [link["link"] for link in one["links"]] == [link["link"] for link in other["links"]]
        assert one["cost"]["steps"] == other["cost"]["steps"]
