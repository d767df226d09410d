"""Recipes: what is written is what is run, and what cannot be run is refused in words."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest

from cocoa.errors import RecipeError
from cocoa.recipe import Recipe, differences, load_recipe, parse_recipe

RECIPES = sorted((Path(__file__).resolve().parents[1] / "recipes").glob("*.yaml"))

TEXT = """
name: test-run
seed: 3
backbone: {name: nano-untrained}
max_tokens: 64
stages:
  - name: warm-up
    layout: bidirectional
    objectives: [{kind: masked_text, rate: 0.2}, {kind: masked_patch, fill: zero}]
    data: [{kind: scene_pairs, seed: 1, num_pairs: 100}]
    steps: 10
    batch_size: 4
    learning_rate: 1e-3
  - name: bridge
    layout: eos_bridge
    objectives: [{kind: masked_text, rate: 0.7, roles: [target]}]
    data: [{kind: image_text_pairs, path: pairs.parquet}, {kind: scene_pairs, num_pairs: 7}]
    steps: 10
    batch_size: 4
    learning_rate: 0.0005
    schedule: cosine
    warmup_steps: 3
  - name: contrastive
    layout: bidirectional
    objectives: [{kind: contrastive, temperature: 0.05}]
    data: [{kind: mmeb_train, path: mmeb, limit: 5}]
    steps: 10
    batch_size: 4
    learning_rate: 1.0e-4
