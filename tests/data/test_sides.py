"""Sides: which of a picture and its text is read and which is rebuilt."""

from __future__ import annotations

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cocoa.data.image_text_pairs import ImageTextPairs
from cocoa.data.scene_pairs import ScenePairs
from cocoa.data.sides import reordered
from cocoa.errors import RecipeError
from cocoa.recipe import parse_recipe
from cocoa.sample import IMAGE_PLACEHOLDER


@pytest.fixture
def table(tmp_path, picture):
    picture(56, 56).save(tmp_path / "one.png")
    columns = {"image_path": ["one.png", "one.png"], "text": ["a dog, a cat and an owl", "a rose"]}
    pq.write_table(pa.table(columns), tmp_path / "pairs.parquet")
    return tmp_path / "pairs.parquet"


def test_a_pair_as_it_is_stays_what_it_was(table):
    for plain, sided in (
        (ScenePairs(seed=3, num_pairs=9), ScenePairs(seed=3, num_pairs=9, side="image_to_text")),
        (ImageTextPairs(table), ImageTextPairs(table, side="image_to_text")),
    ):
        one, other = plain[1], sided[1]
        assert (one.query.text, one.target) == (other.query.text, other.target)


@pytest.mark.parametrize("side", ["text_to_image", "same_text", "other_text"])
def test_the_sides_of_a_scene_are_of_the_same_scene(side):
    for number in range(20):
        plain = ScenePairs(seed=3, num_pairs=20)[number]
        pair = ScenePairs(seed=3, num_pairs=20, side=side)[number]
        assert pair.query.text == plain.target.text
        assert not pair.query.images
        if side == "text_to_image":
            assert pair.target.text == IMAGE_PLACEHOLDER
            assert pair.target.images[0].tobytes() == plain.query.images[0].tobytes()
        elif side == "same_text":
            assert pair.target.text == pair.query.text
        assert bool(pair.target.images) == (side == "text_to_image")


def test_the_other_text_of_a_scene_names_the_same_things():
    scenes = ScenePairs(seed=3, num_pairs=40, side="other_text")
    things = ScenePairs(seed=3, num_pairs=40, names_only=True)
    pairs = [scenes[number] for number in range(40)]
    for number, pair in enumerate(pairs):
        for name in things[number].target.text.split(", "):
            assert name in pair.query.text
            assert name in pair.target.text
    assert sum(pair.query.text != pair.target.text for pair in pairs) > 30


def test_the_sides_of_a_table(table):
    both = ImageTextPairs(table, side="text_to_image")[0]
    assert (both.query.text, both.target.text) == ("a dog, a cat and an owl", IMAGE_PLACEHOLDER)
    assert both.target.images == ImageTextPairs(table)[0].query.images
    other = ImageTextPairs(table, side="other_text")
    assert other[0].query.text == "a dog, a cat and an owl"
    assert sorted(other[0].target.text.split(", ")) == ["a cat", "a dog", "an owl"]
    assert other[1].target.text == "a rose"
    assert other[0].target == ImageTextPairs(table, side="other_text")[0].target, "and so each time"


def test_the_other_text_does_not_depend_on_where_the_table_lies(table, tmp_path):
    orders = set()
    for name in map(str, range(8)):
        (tmp_path / name).mkdir()
        for path in (table, table.parent / "one.png"):
            shutil.copy(path, tmp_path / name)
        copied = ImageTextPairs(tmp_path / name / table.name, side="other_text")
        orders.add(copied[0].target.text)
    assert len(orders) == 1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a dog, a cat and an owl", {"a dog", "a cat", "an owl"}),
        ("top row: a rose; bottom row: a tree.", {"top row: a rose", "bottom row: a tree"}),
        ("One stop. Two stops!", {"One stop", "Two stops!"}),
    ],
)
def test_another_order_has_the_same_parts(text, parts):
    found = reordered(text)
    assert set(found.split(", ")) == parts
    assert found != ", ".join(part for part in text.replace(" and ", ", ").split(", "))
    assert not text.startswith(found.split(", ")[0]), "two of three parts or two of two have moved"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{kind: scene_pairs, num_pairs: 9, side: same_text, questions: 0.5}", "set questions to 0"),
        ("{kind: scene_pairs, num_pairs: 9, side: other_text, names_only: true}", "needs captions"),
        ("{kind: scene_pairs, num_pairs: 9, side: text}", "did you mean 'same_text'"),
    ],
)
def test_a_side_that_has_no_meaning_is_refused(source, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(f"""
name: one
backbone: {{name: nano-untrained}}
stages:
  - {{name: light, layout: bidirectional, objectives: [{{kind: bridged_text, rate: 0.5}}], data: [{source}],
      steps: 1, batch_size: 4, learning_rate: 1.0}}
""")
