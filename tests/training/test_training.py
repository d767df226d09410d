"""Training: it learns, repeats itself bit for bit, adds up, and stops where it must."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from make_golden_losses import GOLDEN, losses, make_recipe, save_backbone
from stages import ALONE, LARGE, STAGES, assert_equal_gradients, calm_backbone, encoded, gradients, make_pairs, ready
from stages import make_recipe as make_recipe_of
from torch import Tensor

from cocoa.backbones import Backbone
from cocoa.backbones.nano import new_nano, train_tokenizer
from cocoa.errors import CocoaError, TrainingError, UsageError
from cocoa.model import EmbeddingModel
from cocoa.prompts import PROMPTS
from cocoa.recipe import Recipe, parse_recipe
from cocoa.sample import Sample
from cocoa.training import loop, sanity
from cocoa.training.batches import encode_pair, join
from cocoa.training.loop import train
from cocoa.training.sanity import Effects
from cocoa.training.schedule import learning_rate
from cocoa.training.setup import open_data, open_model, set_up, stage_seed
from cocoa.training.step import backward_step
from cocoa.training.tally import Tally
from making import make_picture

Tiny = Callable[..., Backbone]
MakeSample = Callable[..., Sample]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


# No target of these pairs has a picture to paint.
@pytest.mark.parametrize("name", sorted(STAGES.keys() - {"joint-patches"}))
def test_each_stage_learns_one_batch_by_heart(tiny: Tiny, sample: MakeSample, name: str) -> None:
    torch.manual_seed(0)
    setup = ready(tiny(hidden_size=64), make_recipe_of(name))
    pairs = encoded(setup.trainee.model.backbone, make_pairs(sample)[:4])
    weights = list(setup.trainee.trained.values())
    optimiser = torch.optim.Adam(weights, lr=3e-3)
    history = []
    for _ in range(60):
        optimiser.zero_grad()
        history.append(backward_step(setup.trainee, pairs, ALONE, LARGE, seed=1).losses)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
    for kind in history[0]:
        first, last = history[0][kind], history[-1][kind]
        assert first > 0.5, "there was something to learn"
        assert last < 0.05 * first, (kind, first, last)


def test_gradients_and_the_optimisers_numbers_are_gone_when_shares_are_put_together(
    sample: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then a rank holds the whole model beside its share: what else it held might be too much."""
    recipe = make_recipe_of("contrastive")
    setup = ready(calm_backbone(), recipe)
    gradients(setup, make_pairs(sample))
    setup.optimiser.step()
    setup.trainee.is_sharded = True
    opened = []

    def opening(*given: object, **others: object) -> EmbeddingModel:
        assert not setup.optimiser.state
        assert all(weight.grad is None for weight in setup.trainee.parameters())
        opened.append(EmbeddingModel(calm_backbone()))
        return opened[-1]

    monkeypatch.setattr(loop, "open_model", opening)
    run = loop._Run(recipe, tmp_path, ALONE, None, None, loop._quiet)
    model, _ = run._finish(setup, setup.trainee.model.backbone.grid, recipe.stages[0])
    assert [model] == opened
    for one, other in zip(model.parameters(), setup.trainee.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("extra", "kinds"),
    [
        ("freeze_vision: false", ("norm", "bias", "embed_tokens.weight")),
        ("adapter: {dropout: 0.0}", ("mask_row", "lora_magnitude_vector")),
    ],
    ids=["whole", "dora"],
)
def test_weight_decay_pulls_on_matrices_alone(extra: str, kinds: tuple[str, ...]) -> None:
    """Without any gradient nothing else moves a weight."""
    setup = ready(calm_backbone(), make_recipe_of("warm-up", f"weight_decay: 0.5, {extra}"))
    trained = setup.trainee.trained
    before = {name: weight.detach().clone() for name, weight in trained.items()}
    for group in setup.optimiser.param_groups:
        group["lr"] = 0.1
    for weight in trained.values():
        weight.grad = torch.zeros_like(weight)
    setup.optimiser.step()
    pulled = {name for name, weight in trained.items() if not torch.equal(weight, before[name])}
    for name in pulled:
        assert torch.allclose(trained[name], 0.95 * before[name])
    for name, weight in trained.items():
        spared = weight.ndim < 2 or "embed_tokens" in name or "pos_embed" in name
        assert (name in pulled) == (not spared and bool(before[name].any())), name
    assert all(any(kind in name for name in trained) for kind in kinds)
    assert sum(len(group["params"]) for group in setup.optimiser.param_groups) == len(trained)


