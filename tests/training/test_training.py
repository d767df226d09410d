"""Training: it learns, repeats itself bit for bit, adds up, and stops where it must."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from make_golden_losses import GOLDEN, losses, make_recipe, save_backbone
from torch import Tensor

from cocoa.backbones import Backbone
from cocoa.backbones.nano import new_nano, train_tokenizer
from cocoa.batch import Batch
from cocoa.errors import TrainingError, UsageError
from cocoa.layouts import LAYOUTS
from cocoa.model import EmbeddingModel
from cocoa.objectives import View
from cocoa.objectives.masked_patch import HiddenPatches
from cocoa.objectives.masked_text import HiddenText
from cocoa.recipe import Recipe, Stage, parse_recipe
from cocoa.sample import Pair, Sample
from cocoa.training.batches import EncodedPairs, encode_pairs
from cocoa.training.loop import train
from cocoa.training.schedule import learning_rate
from cocoa.training.step import joined_batch, run_step

Tiny = Callable[..., Backbone]
MakeSample = Callable[..., Sample]

STAGES = {
    "warm-up": ("bidirectional", "[{kind: masked_text, rate: 0.2}, {kind: masked_patch}]"),
    "bridge": ("eos_bridge", "[{kind: masked_text, rate: 0.7, roles: [target]}]"),
    "contrastive": ("bidirectional", "[{kind: contrastive}]"),
    "captioner": ("causal", "[{kind: next_token}]"),
}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def make_stage(name: str) -> Stage:
    layout, objectives = STAGES[name]
    return parse_recipe(f"""
name: one
backbone: {{name: nano-untrained}}
stages:
  - {{name: {name}, layout: {layout}, objectives: {objectives}, data: [{{kind: scene_pairs, num_pairs: 9}}],
      steps: 1, batch_size: 4, learning_rate: 1.0}}
