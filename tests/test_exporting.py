"""`cocoa export` makes a model folder of whatever training left, with the vectors that training had."""

from __future__ import annotations

import json
import shutil

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from cocoa import CocoaError
from cocoa.cli import app
from cocoa.errors import TrainingError
from cocoa.exporting import export_model
from cocoa.files import MANIFEST, sha256
from cocoa.model import EmbeddingModel, stored_dtype
from cocoa.portable import own_places, portable
from cocoa.recipe import parse_recipe
from cocoa.sample import Sample
from cocoa.training import loop
from cocoa.training.loop import train
from cocoa.training.receipt import backbone_origin, receipt
from cocoa.training.restoring import restored_model
from cocoa.training.setup import open_model
from making import make_picture

RECIPE = """
name: small
seed: 5
backbone: {name: nano-untrained}
max_tokens: 96
machine: {checkpoint_every: 1, keep_checkpoints: 9, workers: 0}
stages:
  - name: warm-up
    layout: bidirectional
    objectives: [{kind: masked_text, rate: 0.2}]
    data: [{kind: scene_pairs, num_pairs: 8}]
    steps: 1
    batch_size: 2
    learning_rate: 1e-3
  - name: contrastive
    layout: bidirectional
    objectives: [{kind: contrastive, dimensions: [32, 64]}]
    adapter: {rank: 2}
    data: [{kind: scene_pairs, num_pairs: 8}]
    steps: 2
    batch_size: 2
    learning_rate: 1e-3
"""
INPUTS = [Sample("a red apple"), Sample("owls", (make_picture(60, 40),)), Sample(images=(make_picture(90, 90),))]


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "small"
    train(parse_recipe(RECIPE), out)
    return out


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that failed in the second step of its last stage."""
    out = tmp_path_factory.mktemp("stopped") / "small"
    steps = []

    def failing(*args):
        steps.append(args)
        if len(steps) == 3:
            raise TrainingError("E_TRAINING_DIVERGED", "as asked")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "check_sane", failing)
        with pytest.raises(TrainingError):
            train(parse_recipe(RECIPE), out)
    return out


def weights(folder):
    return load_file(folder / "model.safetensors")


def vectors(folder):
    return EmbeddingModel.load(folder).encode(INPUTS)


def test_training_writes_a_folder_with_receipt_and_the_lengths_it_trained(run):
    card = json.loads((run / "model" / "cocoa.json").read_text())
    assert card["matryoshka"] == [32, 64]
    receipt = card["receipt"]
    assert receipt["recipe"]["seed"] == 5
    assert {name: stage["steps"] for name, stage in receipt["stages"].items()} == {"warm-up": 1, "contrastive": 2}
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert receipt["stages"]["contrastive"]["first_losses"] == records[1]["losses"]
    assert receipt["stages"]["contrastive"]["last_losses"] == records[2]["losses"]
    assert receipt["stages"]["warm-up"]["seed"] != receipt["stages"]["contrastive"]["seed"]
    assert "| contrastive | 4 |" in (run / "model" / "README.md").read_text()


def test_the_tables_of_training_are_hashed_and_their_pictures_are_not(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere/else")
    (tmp_path / "images").mkdir()
    for number in range(4):
        make_picture(60, 60, number).save(tmp_path / "images" / f"{number}.png")
    rows = [{"image_path": f"images/{number}.png", "text": f"picture {number}"} for number in range(4)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = RECIPE.split("  - name: contrastive")[0]
    recipe = parse_recipe(
        first.replace("{kind: scene_pairs, num_pairs: 8}", f"{{kind: image_text_pairs, path: {tmp_path}/pairs.jsonl}}")
    )
    train(recipe, tmp_path / "run")
    receipt = json.loads((tmp_path / "run" / "model" / "cocoa.json").read_text())["receipt"]
    path = tmp_path / "pairs.jsonl"
    assert receipt["data"] == {str(path): {"pairs.jsonl": sha256(path)}}


def test_a_receipt_says_which_backbone_the_run_began_from(run, tmp_path):
    recipe = parse_recipe(RECIPE)
    begun = receipt(recipe, [], {}, backbone_origin(recipe, open_model(recipe).backbone))
    assert begun["backbone"] == {}, "the version says it of what ships with the package"
    folder = tmp_path / "backbone"
    open_model(recipe).backbone.save(folder)
    recipe = parse_recipe(RECIPE, changes=[f"backbone.name={folder}"])
    backbone = open_model(recipe).backbone
    origin = backbone_origin(recipe, backbone)
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"} <= origin.keys()
    assert origin == {name: sha256(folder / name) for name in origin}
    backbone.commit = "a" * 40
    assert backbone_origin(recipe, backbone) == {"commit": "a" * 40}


def test_a_model_of_a_checkpoint_has_the_lengths_that_were_trained_until_then(run):
    found = {}
    for folder in (run / "checkpoints").iterdir():
        model, told = restored_model(folder)
        found[folder.name] = (model.matryoshka, [stage["steps"] for stage in told["stages"].values()])
    whole = (32, 64)
    assert found == {"00000001": ((), [1, 0]), "00000002": (whole, [1, 1]), "00000003": (whole, [1, 2])}


@pytest.mark.parametrize(
    ("working", "home", "said"),
    [("", "elsewhere", "./sets/pairs.jsonl"), ("elsewhere", "", "~/sets/pairs.jsonl"), ("set", "set", None)],
)
def test_a_model_folder_does_not_say_where_the_home_folder_lies(tmp_path, monkeypatch, working, home, said):
    path = tmp_path / "sets" / "pairs.jsonl"
    for name in ("elsewhere", "set"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / working)
    monkeypatch.setenv("HOME", str(tmp_path / home))
    first = RECIPE.split("  - name: contrastive")[0]
    data = f"{{kind: image_text_pairs, path: {path}}}"
    recipe = parse_recipe(first.replace("{kind: scene_pairs, num_pairs: 8}", data))
    told = receipt(recipe, [], {str(path): {"pairs.jsonl": "0"}})
    assert told["recipe"]["stages"][0]["data"][0]["path"] == (said or str(path)), "a longer name is another folder"
    assert list(told["data"]) == [said or str(path)]


def test_a_home_folder_that_is_a_link_and_one_around_the_working_directory_are_not_said_either(tmp_path, monkeypatch):
    (tmp_path / "disk" / "me" / "work").mkdir(parents=True)
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "me"))
    monkeypatch.chdir(tmp_path / "disk")
    assert portable(str(tmp_path / "disk" / "me" / "a"), own_places()) == "~/a"
    assert portable(str(tmp_path / "home" / "me" / "a"), own_places()) == "~/a"
    monkeypatch.chdir(tmp_path / "disk" / "me" / "work")
    assert portable({str(tmp_path / "disk" / "me" / "work" / "a"): 1}, own_places()) == {"./a": 1}


def test_an_older_folder_that_says_where_its_makers_home_lies_is_exported_without(run, tmp_path, monkeypatch):
    shutil.copytree(run / "model", tmp_path / "old")
    card = json.loads((tmp_path / "old" / "cocoa.json").read_text())
    card["receipt"]["data"] = {f"{tmp_path}/mine": {}}
    EmbeddingModel.load(run / "model").save(tmp_path / "again", receipt=card["receipt"])
    monkeypatch.setenv("HOME", str(tmp_path))
    export_model(tmp_path / "again", tmp_path / "new")
    assert str(tmp_path) not in (tmp_path / "new" / "cocoa.json").read_text()


@pytest.mark.parametrize("name", ["~/qwen", "./qwen", "/models/qwen", "a/b/c", "qwen"])
def test_a_backbone_in_a_folder_is_not_said_to_be_on_the_hub(run, tmp_path, name):
    receipt = {"recipe": {"backbone": {"name": name}}}
    EmbeddingModel.load(run / "model").save(tmp_path / "model", receipt=receipt)
    assert "base_model" not in (tmp_path / "model" / "README.md").read_text()


def test_a_run_and_its_model_folder_and_its_last_checkpoint_are_the_same_model(run, tmp_path):
    newest = max((run / "checkpoints").iterdir())
    for number, source in enumerate((run, run / "model", newest)):
        export_model(source, tmp_path / str(number))
        np.testing.assert_array_equal(vectors(tmp_path / str(number)), vectors(run / "model"))
        card = json.loads((tmp_path / str(number) / "cocoa.json").read_text())
        assert card["matryoshka"] == [32, 64]
        assert card["receipt"]["stages"]["contrastive"]["steps"] == 2


def test_a_run_that_was_stopped_within_a_stage_gives_its_model_with_the_adapters_merged(run, stopped, tmp_path):
    assert not (stopped / "model").exists()
    export_model(stopped, tmp_path / "model")
    found = vectors(tmp_path / "model")
    assert np.abs(found - vectors(run / "model")).max() > 1e-6  # one step less
    receipt = json.loads((tmp_path / "model" / "cocoa.json").read_text())["receipt"]
    assert receipt["stages"]["contrastive"]["steps"] == 1
    assert weights(tmp_path / "model").keys() == weights(run / "model").keys()
    # Its adapter had taken one step from the model that the stage before left.
    export_model(stopped / "checkpoints" / "00000001", tmp_path / "before")
    changed = {
        name
        for name, weight in weights(tmp_path / "model").items()
        if not torch.equal(weight, weights(tmp_path / "before")[name])
    }
    assert any(".q_proj." in name for name in changed)
    assert not any("norm" in name for name in changed)


def test_a_folder_of_format_1_becomes_one_of_today(run, tmp_path):
    old = shutil.copytree(run / "model", tmp_path / "old")
    keep = {"model.safetensors", "config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"}
    for path in sorted(old.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
        elif path.name not in keep | {"cocoa.json"} or path.parent != old:
            path.unlink()
    card = json.loads((old / "cocoa.json").read_text())
    for key in ("prompts", "versions", "matryoshka", "normalized"):
        card.pop(key)
    (old / "cocoa.json").write_text(json.dumps(card | {"format": 1}))
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in old.iterdir()}
    (old / MANIFEST).write_text(json.dumps({"files": files}))
    with pytest.raises(CocoaError) as caught:
        EmbeddingModel.load(old)
    assert caught.value.code == "E_MODEL_FORMAT"
    export_model(old, tmp_path / "new")
    np.testing.assert_array_equal(vectors(tmp_path / "new"), vectors(run / "model"))


def test_weights_keep_their_type(run, tmp_path):
    model = EmbeddingModel.load(run / "model")
    for weight in model.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    model.save(tmp_path / "half")
    export_model(tmp_path / "half", tmp_path / "again")
    assert stored_dtype(tmp_path / "again") == torch.bfloat16
    np.testing.assert_array_equal(vectors(tmp_path / "again"), vectors(tmp_path / "half"))


def test_what_is_none_of_these_is_refused_and_nothing_is_overwritten(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CocoaError) as caught:
        export_model(tmp_path / "empty", tmp_path / "out")
    assert caught.value.code == "E_MODEL_MISSING"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(CocoaError) as caught:
        export_model(run, tmp_path / "full")
    assert caught.value.code == "E_USAGE_OUT"
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_the_command_exports_and_pushes(run, tmp_path, monkeypatch):
    calls = []

    class Hub:
        def create_repo(self, repo, **options):
            calls.append(("create_repo", repo, options["private"]))

        def upload_folder(self, *, folder_path, repo_id, **options):
            calls.append(("upload_folder", repo_id, sorted(path.name for path in folder_path.iterdir())))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    done = CliRunner().invoke(app, ["export", str(run), "--out", str(tmp_path / "out"), "--push", "me/owls"])
    assert done.exit_code == 0, done.output
    assert calls[0] == ("create_repo", "me/owls", True)
    assert calls[1][:2] == ("upload_folder", "me/owls")
    assert {"README.md", "cocoa.json", "golden.json", "modules.json"} <= set(calls[1][2])
    wrong = CliRunner().invoke(app, ["export", str(run), "--out", str(tmp_path / "two"), "--public"])
    assert isinstance(wrong.exception, CocoaError)
    assert not (tmp_path / "two").exists()
