"""A stage that rebuilds words of targets leaves out rows whose target is a picture: they have the instruction alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from make_golden_losses import save_backbone

from cocoa.data.sources import MmebTrainSource
from cocoa.errors import RecipeError
from cocoa.recipe import Recipe, parse_recipe
from cocoa.training.loop import train
from cocoa.training.setup import num_left_out, open_data
from making import make_picture

TEXT = """
name: picture-targets
backbone: {{name: "{folder}/backbone"}}
max_tokens: 48
stages:
  - name: stage
    layout: {layout}
    objectives: [{objective}]
    data: [{{kind: mmeb_train, path: "{folder}/{table}"}}]
    steps: 2
    batch_size: 2
    learning_rate: 1e-4
"""
MASKED = "{kind: masked_text, rate: 0.7, roles: [target]}"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with three rows to texts and two to pictures, and a table of the latter alone."""
    folder = tmp_path_factory.mktemp("targets")
    save_backbone(folder / "backbone")
    make_picture(56, 56).save(folder / "a.png")
    to_text = [{"qry": f"q {n}", "qry_image_path": "", "pos_text": f"p {n}", "pos_image_path": ""} for n in range(3)]
    said = "<|image_1|>\nRepresent the given image."
    to_picture = [row | {"pos_text": said, "pos_image_path": "a.png"} for row in to_text[:2]]
    for name, rows in {"mixed": [*to_picture[:1], *to_text, *to_picture[1:]], "pictures": to_picture}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe_of(home: Path, layout: str = "eos_bridge", objective: str = MASKED, table: str = "mixed.jsonl") -> Recipe:
    return parse_recipe(TEXT.format(folder=home, layout=layout, objective=objective, table=table))


@pytest.mark.parametrize(
    ("layout", "objective"), [("eos_bridge", MASKED), ("bidirectional", "{kind: bridged_text, rate: 0.7}")]
)
def test_they_are_left_out_where_words_of_targets_are_rebuilt(home: Path, layout: str, objective: str) -> None:
    recipe = recipe_of(home, layout, objective)
    mixture = open_data(recipe, recipe.stages[0])
    assert {mixture.pair(place).target.text for place in range(mixture.epoch_size)} == {"p 0", "p 1", "p 2"}
    assert (mixture.epoch_size, num_left_out(mixture)) == (3, 2)


@pytest.mark.parametrize(
    ("layout", "objective"),
    [
        ("bidirectional", "{kind: contrastive, temperature: 0.2}"),
        ("bidirectional", "{kind: masked_text, rate: 0.2}"),
        ("bidirectional", "{kind: contrastive, temperature: 0.2}, {kind: bridged_text, rate: 0.7}"),
        ("eos_bridge", MASKED + ", {kind: masked_patch}"),
    ],
)
def test_they_stay_where_there_is_more_to_learn(home: Path, layout: str, objective: str) -> None:
    recipe = recipe_of(home, layout, objective)
    mixture = open_data(recipe, recipe.stages[0])
    assert (mixture.epoch_size, num_left_out(mixture)) == (5, 0)


def test_training_says_how_many(home: Path, tmp_path: Path) -> None:
    said: list[str] = []
    train(recipe_of(home), tmp_path / "run", say=said.append)
    assert said == ["stage stage: 2 pairs whose target is a picture are left out: it has no words to rebuild"]


def test_a_table_of_nothing_else_is_refused_before_training(home: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="stage stage: all targets are pictures") as caught:
        train(recipe_of(home, table="pictures.jsonl"), tmp_path / "run")
    assert caught.value.code == "E_RECIPE_OPTION"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("rate", "num_good", "num_pictures", "num_bad"), [(0.03, 3, 36, 1), (0.29, 71, 0, 29)])
def test_the_share_of_bad_rows_is_the_same_at_opening_and_in_training(
    home: Path, tmp_path: Path, rate: float, num_good: int, num_pictures: int, num_bad: int
) -> None:
    row = {"qry": "q", "qry_image_path": "", "pos_text": "p", "pos_image_path": ""}
    picture = row | {"pos_text": "<|image_1|>", "pos_image_path": "a.png"}
    make_picture(56, 56).save(tmp_path / "a.png")
    rows = [row] * num_good + [picture] * num_pictures + [row | {"qry": 7}] * num_bad
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = recipe_of(home, table="rows.jsonl").model_copy(update={"max_bad_rate": rate})
    stage = recipe.stages[0].model_copy(update={"data": (MmebTrainSource(path=table),)})
    _, log = train(recipe.model_copy(update={"stages": (stage,)}), tmp_path / "run")
    assert len(log.records) == 2