""").stages[0]


def make_pairs(backbone: Backbone, sample: MakeSample) -> EncodedPairs:
    return encode_pairs(
        backbone,
        [
            Pair(sample("what is this", (56, 56)), sample("a red apple stands left of a blue bird")),
            Pair(sample("a dog"), sample("two cats and a dog sleep on the green grass")),
            Pair(sample("", (84, 56)), sample("an owl in the middle")),
            Pair(sample("<|image_1|> How many birds are there?", (56, 84)), sample("two"), (sample("three"),)),
        ],
    )


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_learns_one_batch_by_heart(tiny: Tiny, sample: MakeSample, name: str) -> None:
    torch.manual_seed(0)
    stage = make_stage(name)
    model = EmbeddingModel(tiny(hidden_size=64), layout=stage.layout)
    pairs = make_pairs(model.backbone, sample)
    objectives = [options.build(model.backbone) for options in stage.objectives]
    weights = [*model.parameters(), *(weight for objective in objectives for weight in objective.parameters())]
    optimiser = torch.optim.Adam(weights, lr=3e-3)
    history = []
    for _ in range(60):
        result = run_step(model, stage, objectives, pairs, torch.Generator().manual_seed(1))
        history.append(result.losses)
        optimiser.zero_grad()
        result.total.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
    for kind in history[0]:
        first, last = history[0][kind], history[-1][kind]
        assert first > 0.5, "there was something to learn"
        assert last < 0.05 * first, (kind, first, last)


def test_an_objective_adds_its_weighted_mean(tiny: Tiny, sample: MakeSample) -> None:
    stage = make_stage("warm-up")
    model = EmbeddingModel(tiny())
    objectives = [options.build(model.backbone) for options in stage.objectives]
    result = run_step(model, stage, objectives, make_pairs(model.backbone, sample), torch.Generator())
    assert result.losses.keys() == {"masked_text", "masked_patch"}
    expected = result.losses["masked_text"] + 0.5 * result.losses["masked_patch"]
    assert result.total.item() == pytest.approx(expected, rel=1e-6)


def test_a_shared_stage_does_not_depend_on_the_order_of_its_objectives(tiny: Tiny, sample: MakeSample) -> None:
    model = EmbeddingModel(tiny(), layout="causal")
    pairs = make_pairs(model.backbone, sample)
    stage = make_stage("captioner")
    both = [*stage.objectives, *make_stage("contrastive").objectives]
    found = []
    for options in (both, both[::-1]):
        stage = stage.model_copy(update={"objectives": tuple(options)})
        objectives = [one.build(model.backbone) for one in options]
        found.append(run_step(model, stage, objectives, pairs, torch.Generator()).losses)
    assert found[0] == found[1]


def halves(batch: Batch, backbone: Backbone) -> list[Batch]:
    control = backbone.text.control
    middle = len(batch.input_ids) // 2
    patches = 4 * int((batch.input_ids[:middle] == control.image).sum())
    pictures = int((batch.input_ids[:middle] == control.vision_start).sum())
    assert 0 < pictures < len(batch.image_grid_thw)
    return [
        batch.replace(
            input_ids=batch.input_ids[rows],
            roles=batch.roles[rows],
            kinds=batch.kinds[rows],
            position_ids=batch.position_ids[:, rows],
            bridge=batch.bridge[rows],
            pixel_values=batch.pixel_values[of_patches],
            image_grid_thw=batch.image_grid_thw[of_pictures],
        )
        for rows, of_patches, of_pictures in (
            (slice(None, middle), slice(None, patches), slice(None, pictures)),
            (slice(middle, None), slice(patches, None), slice(pictures, None)),
        )
    ]


def part(hidden: HiddenText | HiddenPatches, rows: slice) -> HiddenText | HiddenPatches:
    """Returns what was hidden in some rows."""
    number = torch.zeros_like(hidden.places, dtype=torch.long)
    number[hidden.places] = torch.arange(int(hidden.places.sum()))
    kept = number[rows][hidden.places[rows]]
    content = {name: value[kept] for name, value in vars(hidden).items() if name != "places"}
    return replace(hidden, places=hidden.places[rows], **content)


@pytest.mark.parametrize("name", ["warm-up", "bridge", "captioner"])
def test_sums_and_counts_of_two_halves_add_up(tiny: Tiny, sample: MakeSample, name: str) -> None:
    stage = make_stage(name)
    model = EmbeddingModel(tiny())
    batch = joined_batch(model, stage, make_pairs(model.backbone, sample))
    generator = torch.Generator().manual_seed(0)
    objectives = [options.build(model.backbone) for options in stage.objectives]
    hidden = []
    for objective in objectives:
        batch, parts = objective.hide(batch, generator)
        hidden.append(parts)

    def view(some: Batch) -> View:
        allowed = LAYOUTS[stage.layout].allowed(some.roles)
        return View(model.backbone, some, allowed, model.states(some, allowed))

    with torch.no_grad():
        whole = view(batch)
        views = [view(half) for half in halves(batch, model.backbone)]
        for objective, parts in zip(objectives, hidden, strict=True):
            expected = objective.loss(whole, parts)
            found = [
                objective.loss(some, part(parts, rows))
                for some, rows in zip(views, (slice(None, 2), slice(2, None)), strict=True)
            ]
            assert expected.count == found[0].count + found[1].count
            assert min(loss.count for loss in found) > 0
            assert expected.sum.item() == pytest.approx(sum(loss.sum.item() for loss in found), rel=1e-5)


@pytest.fixture(scope="module")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden") / "backbone"
    save_backbone(folder)
    return folder


def short(recipe: Recipe, seed: int = 5) -> Recipe:
    stages = tuple(stage.model_copy(update={"steps": 3}) for stage in recipe.stages)
    return recipe.model_copy(update={"stages": stages, "seed": seed})


def run(recipe: Recipe, out: Path) -> tuple[list[str], dict[str, Tensor]]:
    model, log = train(recipe, out)
    numbers = [float(loss).hex() for record in log.records for loss in record["losses"].values()]
    return numbers, model.state_dict()


def test_the_same_recipe_gives_the_same_losses_and_weights_to_the_bit(backbone_folder: Path, tmp_path: Path) -> None:
    recipe = short(make_recipe(backbone_folder))
    (one, weights), (two, again) = run(recipe, tmp_path / "one"), run(recipe, tmp_path / "two")
    assert one == two
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    other, _ = run(short(recipe, seed=6), tmp_path / "other")
    assert len(other) == len(one)
    assert other != one


def test_losses_are_what_they_have_always_been(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    found = losses(tmp_path)
    assert len(found) == len(golden) == 20
    for step, (now, then) in enumerate(zip(found, golden, strict=True)):
        assert now == pytest.approx(then, rel=1e-5), f"step {step}"


def test_a_run_leaves_recipe_numbers_and_a_model_that_gives_the_same_vectors(
    backbone_folder: Path, sample: MakeSample, tmp_path: Path
) -> None:
    recipe = short(make_recipe(backbone_folder))
    seen: list[tuple[str, int]] = []
    model, log = train(
        recipe, tmp_path / "run", on_step=lambda stage, record: seen.append((stage.name, record["step"]))
    )
    assert seen == [(name, step) for name in ("warm-up", "bridge", "contrastive") for step in range(3)]
    assert parse_recipe((tmp_path / "run" / "recipe.yaml").read_text()) == recipe
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == log.records
    again = EmbeddingModel.load(tmp_path / "run" / "model")
    encoded = [model.backbone.encode(sample("a red apple", (60, 80)))]
    with torch.no_grad():
        assert torch.equal(again.embed_all(encoded), model.embed_all(encoded))
    assert again.layout == "bidirectional"


def test_each_stage_changes_the_model_and_goes_on_from_the_one_before(backbone_folder: Path, tmp_path: Path) -> None:
    ends: list[Tensor] = []
    name = "backbone.stock.model.language_model.layers.1.mlp.up_proj.weight"
    recipe = short(make_recipe(backbone_folder))
    train(
        recipe,
        tmp_path / "all",
        on_stage_end=lambda stage, model, objectives: ends.append(model.state_dict()[name].clone()),
    )
    assert len(ends) == 3
    assert not torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[1], ends[2])
    first, _ = train(recipe.model_copy(update={"stages": recipe.stages[:1]}), tmp_path / "first")
    assert torch.equal(first.state_dict()[name], ends[0])


def test_a_contrastive_stage_is_trained_under_its_own_layout(backbone_folder: Path, tmp_path: Path) -> None:
    recipe = short(make_recipe(backbone_folder))
    last = recipe.stages[2]
    causal = last.model_copy(update={"layout": "causal"})
    later = last.model_copy(update={"name": "later"})
    _, alone = train(recipe.model_copy(update={"stages": (causal,)}), tmp_path / "alone")
    _, followed = train(recipe.model_copy(update={"stages": (causal, later)}), tmp_path / "followed")
    _, other = train(recipe.model_copy(update={"stages": (last,)}), tmp_path / "other")
    assert followed.records[0]["losses"] == alone.records[0]["losses"]
    assert followed.records[0]["losses"] != other.records[0]["losses"]


def test_a_loss_that_is_no_number_stops_the_run_and_names_its_rows(tmp_path: Path) -> None:
    text = train_tokenizer(["a red apple"], vocab_size=300)
    backbone = new_nano(text, hidden_size=32, num_layers=2, vision_size=32, num_vision_layers=1)
    with torch.no_grad():
        backbone.stock.model.language_model.norm.weight.fill_(float("nan"))
    backbone.save(tmp_path / "backbone")
    with pytest.raises(
        TrainingError, match=r"loss is nan at step 0 of stage warm-up; rows: generated pair \d+"
    ) as caught:
        train(make_recipe(tmp_path / "backbone"), tmp_path / "run")
    assert caught.value.code == "E_TRAINING_DIVERGED"
    assert not (tmp_path / "run" / "model").exists()
    assert (tmp_path / "run" / "recipe.yaml").is_file()


def test_a_folder_with_anything_in_it_is_not_trained_into(backbone_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError) as caught:
        train(make_recipe(backbone_folder), tmp_path)
    assert caught.value.code == "E_USAGE_OUT"
    assert caught.value.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("cosine", [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447]),
    ],
)
def test_the_learning_rate_rises_and_falls(schedule: str, expected: list[float]) -> None:
    rates = [learning_rate(step, steps=6, warmup_steps=2, peak=1.0, schedule=schedule) for step in range(6)]
    assert rates == pytest.approx(expected, abs=1e-6)