"""


def refused(text: str, *changes: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, where="run.yaml", changes=changes)
    assert caught.value.exit_code == 2
    return caught.value


def test_a_recipe_is_read_as_it_is_written() -> None:
    recipe = parse_recipe(TEXT)
    assert (recipe.name, recipe.seed, recipe.max_tokens) == ("test-run", 3, 64)
    warm_up, bridge, contrastive = recipe.stages
    assert [objective.kind for objective in warm_up.objectives] == ["masked_text", "masked_patch"]
    assert (warm_up.objectives[0].rate, warm_up.objectives[0].roles) == (0.2, ("context", "target"))
    assert (warm_up.objectives[1].rate, warm_up.objectives[1].fill, warm_up.objectives[1].weight) == (0.5, "zero", 0.5)
    assert bridge.objectives[0].roles == ("target",)
    assert (bridge.schedule, bridge.warmup_steps) == ("cosine", 3)
    assert [source.kind for source in bridge.data] == ["image_text_pairs", "scene_pairs"]
    assert contrastive.objectives[0].temperature == 0.05


def test_writing_and_reading_gives_the_same_recipe() -> None:
    recipe = parse_recipe(TEXT)
    again = parse_recipe(recipe.to_yaml())
    assert again == recipe
    assert again.to_yaml() == recipe.to_yaml()
    assert "weight_decay: 0.0" in recipe.to_yaml(), "defaults are written out"


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse_recipe(TEXT).seed = 4


@pytest.mark.parametrize(
    ("spelled", "value"),
    [("1e-3", 1e-3), ("1E-3", 1e-3), ("2.5e2", 250.0), (".5e-1", 0.05), ("0.001", 0.001), ("1", 1)],
)
def test_numbers_are_read_as_people_write_them(spelled: str, value: float) -> None:
    recipe = parse_recipe(TEXT.replace("learning_rate: 1e-3", f"learning_rate: {spelled}"))
    assert recipe.stages[0].learning_rate == value


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 3", "sede: 3", "sede: unknown option; did you mean 'seed'?"),
        ("learning_rate: 1e-3", "learnign_rate: 1e-3", "stages.0.learnign_rate: unknown option; did you mean 'learn"),
        ("fill: zero", "fil: zero", "stages.0.objectives.1.fil: unknown option; did you mean 'fill'?"),
        ("limit: 5", "limt: 5", "stages.2.data.0.limt: unknown option; did you mean 'limit'?"),
        ("name: nano-untrained", "name: nano, atention: sdpa", "backbone.atention: unknown option; did you mean 'att"),
        ("temperature: 0.05", "zzz: 1", "stages.2.objectives.0.zzz: unknown option; known: dimensions, kind, temper"),
        ("steps: 10", "steps: ten", "stages.0.steps: input should be a valid integer (got 'ten')"),
        ("steps: 10", "steps: 10.0", "stages.0.steps: input should be a valid integer"),
        ("seed: 3", "seed: '3'", "seed: input should be a valid integer"),
        ("seed: 3", f"seed: {2**70}", "seed: input should be less than 18446744073709551616"),
        ("seed: 3", f"seed: {-(2**63) - 1}", "seed: input should be greater than or equal to -9223372036854775808"),
        ("temperature: 0.05", "dimensions: [8, 4, 8]", "stages.2.objectives.0: a dimension is listed twice"),
        ("seed: 3", "seed: true", "seed: input should be a valid integer"),
        ("learning_rate: 1e-3", "learning_rate: '1e-3'", "stages.0.learning_rate: input should be a valid number"),
        ("rate: 0.2", "rate: 1.2", "stages.0.objectives.0.rate: input should be less than or equal to 1 (got 1.2)"),
        ("rate: 0.2", "rate: 0", "stages.0.objectives.0.rate: input should be greater than 0"),
        ("steps: 10", "steps: 0", "stages.0.steps: input should be greater than 0"),
        ("max_tokens: 64", "max_tokens: 15", "max_tokens: input should be greater than or equal to 16"),
        ("layout: eos_bridge", "layout: bridge", "stages.1.layout: unknown 'bridge'; did you mean 'eos_bridge'?"),
        ("fill: zero", "fill: grey", "stages.0.objectives.1.fill: unknown 'grey'; known: noise, shared_noise, zero"),
        ("roles: [target]", "roles: []", "stages.1.objectives.0.roles"),
        ("kind: contrastive", "kind: contrast", "objectives.0.kind: unknown 'contrast'; did you mean 'contrastive'?"),
        ("{kind: masked_text, rate: 0.2}", "{rate: 0.2}", "stages.0.objectives.0.kind: is missing"),
        ("seed: 3", "seed: .nan", "seed"),
        ("seed: 3", "machine: {rank_timeout: 10000000000}", "machine.rank_timeout: input should be less than or equal"),
        ("    steps: 10\n", "", "stages.0.steps: is missing"),
        ("{kind: masked_text, rate: 0.2}", "{kind: masked_text}", "stages.0.objectives.0.rate: is missing"),
        ("name: test-run\n", "", "name: is missing"),
        ("name: test-run", "name: Test Run", "name"),
        ("schedule: cosine", "warmup_steps: 2", "key 'warmup_steps' twice"),
        ("seed: 3", "name: other", "key 'name' twice"),
        ("layout: eos_bridge", "layout: [", "not YAML"),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_refused_by_name(old: str, new: str, message: str) -> None:
    assert old in TEXT
    error = refused(TEXT.replace(old, new, 1))
    assert message in str(error)
    assert str(error).startswith("run.yaml: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stages.contrastive.layout=eos_bridge", "no effect on contrastive"),
        ("stages.contrastive.layout=eos_bridge_encoder", "no effect on contrastive"),
        ("stages.bridge.objectives=[{kind: next_token}]", "next_token needs layout causal"),
        (
            "stages.bridge.objectives=[{kind: masked_text, rate: 0.7}]",
            "must say where words are hidden: roles: [target]",
        ),
        ("stages.0.objectives=[{kind: next_token}]", "next_token needs layout causal"),
        ("stages.0.objectives=[{kind: masked_text, rate: 0.1}, {kind: masked_text, rate: 0.2}]", "listed twice"),
        ("stages.0.objectives=[]", "stages.0.objectives: needs at least 1, has 0"),
        ("stages.0.data=[]", "at least 1"),
        ("stages=[]", "at least 1"),
        ("stages.0.warmup_steps=10", "warmup_steps 10 must be below steps 10"),
        ("pooling.tokens=64", "pooling.tokens 64 must be below max_tokens 64"),
        ("stages.0.name=bridge", "stage names must differ"),
        ("stages.contrastive.batch_size=1", "no effect with batch_size 1"),
        ("stages.0.learning_rate=.inf", "finite number"),
        ("max_bad_rate=.nan", "finite number"),
    ],
)
def test_what_contradicts_itself_is_refused(change: str, message: str) -> None:
    assert message in str(refused(TEXT, change))


def test_mixed_rows_are_refused_in_a_causal_stage_too() -> None:
    objectives = "stages.0.objectives=[{kind: next_token}, {kind: masked_text, rate: 0.2}]"
    assert "need different rows" in str(refused(TEXT, "stages.0.layout=causal", objectives))


def test_a_reconstruction_and_a_contrast_may_share_a_stage() -> None:
    recipe = parse_recipe(TEXT, changes=["stages.0.objectives=[{kind: contrastive}, {kind: masked_patch}]"])
    assert [objective.kind for objective in recipe.stages[0].objectives] == ["contrastive", "masked_patch"]


def test_all_that_is_wrong_is_said_at_once() -> None:
    error = refused(TEXT, "stages.0.steps=0", "stages.1.batch_size=-1", "seeds=3")
    for part in ("stages.0.steps", "stages.1.batch_size", "seeds: unknown option; did you mean 'seed'?"):
        assert part in str(error)


@pytest.mark.parametrize("text", ["", "- a\n", "just words", "3"])
def test_what_is_no_mapping_is_no_recipe(text: str) -> None:
    assert refused(text).code == "E_RECIPE_YAML"


@pytest.mark.parametrize(
    "text",
    [
        "? [a, b]\n: 1\n",
        "? {a: b}\n: 1\n",
        "name: &it\n  inside: *it\n",
        "name: " + "[" * 5000 + "]" * 5000,
        "name: 2026-13-45\n",
        "name: " + "9" * 6000,
        "name: \0",
        "name: !!int ''",
        "name: !!bool maybe",
        "!!map [1]",
    ],
    ids=[
        "a list as a key", "a mapping as a key", "inside itself", "deep", "no day", "a long number", "no character",
        "an empty number", "no truth", "no mapping",
    ],
)  # fmt: skip
def test_what_no_recipe_is_written_as_is_refused_and_not_a_crash(text: str) -> None:
    assert refused(text).code == "E_RECIPE_YAML"


@pytest.mark.parametrize("line", ["&{} [{}]", "&{} {{<<: [{}]}}"], ids=["lists", "merges"])
def test_a_few_lines_that_stand_for_billions_of_values_are_refused_at_once(line: str) -> None:
    names = [f"a{number}" for number in range(12)]
    bomb = f"a0: {line.format('a0', '')}\n" if "<<" not in line else "a0: &a0 {x: 1}\n"
    for before, name in pairwise(names):
        bomb += f"{name}: {line.format(name, ', '.join([f'*{before}'] * 9))}\n"
    start = time.process_time()
    assert refused(bomb).code == "E_RECIPE_YAML"
    assert time.process_time() - start < 2


def test_a_value_that_no_recipe_has_is_refused() -> None:
    assert refused(TEXT.replace("seed: 3", "seed: 2026-01-01")).code == "E_RECIPE_TYPE"


def test_words_of_ones_own_are_taken() -> None:
    words = {"query/text": "Which shoe is it? {text}", "sizes/query/both": "<|image_1|>\nWhich size? {text}"}
    recipe = parse_recipe(f"{TEXT}\nprompts: {json.dumps(words)}\n")
    assert recipe.prompts == words
    assert parse_recipe(recipe.to_yaml()) == recipe
    assert parse_recipe(TEXT).prompts == {}
    assert parse_recipe(TEXT, changes=["prompts.query/text='Which? {text}'"]).prompts == {"query/text": "Which? {text}"}
    assert differences(recipe, parse_recipe(TEXT))


@pytest.mark.parametrize(
    ("key", "words", "said"),
    [
        ("query", "{text}", "'query' is not"),
        ("Query/text", "{text}", "'Query/text' is not"),
        ("query/sound", "{text}", "'query/sound' is not"),
        ("a/b/query/text", "{text}", "is not"),
        ("query/text", "<|image_1|> {text}", "a text has no picture"),
        ("query/image", "<|image_1|> {text}", "a picture has no text"),
        ("query/both", "<|image_1|> {text} <|image_1|>", "more than once"),
        ("query/both", "{text} {text}", "more than once"),
        ("document/both", "<|image_2|> {text}", "no other name"),
    ],
)
def test_words_that_no_input_fits_into_are_refused(key: str, words: str, said: str) -> None:
    error = refused(f"{TEXT}\nprompts: {json.dumps({key: words})}\n")
    assert error.code == "E_RECIPE_OPTION"
    assert said in error.message


def test_options_are_set_by_index_and_by_name() -> None:
    recipe = parse_recipe(
        TEXT,
        changes=[
            "stages.0.steps=11",
            "stages.contrastive.learning_rate=2e-3",
            "stages.warm-up.objectives.masked_patch.rate=0.3",
            "stages.bridge.data.1.num_pairs=9",
            "stages.bridge.objectives.0.roles=[context, target]",
            "stages.bridge.weight_decay=0.1",
            "backbone.max_pixels=9999",
            "name=other",
        ],
    )
    warm_up, bridge, contrastive = recipe.stages
    assert warm_up.steps == 11
    assert contrastive.learning_rate == 2e-3
    assert warm_up.objectives[1].rate == 0.3
    assert bridge.data[1].num_pairs == 9
    assert bridge.objectives[0].roles == ("context", "target")
    assert bridge.weight_decay == 0.1, "an option that the file leaves at its default"
    assert (recipe.backbone.max_pixels, recipe.name) == (9999, "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stage.0.steps=3", "the recipe has no 'stage'; did you mean 'stages'?"),
        ("stages.warmup.steps=3", "no 'warmup' among warm-up, bridge, contrastive"),
        ("stages.3.steps=3", "no '3' among"),
        ("stages.-1.steps=3", "no '-1' among"),
        ("seed.deeper=3", "'seed' has no options in it"),
        ("name.a.b=3", "'name' has no options in it"),
        ("stages", "--set takes key.key=value"),
        ("=3", "--set takes key.key=value"),
        ("stages..steps=3", "--set takes key.key=value"),
        ("seed=[", "not YAML"),
        ("seed=2026-13-45", "not YAML: '2026-13-45'"),
        ("seed=" + "9" * 6000, "not YAML: '999"),
        ("seed=" + "[" * 5000 + "]" * 5000, "not YAML: '[[["),
        ("seed=&it [*it]", "not YAML"),
        ("stages." + "9" * 6000 + ".steps=1", "among warm-up, bridge, contrastive"),
    ],
)
def test_a_change_of_what_is_not_there_is_refused(change: str, message: str) -> None:
    error = refused(TEXT, change)
    assert message in str(error)
    assert error.code == "E_RECIPE_SET"


def test_a_change_to_an_unknown_option_is_refused() -> None:
    assert "stages.0.stps: unknown option; did you mean 'steps'?" in str(refused(TEXT, "stages.0.stps=3"))


def test_a_drawing_of_a_stage_has_what_stands_in_its_rows() -> None:
    assert [stage.letters for stage in parse_recipe(TEXT).stages] == ["AABB", "AAeBB", "AAe"]


def test_a_wrong_change_is_not_said_of_the_file() -> None:
    assert str(refused(TEXT, "stages.warm-up.stps=3")).startswith("--set stages.warm-up.stps=3: stages.0.stps: unknown")
    assert str(refused(TEXT.replace("seed: 3", "seed: x"), "stages.warm-up.stps=3")).startswith("run.yaml: ")


def test_relative_paths_are_meant_from_the_recipes_folder(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(TEXT.replace("name: nano-untrained", "name: ../models/mine"))
    recipe = load_recipe(tmp_path / "run.yaml")
    assert recipe.stages[1].data[0].path == tmp_path.resolve() / "pairs.parquet"
    assert recipe.backbone.name == str((tmp_path / ".." / "models" / "mine").resolve())
    assert parse_recipe(recipe.to_yaml(), folder=tmp_path / "elsewhere") == recipe, "resolved once, it stays"


def test_how_attention_is_computed_may_change_when_a_run_is_resumed() -> None:
    recipe = parse_recipe(TEXT)
    assert recipe.backbone.attention == "split"
    other = recipe.model_copy(update={"backbone": recipe.backbone.model_copy(update={"attention": "sdpa"})})
    assert differences(recipe, other) == []
    assert "attention" in str(refused(TEXT.replace("name: nano-untrained", "name: nano-untrained, attention: fast")))


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: no such readable file \[E_RECIPE_FILE\]"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_that_ships_is_read(path: Path) -> None:
    recipe = load_recipe(path)
    assert isinstance(recipe, Recipe)
    assert parse_recipe(recipe.to_yaml()) == recipe


def test_there_are_recipes() -> None:
    assert RECIPES
