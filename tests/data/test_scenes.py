"""Generated scenes: what they say of themselves is true, has one meaning, and splits keep apart."""

from __future__ import annotations

import random
from collections import Counter
from importlib import resources

import pytest

from cocoa.data import emoji_sheet
from cocoa.data.emoji_sheet import drawing, things
from cocoa.data.scene_pairs import ScenePairs
from cocoa.data.scene_splits import draw_scene, has_held_out, held_out, seen_things, unseen_things
from cocoa.data.scenes import GROUNDS, NUMBERS, PLACES, Item, Scene, article, sample_scene
from cocoa.errors import UsageError
from cocoa.sample import IMAGE_PLACEHOLDER

THREE = Scene(
    "blue",
    (
        Item("dog face", "top left", (2, 2, 34, 34)),
        Item("cat face", "top right", (44, 4, 78, 38)),
        Item("grapes", "bottom right", (45, 46, 80, 81)),
    ),
)
ALONE = Scene("orange", (Item("owl", "middle", (25, 25, 59, 59)),))


def test_the_sheet_is_small_and_matches_its_list() -> None:
    asset = resources.files("cocoa") / "assets" / "emoji.webp"
    assert len(asset.read_bytes()) <= 4_000_000
    sheet = emoji_sheet._sheet()
    assert 200 <= len(things()) == len(set(things())) <= 300
    rows = -(-len(things()) // sheet.columns)
    assert sheet.picture.size == (sheet.columns * sheet.cell, rows * sheet.cell)
    for name in things():
        assert name == " ".join(name.split()) and 1 <= len(name.split()) <= 3
        assert name.replace(" ", "").isalnum() and name == name.lower()
        box = drawing(name, sheet.cell).getchannel("A").getbbox()
        assert box and max(box[2] - box[0], box[3] - box[1]) >= sheet.cell - 2
    assert not set(things()) & {*GROUNDS, *NUMBERS, *PLACES}


def test_an_unknown_thing_is_an_error() -> None:
    with pytest.raises(UsageError, match="no drawing of 'dogg'"):
        drawing("dogg", 32)


def test_a_scene_shows_its_items_on_its_ground() -> None:
    picture = THREE.render()
    assert (picture.mode, picture.size) == ("RGB", (84, 84))
    assert picture.crop((0, 42, 42, 84)).getcolors() == [(42 * 42, GROUNDS["blue"])]
    for item in THREE.items:
        assert len(picture.crop(item.box).getcolors(10_000) or []) > 20


def test_relations_are_those_of_neighbours() -> None:
    assert set(THREE.relations()) == {
        ("dog face", "left of", "cat face"),
        ("cat face", "right of", "dog face"),
        ("cat face", "above", "grapes"),
        ("grapes", "below", "cat face"),
    }
    assert ALONE.relations() == []


def test_questions_of_a_known_scene() -> None:
    assert set(THREE.questions()) == {
        ("what is left of the cat face?", "dog face"),
        ("what is right of the dog face?", "cat face"),
        ("what is above the grapes?", "cat face"),
        ("what is below the cat face?", "grapes"),
        ("what is in the top left?", "dog face"),
        ("what is in the top right?", "cat face"),
        ("what is in the bottom right?", "grapes"),
        ("where is the dog face?", "top left"),
        ("where is the cat face?", "top right"),
        ("where is the grapes?", "bottom right"),
        ("what colour is the ground?", "blue"),
        ("how many things are there?", "three"),
    }
    assert {ALONE.ask(random.Random(seed)) for seed in range(50)} == set(ALONE.questions())


def test_expressions_of_a_known_scene() -> None:
    assert dict(THREE.expressions()) == {
        "the dog face": 0,
        "the cat face": 1,
        "the grapes": 2,
        "the thing in the top left": 0,
        "the thing in the top right": 1,
        "the thing in the bottom right": 2,
        "the thing left of the cat face": 0,
        "the thing right of the dog face": 1,
        "the thing above the grapes": 1,
        "the thing below the cat face": 2,
    }


def test_captions_of_known_scenes() -> None:
    captions = {THREE.caption(random.Random(seed)) for seed in range(400)}
    assert "a dog face left of a cat face and some grapes in the bottom right on a blue ground" in captions
    assert "some grapes below a cat face and a dog face in the top left, blue ground" in captions
    assert "on a blue ground, bottom row: grapes; top row: dog face, cat face" in captions
    assert not any("grapes above" in caption or "cat face left of" in caption for caption in captions)
    assert {ALONE.caption(random.Random(seed)) for seed in range(100)} >= {
        "an owl on an orange ground",
        "on an orange ground, an owl in the middle",
        "one thing: an owl, orange ground",
    }


@pytest.mark.parametrize("pixels", [28, 84, 85, 112])
def test_texts_and_boxes_of_random_scenes(pixels: int) -> None:
    for index in range(100):
        scene = draw_scene(5, "pretrain", "any", index, pixels=pixels)
        assert len(set(scene.names)) == len(scene.items)
        for item in scene.items:
            left, top, right, bottom = item.box
            assert 0 <= left < right <= pixels and 0 <= top < bottom <= pixels
            assert right - left == bottom - top
        for first in scene.items:
            for second in scene.items:
                apart = first.box[2] <= second.box[0] or first.box[3] <= second.box[1]
                assert first is second or apart or second.box[2] <= first.box[0] or second.box[3] <= first.box[1]
        at = {item.name: item.box for item in scene.items}
        for thing, relation, other in scene.relations():
            low, high = sorted(
                (thing, other), key=lambda name: at[name][0 if relation in ("left of", "right of") else 1]
            )
            assert (low, high) == ((thing, other) if relation in ("left of", "above") else (other, thing))
        caption = scene.caption(random.Random(index))
        assert caption == caption.lower() and len(caption.split()) <= 25
        assert all(name in caption for name in (*scene.names, scene.ground))
        # One answer to a question, one item to a phrase.
        assert max(Counter(question for question, _ in scene.questions()).values()) == 1
        assert max(Counter(phrase for phrase, _ in scene.expressions()).values()) == 1


def test_articles() -> None:
    for said in ("an owl", "a unicorn face", "a european castle", "some grapes", "an octopus", "a wine glass"):
        assert article(said.partition(" ")[2]) == said


def test_a_scene_depends_on_seed_split_series_and_index_alone() -> None:
    forward = [draw_scene(1, "train", "any", index) for index in range(20)]
    assert [draw_scene(1, "train", "any", index) for index in reversed(range(20))] == forward[::-1]
    assert [scene.render().tobytes() for scene in forward[:3]] == [
        draw_scene(1, "train", "any", index).render().tobytes() for index in range(3)
    ]
    for other in (draw_scene(2, "train", "any", 0), draw_scene(1, "seen", "any", 0), draw_scene(1, "train", "many", 0)):
        assert other != forward[0]


def test_every_fourth_thing_is_unseen_and_a_fifth_of_combinations_is_held_out() -> None:
    seen, unseen = seen_things(128), unseen_things(128)
    assert (len(seen), len(unseen)) == (96, 32) and not set(seen) & set(unseen)
    assert unseen == things()[3:128:4]
    pairs = [(first, second) for first in seen for second in seen if first < second]
    assert all(held_out(first, second) == held_out(second, first) for first, second in pairs[:200])
    assert 0.17 < sum(held_out(*pair) for pair in pairs) / len(pairs) < 0.23


def test_split_rules_hold() -> None:
    unseen = set(unseen_things(128))
    train = [draw_scene(0, "train", "any", index) for index in range(500)]
    for index, scene in enumerate(train):
        assert not unseen & set(scene.names) and not has_held_out(scene.names)
        assert not has_held_out(draw_scene(0, "seen", "many", index).names)
        combination = draw_scene(0, "combo", "any", index)
        assert not unseen & set(combination.names) and has_held_out(combination.names)
        assert set(draw_scene(0, "unseen", "any", index).names) <= unseen
    assert {len(scene.items) for scene in train} == {1, 2, 3, 4}
    assert {name for scene in train for name in scene.names} == set(seen_things(128))
    turns = Counter(draw_scene(0, "train", "one", index).names for index in range(192))
    assert set(turns.values()) == {2}
    assert not set(train) & {draw_scene(0, "seen", "any", index) for index in range(500)}
    everything = [draw_scene(0, "pretrain", "any", index).names for index in range(500)]
    assert {name for names in everything for name in names} == set(things()[:128])
    assert any(has_held_out(names) for names in everything)


def test_pairs_describe_or_ask() -> None:
    captions = ScenePairs(seed=3, num_pairs=20)
    assert len(captions) == 20
    for index in range(20):
        pair = captions[index]
        assert pair.query.text == f"{IMAGE_PLACEHOLDER}\n"
        scene = draw_scene(3, "pretrain", "any", index)
        assert all(name in pair.target.text for name in scene.names)
        assert pair.query.images[0] == scene.render() and pair.target.images == ()
        assert pair.query.key == captions[index].query.key
    asked = ScenePairs(seed=3, num_pairs=20, questions=1.0)
    for index in range(20):
        pair = asked[index]
        start, question, end = pair.query.text.split("\n")
        assert (start, end) == (IMAGE_PLACEHOLDER, "")
        assert (question, pair.target.text) in draw_scene(3, "pretrain", "any", index).questions()
    mixed = ScenePairs(seed=3, num_pairs=200, questions=0.25)
    assert 25 < sum("?" in mixed[index].query.text for index in range(200)) < 75
    with pytest.raises(IndexError):
        captions[20]


def test_wrong_use_is_an_error() -> None:
    with pytest.raises(UsageError, match="num_things"):
        ScenePairs(seed=0, num_pairs=1, num_things=8)
    with pytest.raises(UsageError, match="rate"):
        ScenePairs(seed=0, num_pairs=1, questions=20.0)
    with pytest.raises(UsageError, match="pixels"):
        ScenePairs(seed=0, num_pairs=1, pixels=8)
    with pytest.raises(UsageError, match="5 of"):
        sample_scene(random.Random(0), things(), max_items=5)
    with pytest.raises(UsageError, match="stand together"):
        sample_scene(random.Random(0), things(), accept=lambda names: False)