def test_a_run_is_adamw_written_out(backbone_folder: Path, tmp_path: Path) -> None:
    """The slow version: gradients of each step's pairs, clipped together, and AdamW at the schedule's rate, float64."""
    options = {"steps": 5, "warmup_steps": 2, "schedule": "cosine", "learning_rate": 1e-3}
    options |= {"weight_decay": 5.0, "max_grad_norm": 0.2}
    recipe = make_recipe(backbone_folder)
    recipe = recipe.model_copy(update={"stages": (recipe.stages[0].model_copy(update=options),)})
    [stage] = recipe.stages
    model, log = train(recipe, tmp_path / "run")

    setup = set_up(open_model(recipe, torch.device("cpu")), recipe, stage, sharded=False)
    trainee, mixture = setup.trainee, open_data(recipe, stage)
    trainee.train()
    mean, square = ({name: torch.zeros_like(weight).double() for name, weight in trainee.trained.items()} for _ in "mv")
    for step, record in enumerate(log.records):
        numbers = list(range(step * stage.batch_size, (step + 1) * stage.batch_size))
        pairs = join([encode_pair(trainee.model.backbone, mixture.pair(number)) for number in numbers], numbers)
        trainee.zero_grad()
        backward_step(trainee, pairs, ALONE, recipe.machine, stage_seed(recipe.seed, stage.name))
        norm = sum(float(weight.grad.double().square().sum()) for weight in trainee.trained.values()) ** 0.5
        assert record["gradient_norm"] == pytest.approx(norm, rel=1e-5)
        assert norm > stage.max_grad_norm
        rate = 1e-3 * (0.5, 1.0, 1.0, 0.75, 0.25)[step]
        assert record["learning_rate"] == pytest.approx(rate)
        for name, weight in trainee.trained.items():
            gradient = weight.grad.double() * stage.max_grad_norm / norm
            mean[name] = 0.9 * mean[name] + 0.1 * gradient
            square[name] = 0.999 * square[name] + 0.001 * gradient**2
            first, second = mean[name] / (1 - 0.9 ** (step + 1)), square[name] / (1 - 0.999 ** (step + 1))
            decay = 5.0 if weight.ndim > 1 and "embed_tokens" not in name else 0.0
            weight.data = (weight.data * (1 - rate * decay) - rate * first / (second.sqrt() + 1e-8)).float()
    slow, moved = trainee.model.state_dict(), open_model(recipe, torch.device("cpu")).state_dict()
    for name, weight in model.state_dict().items():
        assert (weight - slow[name]).abs().max() <= 1e-3 * (weight - moved[name]).abs().max(), name


def test_an_objective_adds_its_weighted_mean(sample: MakeSample) -> None:
    recipe = make_recipe_of("warm-up")
    text, patch = recipe.stages[0].objectives
    pairs = make_pairs(sample)
    found = []
    for weight in (0.5, 2.0, 4.0):
        stage = recipe.stages[0].model_copy(update={"objectives": (text, patch.model_copy(update={"weight": weight}))})
        found.append(gradients(ready(calm_backbone(), recipe.model_copy(update={"stages": (stage,)})), pairs)[1])
    half, double, four = found
    # Gradients are linear in the weight: 2 lies 1.5 of the 3.5 from 0.5 to 4.
    assert_equal_gradients({k: half[k] + (four[k] - half[k]) * (1.5 / 3.5) for k in half}, double, 1e-5)


