"""The command line: exit codes and messages as promised, and nothing half-written after an error."""

from __future__ import annotations

import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from cocoa.cli import main
from cocoa.data.scene_pairs import ScenePairs
from cocoa.data.scene_tasks import write_scene_tasks
from cocoa.model import EmbeddingModel


@pytest.fixture
def cocoa(monkeypatch, capsys):
    """Runs a command in this process; returns its exit code and all it said."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["cocoa", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        return code, " ".join((said.out + said.err).split())

    return run


@pytest.fixture
def backbone(tiny, tmp_path):
    folder = tmp_path / "backbone"
    folder.mkdir()
    tiny().save(folder)
    return folder


@pytest.fixture
def model(tiny, tmp_path):
    EmbeddingModel(tiny(), max_tokens=256).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def recipe(backbone, tmp_path):
    """A recipe of one stage over a table of two pictures."""
    scenes = ScenePairs(seed=0, num_pairs=4)
    (tmp_path / "images").mkdir()
    rows = []
    for number in range(4):
        scenes[number].query.images[0].save(tmp_path / "images" / f"{number}.png")
        rows.append({"image_path": f"{number}.png", "text": scenes[number].target.text})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    tree = {
        "name": "small",
        "backbone": {"name": str(backbone)},
        "max_tokens": 256,
        "stages": [
            {
                "name": "warm-up",
                "layout": "bidirectional",
                "objectives": [{"kind": "masked_text", "rate": 0.3}],
                "data": [{"kind": "image_text_pairs", "path": "pairs.parquet"}],
                "steps": 3,
                "batch_size": 2,
                "learning_rate": 1e-3,
            }
        ],
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_train_writes_what_the_design_promises(cocoa, recipe, tmp_path):
    out = tmp_path / "run"
    code, said = cocoa("train", recipe, "--out", out, "--set", "stages.warm-up.steps=4")
    assert code == 0, said
    assert {path.name for path in out.iterdir()} == {"model", "recipe.yaml", "metrics.jsonl", "report.html"}
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [0, 1, 2, 3]
    assert set(records[0]) >= {"step", "stage", "losses", "learning_rate", "tokens_per_second", "data_wait_seconds"}
    assert yaml.safe_load((out / "recipe.yaml").read_text())["stages"][0]["steps"] == 4
    assert "warm-up" in (out / "report.html").read_text()


def test_the_saved_recipe_makes_the_same_run_again(cocoa, recipe, tmp_path):
    assert cocoa("train", recipe, "--out", tmp_path / "one")[0] == 0
    assert cocoa("train", tmp_path / "one" / "recipe.yaml", "--out", tmp_path / "two")[0] == 0
    weights = [(tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("one", "two")]
    assert weights[0] == weights[1]


def test_a_used_folder_is_not_written_over(cocoa, recipe, tmp_path):
    assert cocoa("train", recipe, "--out", tmp_path / "run")[0] == 0
    code, said = cocoa("train", recipe, "--out", tmp_path / "run")
    assert code == 2
    assert "E_USAGE_OUT" in said


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ("stages.warm-up.batch_sise=3", "did you mean 'batch_size'"),
        ("stages.warm-up.steps=many", "stages.0.steps"),
        ("stages.warm-up.learning_rate=-1.0", "stages.0.learning_rate"),
        ("stages.warmup.steps=3", "no 'warmup' among warm-up"),
    ],
)
def test_a_wrong_recipe_is_wrong_use_and_leaves_nothing(cocoa, recipe, tmp_path, change, names):
    code, said = cocoa("train", recipe, "--out", tmp_path / "run", "--set", change)
    assert code == 2
    assert names in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_a_broken_picture_stops_the_run_naming_file_and_row_and_leaves_no_model(cocoa, recipe, tmp_path):
    (tmp_path / "images" / "2.png").write_bytes(b"<html>not found</html>")
    code, said = cocoa("train", recipe, "--out", tmp_path / "run")
    assert code == 1
    assert "pairs.parquet:3" in said
    assert "2.png" in said
    assert not (tmp_path / "run" / "model").exists()


def test_data_that_is_wrong_is_found_before_anything_is_trained(cocoa, recipe, tmp_path):
    pq.write_table(pa.Table.from_pylist([{"picture": "0.png", "text": "a"}]), tmp_path / "pairs.parquet")
    code, said = cocoa("train", recipe, "--out", tmp_path / "run")
    assert code == 1
    assert "E_DATA_COLUMN" in said
    assert "image_path" in said
    assert not (tmp_path / "run").exists()


def test_recipe_show_draws_the_layouts(cocoa, recipe):
    code, said = cocoa("recipe", "show", recipe, "--set", "stages.0.layout=eos_bridge")
    assert code == 0
    assert "e # # # # #" in said
    assert "B . . # # #" in said


def test_evaluate_scores_a_folder_and_says_if_a_part_is_missing(cocoa, model, tmp_path):
    write_scene_tasks(tmp_path / "tasks", seed=0, num_train=12, num_test=12)
    code, said = cocoa("evaluate", model, "--tasks", tmp_path / "tasks", "--out", tmp_path / "scores")
    assert code == 0, said
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert set(results) == {"model", "tasks", "summary", "complete"}
    assert results["complete"] is True
    assert set(results["summary"]) == {"classification", "vqa", "retrieval", "grounding", "overall"}
    scores = [task["hit_at_1"] for task in results["tasks"].values()]
    assert results["summary"]["overall"] == pytest.approx(sum(scores) / len(scores))
    code, said = cocoa(
        "evaluate", model, "--tasks", tmp_path / "tasks", "--only", "scene_vqa_seen", "--out", tmp_path / "x"
    )
    assert code == 0, said
    part = json.loads((tmp_path / "x" / "results.json").read_text())
    assert part["complete"] is False
    assert part["summary"] == {}


def test_embed_and_search_find_a_picture_by_itself(cocoa, model, recipe, tmp_path):
    code, said = cocoa("embed", model, tmp_path / "images", "--out", tmp_path / "vectors")
    assert code == 0, said
    code, said = cocoa("search", tmp_path / "vectors", "--text", "a dog", "-k", "2")
    assert code == 0, said
    assert said.count(".png") == 2
    code, said = cocoa("search", tmp_path / "vectors")
    assert code == 2
    assert "E_USAGE_SEARCH" in said


@pytest.mark.parametrize(
    ("words", "code", "names"),
    [
        (["evaluate", "{tmp}/nothing", "--tasks", "{tmp}/images"], 1, "E_DATA_FILE"),
        (["embed", "{tmp}/nothing", "{tmp}/images", "--out", "{tmp}/o"], 1, "E_MODEL_MISSING"),
        (["embed", "{tmp}/backbone", "{tmp}/images", "--out", "{tmp}/o"], 1, "must be trained first"),
        (["search", "{tmp}/images", "--text", "a"], 1, "E_DATA_FILE"),
        (["train", "{tmp}/nothing.yaml"], 2, "E_RECIPE_FILE"),
        (["fly"], 2, "No such command"),
    ],
)
def test_what_is_not_there_is_named(cocoa, recipe, tmp_path, words, code, names):
    got, said = cocoa(*[word.format(tmp=tmp_path) for word in words])
    assert got == code, said
    assert names in said


def test_a_model_folder_that_lost_a_file_is_refused(cocoa, model, recipe, tmp_path):
    (model / "model.safetensors").unlink()
    code, said = cocoa("embed", model, tmp_path / "images", "--out", tmp_path / "vectors")
    assert code == 1
    assert "model.safetensors is missing" in said
    assert not (tmp_path / "vectors").exists()
