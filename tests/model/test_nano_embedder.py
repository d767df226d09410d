"""The embedding model that ships: it opens, it is what its recipe makes, and it scores what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripts.make_nano_embedder import RECIPE, REFERENCE, TEST_SCENES

from cocoa import Embedder
from cocoa.data.mmeb_eval import read_tasks
from cocoa.data.scene_tasks import write_scene_tasks
from cocoa.evaluation.runner import evaluate
from cocoa.files import read_manifest, sha256
from cocoa.recipe import load_recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shipped():
    return Embedder.load("nano-embedder", device="cpu")


def test_it_is_said_to_be_what_the_recipe_in_the_project_makes(shipped):
    receipt = json.loads((shipped.folder / "cocoa.json").read_text())["receipt"]
    own = load_recipe(RECIPE).model_dump(mode="json")
    for stage, made in zip(own["stages"], receipt["recipe"]["stages"], strict=True):
        for data in stage["data"]:
            if "path" in data:
                data["path"] = "./" + str(Path(data["path"]).relative_to(ROOT))
        assert made == stage
        assert receipt["stages"][stage["name"]]["steps"] == stage["steps"]
    assert receipt["recipe"]["seed"] == own["seed"]


def test_its_card_opens_it_by_the_name_that_everybody_has(shipped):
    card = (shipped.folder / "README.md").read_text()
    assert 'Embedder.load("nano-embedder")' in card
    assert shipped.address == "nano-embedder"
    assert sha256(shipped.folder / "README.md") == read_manifest(shipped.folder)["README.md"]["sha256"]


def test_it_scores_what_is_said_of_it(shipped, tmp_path):
    kept = json.loads(REFERENCE.read_text())
    write_scene_tasks(tmp_path / "tests", **TEST_SCENES)
    found = evaluate(shipped.model, read_tasks(tmp_path / "tests"), name="shipped").to_dict()
    rates = {name: task["hit_at_1"] for name, task in found["tasks"].items()}
    # Another processor rounds otherwise, and a near tie may turn: one question in a hundred of a table.
    assert rates == pytest.approx(kept["tasks"], abs=0.0101)
    said = " ".join((ROOT / "README.md").read_text().split())
    assert f"hit@1 {100 * kept['summary']['overall']:.1f} on the tables above" in said


def test_a_folder_of_that_name_is_nearer_than_what_ships(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano-embedder").mkdir()
    with pytest.raises(ValueError, match=r"cocoa\.json"):
        Embedder.load("nano-embedder")
