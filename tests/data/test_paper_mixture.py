"""The paper's recipes and those beyond it: all 20 subsets of MMEB-train, under their caps, in an order that stays."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cocoa.data.image_text_pairs import ImageTextPairs
from cocoa.data.mmeb_v1 import TASKS
from cocoa.data.sources import ImageTextPairsSource, MmebTrainSource
from cocoa.recipe import Recipe, Stage, load_recipe
from cocoa.training.setup import open_data

EVERY = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("cocoa-*.yaml"))
PLUS = [path for path in EVERY if path.stem.endswith("-plus")]
PAPER = [path for path in EVERY if path not in PLUS]
SUBSETS = {task.train_name or name for name, task in TASKS.items() if task.split == "ind"}
CAPS = {"warm-up": 20_000, "bridge": 20_000, "free-pairs": 20_000, "contrastive": 100_000}
ROWS = 5


def subset_names(stage: Stage) -> list[str]:
    """The subsets that a stage's data names, in order."""
    names: list[str] = []
    for source in stage.data:
        if isinstance(source, ImageTextPairsSource):
            names.append(source.path.parent.name)
        elif isinstance(source, MmebTrainSource):
            names += source.subsets or [source.path.name]
    return names


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipes and, beside them, five rows of each subset as `cocoa synthesize` and the hub have them."""
    project = tmp_path_factory.mktemp("project")
    (project / "recipes").mkdir()
    for path in EVERY:
        shutil.copy(path, project / "recipes")
    data = project / "data"
    images = ["images/one.png"] * ROWS
    for name in SUBSETS:
        texts = [f"{name} {number}" for number in range(ROWS)]
        pairs = {"qry": texts, "qry_image_path": images, "pos_text": texts, "pos_image_path": [""] * ROWS}
        tables = {
            data / "captions" / name / "captions.parquet": {"image_path": images, "text": texts},
            data / "questions" / name / "questions.parquet": pairs,
            data / "MMEB-train" / name / "original-00000-of-00001.parquet": pairs,
        }
        for path, columns in tables.items():
            path.parent.mkdir(parents=True)
            pq.write_table(pa.table(columns), path)
            if path.parts[-3] != "MMEB-train":
                (path.parent / "images").mkdir()
                Image.new("RGB", (30, 30)).save(path.parent / "images" / "one.png")
    (data / "MMEB-train" / "images").mkdir()
    Image.new("RGB", (30, 30)).save(data / "MMEB-train" / "images" / "one.png")
    return project


def words(recipe: Recipe, stage: Stage, count: int) -> list[str]:
    mixture = open_data(recipe, stage)
    return [mixture.pair(position).target.text for position in range(count)]


def test_there_are_20_subsets_and_a_recipe_of_each_published_model() -> None:
    assert len(SUBSETS) == 20
    assert len(PAPER) == len(PLUS) == 3


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_every_stage_names_all_20_subsets_under_their_cap(path: Path) -> None:
    for stage in load_recipe(path).stages:
        assert Counter(subset_names(stage)) == Counter(SUBSETS), stage.name
        assert {source.limit for source in stage.data} == {CAPS[stage.name]}  # type: ignore[union-attr]
        assert {source.weight for source in stage.data} == {1.0}


@pytest.mark.parametrize("recipes", [PAPER, PLUS], ids=["paper", "plus"])
def test_the_three_recipes_mix_alike(recipes: list[Path]) -> None:
    first, *others = [[stage.data for stage in load_recipe(path).stages] for path in recipes]
    assert all(other == first for other in others)


@pytest.mark.parametrize("path", PLUS, ids=lambda path: path.stem)
def test_a_recipe_beyond_the_paper_ends_in_the_papers_stage_and_sees_as_many_pairs_before_it(path: Path) -> None:
    own, paper = load_recipe(path), load_recipe(path.with_name(path.name.replace("-plus", "")))
    assert own.stages[-1] == paper.stages[-1]
    alike = {"name", "stages"}
    assert own.model_dump(exclude=alike) == paper.model_dump(exclude=alike)
    [free] = own.stages[:-1]
    assert free.steps * free.batch_size == sum(stage.steps * stage.batch_size for stage in paper.stages[:-1])
    sides = Counter(source.side for source in free.data if isinstance(source, ImageTextPairsSource))
    assert sides == {"image_to_text": 20}
    assert [objective.kind for objective in free.objectives] == ["contrastive"]


def test_pairs_beyond_the_paper_are_pictures_with_their_captions(project: Path) -> None:
    recipe = load_recipe(project / "recipes" / PLUS[0].name)
    mixture = open_data(recipe, recipe.stages[0])
    pairs = [mixture.pair(position) for position in range(20 * ROWS)]
    assert mixture.epoch_size == len(pairs)
    assert all(pair.query.images for pair in pairs)
    assert not any(pair.target.images for pair in pairs)


@pytest.mark.parametrize("number", range(3))
def test_an_epoch_has_every_row_once_in_the_same_order_each_time(project: Path, number: int) -> None:
    recipe = load_recipe(project / "recipes" / PAPER[0].name)
    stage = recipe.stages[number]
    epoch = words(recipe, stage, 20 * ROWS)
    assert sorted(epoch) == sorted(f"{name} {row}" for name in SUBSETS for row in range(ROWS))
    assert words(load_recipe(project / "recipes" / PAPER[0].name), stage, 20 * ROWS) == epoch
    assert words(recipe.model_copy(update={"seed": 1}), stage, 20 * ROWS) != epoch


@pytest.mark.parametrize("number", range(3))
def test_the_cap_is_one_of_each_subset(project: Path, number: int) -> None:
    recipe = load_recipe(project / "recipes" / PAPER[0].name)
    stage = recipe.stages[number]
    data = tuple(source.model_copy(update={"limit": 2}) for source in stage.data)
    capped = words(recipe, stage.model_copy(update={"data": data}), 40)
    assert Counter(text.rpartition(" ")[0] for text in capped) == dict.fromkeys(SUBSETS, 2)


def test_a_weight_takes_less_of_one_subset(project: Path) -> None:
    recipe = load_recipe(project / "recipes" / PAPER[0].name)
    stage = recipe.stages[0]
    first = stage.data[0].model_copy(update={"weight": 0.4})
    mixture = open_data(recipe, stage.model_copy(update={"data": (first, *stage.data[1:])}))
    assert isinstance(first, ImageTextPairsSource) and isinstance(first.build(), ImageTextPairs)
    assert mixture.epoch_size == 20 * ROWS - 3