def test_a_shared_stage_does_not_depend_on_the_order_of_its_objectives(sample: MakeSample) -> None:
    pairs = make_pairs(sample)
    recipe = make_recipe_of("captioner")
    both = [*recipe.stages[0].objectives, *make_recipe_of("contrastive").stages[0].objectives]
    found = []
    for options in (both, both[::-1]):
        stage = recipe.stages[0].model_copy(update={"objectives": tuple(options)})
        found.append(gradients(ready(calm_backbone(), recipe.model_copy(update={"stages": (stage,)})), pairs))
    (one, first), (two, second) = found
    assert one.losses == two.losses
    assert len(one.losses) == 2
    assert_equal_gradients(first, second)


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


def test_the_words_of_the_recipe_are_those_of_the_model_and_the_others_stay_as_they_were(tmp_path: Path) -> None:
    words = {"query/text": "Which shoe? {text}"}
    recipe = make_recipe_of("contrastive").model_copy(update={"prompts": words})
    stage = recipe.stages[0].model_copy(update={"steps": 1, "warmup_steps": 0})
    train(recipe.model_copy(update={"stages": (stage,)}), tmp_path / "run")
    assert EmbeddingModel.load(tmp_path / "run" / "model", self_test=False).prompts == PROMPTS | words


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ("objectives=[{kind: contrastive, dimensions: [8, 32]}]", "E_RECIPE_OPTION", "dimension 32 is not below"),
        ("max_pixels=100", "E_MODEL_PIXELS", "is above max_pixels 100"),
        ("sub_batch=4", "E_DATA_SUB_BATCH", "fewer than one sub-batch"),
    ],
)
def test_what_a_later_stage_cannot_do_is_refused_before_the_first_is_trained(
    backbone_folder: Path, tmp_path: Path, change: str, code: str, message: str
) -> None:
    recipe = make_recipe(backbone_folder)
    text = recipe.to_yaml()
    name = recipe.stages[2].name
    changes = [f"stages.{name}.{change}"]
    if code == "E_DATA_SUB_BATCH":
        few = "{kind: scene_pairs, num_pairs: 1}"
        changes += [f"stages.{name}.data=[{few}, {few}]", f"stages.{name}.batch_size=4"]
    with pytest.raises(CocoaError, match=message) as caught:
        train(parse_recipe(text, changes=changes), tmp_path / "run")
    assert caught.value.code == code
    assert f"stage {name}" in caught.value.where
    assert not (tmp_path / "run").exists()


TEXTS_ALONE = """
name: texts
backbone: {name: nano-untrained}
max_tokens: 64
stages:
  - name: warm-up
    layout: bidirectional
    objectives: [{kind: masked_text, rate: 0.2}, {kind: masked_patch}]
    data: [{kind: image_text_pairs, path: texts.jsonl, side: same_text}]
    steps: 3
    batch_size: 2
    learning_rate: 1e-3
    schedule: constant
"""


@pytest.mark.parametrize("steps", [3, 120])
def test_an_objective_that_never_has_anything_to_predict_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    monkeypatch.setattr(sanity, "MOST_IDLE_STEPS", 5)
    make_picture(56, 56).save(tmp_path / "a.png")
    rows = "".join(f'{{"image_path": "a.png", "text": "a red apple {n}"}}\n' for n in range(8))
    (tmp_path / "texts.jsonl").write_text(rows)
    recipe = parse_recipe(TEXTS_ALONE, folder=tmp_path, changes=[f"stages.0.steps={steps}"])
    with pytest.raises(TrainingError, match="masked_patch has had nothing to predict") as caught:
        train(recipe, tmp_path / "run")
    assert caught.value.code == "E_TRAINING_NO_EFFECT"
    assert caught.value.where == "stage warm-up"
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == min(steps, 5) - 1


def test_pictures_may_be_rare() -> None:
    def step(text: int, patches: int) -> Tally:
        tally = Tally()
        tally.add("masked_text", 1.0, text)
        tally.add("masked_patch", 1.0, patches)
        return tally

    effects = Effects("warm-up", 1000)
    effects.check(step(3, 1))
    for _ in range(1000):
        effects.check(step(3, 0))
    # A checkpoint that does not say what came before it may have had the only picture.
    resumed = Effects("warm-up", 1000)
    resumed.restore(None)
    for _ in range(1000):
        resumed.check(step(3, 0))


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
