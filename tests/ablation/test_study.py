"""A study says what is done: arms are recipes, and what has no effect is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from studying import TEXT

from cocoa.ablation.job import Job
from cocoa.ablation.links import chain_of, places_of
from cocoa.ablation.study import load_study
from cocoa.errors import RecipeError

STUDIES = sorted((Path(__file__).resolve().parents[2] / "studies").glob("*.yaml"))


def load(tmp_path, text=TEXT, *changes):
    (tmp_path / "study.yaml").write_text(text)
    return load_study(tmp_path / "study.yaml", changes)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_every_study_that_is_shipped_is_one(path):
    study = load_study(path)
    # Ideas that stand beside another study's arms have no such arm of their own; at equal cost it is a longer one.
    assert study.baseline in ("contrastive-only", "contrastive-long") or path.name == "nano-ideas-2.yaml"
    job = Job(study, Path("none"), folder=path.parent)
    assert len({trial.path for trial in job.tuning()}) == len(job.tuning())


def test_the_full_study_has_the_arms_and_seeds_that_the_protocol_names():
    study = load_study(STUDIES[0].with_name("nano-full.yaml"))
    assert len(study.seeds) >= 5
    assert study.before == ("naming", "captioner"), "seeds differ from the backbone on"
    protocol = STUDIES[0].parents[1].joinpath("docs", "study.md").read_text()
    for arm in study.arms:
        assert f"`{arm.name}`" in protocol


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("baseline: plain", "baseline: best", "baseline 'best' is no arm"),
        ("stages: [contrastive]}", "stages: [contrast]}", "no stage 'contrast'"),
        ("stages: [warm-up, light, contrastive]", "stages: [warm-up, contrastive]", "stage 'light' has no effect"),
        ("- {name: short}", "- {name: short, drop: [contrastiv]}", "budget short drops 'contrastiv', which no arm has"),
        (
            "  warm-up:\n",
            "  warm-up:\n    name: other\n",
            "arm light, budget short: stage 'warm-up' is given the name 'other'",
        ),
        ("{name: short}", "{name: short, set: [stages.contrastive.name=other]}", "in a study its key is its name"),
        ("seeds: [7]", "seeds: [1]", "seeds of tuning must not be seeds of the study"),
        ("tuning: {trials: 2, seeds: [7]}", "", "only together"),
        (
            "path: generated/validation, only: [scene_cls_seen]",
            "path: generated/scenes, held_out: {share: 0.3}",
            """stage 'contrastive' may train on what is tuned by; give its data held_out: {"share":0.3,"seed":0}""",
        ),
        ("only: [scene_cls_seen, scene_i2t_combo]", "held_out: {share: 0.3}", "held_out is of validation"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "a seed is listed twice"),
        ("{name: short}", "{name: long}", "budget names must differ"),
        ("rate: 0.7", "rate: 7", "arm light, budget short: stages.1.objectives.0.rate"),
        ("stages.contrastive.steps=3", "stages.contrast.steps=3", "arm plain, budget long"),
        ("equal: flops", "equal: time", "equal"),
        ("probes: false", "probe: false", "probe: unknown option; did you mean 'probes'?"),
        ("pooling: {kind: mean}", "pooling: {kind: mean, tokens: 3}", "averages all tokens"),
    ],
)
def test_a_wrong_study_is_refused_by_name(tmp_path, old, new, message):
    assert old in TEXT
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, TEXT.replace(old, new, 1))
    assert message in str(caught.value)


HELD_OUT = TEXT.replace(
    "path: generated/validation, only: [scene_cls_seen]", "path: generated/scenes, held_out: {share: 0.3}"
).replace("path: generated/scenes}]\n    steps", "path: generated/scenes, held_out: {share: 0.3}}]\n    steps")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "{name: short}",
            '{name: short, set: ["stages.contrastive.data=[{kind: mmeb_train, path: generated/scenes}]"]}',
            "arm plain, budget short: stage 'contrastive' may train on what is tuned by",
        ),
        (
            "title: light decoder}",
            "set: [stages.contrastive.data.0.held_out.seed=1]}",
            "arm light, budget short: stage 'contrastive' may train on what is tuned by",
        ),
        ("held_out: {share: 0.3}}]\n    steps", "held_out: 0.3}]\n    steps", "stages.0.data.0.held_out"),
        (
            "data: [{kind: mmeb_train, path: generated/scenes, held_out: {share: 0.3}}]",
            "data: {kind: mmeb_train, path: generated/scenes, held_out: {share: 0.3}}",
            "arm plain, budget short: stages.0.data",
        ),
        (
            "data: [{kind: mmeb_train, path: generated/scenes, held_out: {share: 0.3}}]",
            "data:",
            "arm plain, budget short: stages.0.data",
        ),
    ],
)
def test_what_is_tuned_by_is_trained_on_under_no_budget_and_by_no_arm(tmp_path, old, new, message):
    load(tmp_path, HELD_OUT)
    assert old in HELD_OUT
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, HELD_OUT.replace(old, new, 1))
    assert message in str(caught.value)


def test_a_budget_drops_no_stage_that_makes_the_backbone(tmp_path):
    text = TEXT.replace("baseline: plain", "before: [warm-up]\nbaseline: plain").replace("[warm-up, ", "[")
    load(tmp_path, text)
    with pytest.raises(RecipeError, match="budget short drops 'warm-up', which no arm has"):
        load(tmp_path, text.replace("{name: short}", "{name: short, drop: [warm-up]}"))


def test_a_set_that_the_study_draws_is_one_in_a_change_too(tmp_path):
    study = load(
        tmp_path,
        TEXT.replace("{name: short}", "{name: short, set: [stages.contrastive.data.0.path=generated/validation]}"),
    )
    recipe = study.recipe(study.arms[0], study.budgets[0], 0, folder=tmp_path, data=tmp_path / "out" / "generated")
    assert recipe.stages[0].data[0].path == tmp_path / "out" / "generated" / "validation"


def test_a_change_of_the_command_line_is_read_as_in_the_file(tmp_path):
    assert load(tmp_path, TEXT, "seeds=[4]").seeds == (4,)
    with pytest.raises(RecipeError, match="takes an option of the study"):
        load(tmp_path, TEXT, "seed=4")


def links(study, arm, tmp_path, budget=0, seed=0):
    recipe = study.recipe(study.arm(arm), study.budgets[budget], seed, folder=tmp_path, data=tmp_path / "generated")
    return [link.address for link in chain_of(recipe, num_before=0, places={str(tmp_path): "."}).chain]


def test_arms_share_what_they_begin_with_and_nothing_else(tmp_path):
    study = load(tmp_path)
    plain, light, mean = (links(study, arm, tmp_path) for arm in ("plain", "light", "mean"))
    assert light[0] == mean[0], "the warm-up does not know how the arm will pool"
    assert len({*plain, *light, *mean}) == 5
    assert links(study, "light", tmp_path, budget=1)[:2] == light[:2]
    assert links(study, "light", tmp_path, budget=1)[2] != light[2]
    assert not set(links(study, "light", tmp_path, seed=1)) & set(light)


def test_an_address_says_what_is_trained_and_not_where(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    found = []
    for folder in (here, there):
        folder.mkdir()
        found.append(links(load(folder), "light", folder))
    assert found[0] == found[1]


def test_tuning_looks_at_rows_that_are_held_out_of_training(tmp_path):
    study = load(tmp_path, HELD_OUT)
    job = Job(study, tmp_path / "out", folder=tmp_path)
    job.draw_sets()
    asked = {question.query.key for task in job.tasks("tuning") for question in task.questions}
    [source] = study.recipe(study.arms[0], study.budgets[0], 0, folder=tmp_path, data=job.data).stages[0].data
    pairs = source.build()
    assert asked
    assert not asked & {pairs[number].query.key for number in range(len(pairs))}


def test_an_address_is_the_same_wherever_the_project_and_its_data_beside_it_lie(tmp_path):
    def address(home):
        folder = home / "project" / "studies"
        recipe = load(tmp_path).recipe(
            load(tmp_path).arms[0], load(tmp_path).budgets[0], 0, folder=folder, data=home / "out" / "generated"
        )
        [stage] = recipe.stages
        [source] = stage.data
        source = source.model_copy(update={"path": home / "shared" / "data"})
        recipe = recipe.model_copy(update={"stages": (stage.model_copy(update={"data": (source,)}),)})
        return chain_of(recipe, num_before=0, places=places_of(home / "out" / "generated", folder)).address

    assert address(tmp_path / "one") == address(tmp_path / "another" / "deeper")
