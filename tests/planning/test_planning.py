"""Planning: what it counts is what training would read, hold and compute; and it warns of what will not go well."""

from __future__ import annotations

import json
from pathlib import Path
from weakref import WeakSet

import pytest
import torch
from PIL import Image
from torch import Tensor

from cocoa.backbones import Backbone, open_backbone
from cocoa.errors import UsageError
from cocoa.images import DEFAULT_LIMITS, open_rgb, picture_size
from cocoa.model import EmbeddingModel
from cocoa.planning import costs as costs_module
from cocoa.planning import devices as devices_module
from cocoa.planning import plan as plan_module
from cocoa.planning import rehearsal, tracing
from cocoa.planning.costs import Costs
from cocoa.planning.devices import open_device
from cocoa.planning.lengths import measure_pair, positions, sample_pairs
from cocoa.planning.passes import Pass, Step, step_of
from cocoa.planning.plan import Plan, plan
from cocoa.planning.show import show
from cocoa.planning.standin import Depth, stand_in
from cocoa.planning.tracing import trace
from cocoa.recipe import Recipe, parse_recipe
from cocoa.sample import Pair, Sample
from cocoa.training.setup import open_data, set_up

STAGES = {
    "warm-up": ("bidirectional", "[{kind: masked_text, rate: 0.2}, {kind: masked_patch}]"),
    "bridge": ("eos_bridge", "[{kind: masked_text, rate: 0.7, roles: [target]}]"),
    "contrastive": ("bidirectional", "[{kind: contrastive}]"),
    "captioner": ("causal", "[{kind: next_token}]"),
}
SCENES = "[{kind: scene_pairs, num_pairs: 400}]"
TWO = "[{kind: scene_pairs, num_pairs: 200}, {kind: scene_pairs, seed: 1, num_pairs: 200}]"


def make_recipe(
    *names: str, extra: str = "", options: str = "", data: str = SCENES, batch_size: int = 6, steps: int = 20
) -> Recipe:
    text = f"name: one\nbackbone: {{name: nano}}\n{extra}\nstages:\n"
    for name in names:
        layout, objectives = STAGES[name]
        text += (
            f"  - {{name: {name}, layout: {layout}, objectives: {objectives}, data: {data}, steps: {steps},"
            f" batch_size: {batch_size}, learning_rate: 1e-3, {options}}}\n"
        )
    return parse_recipe(text)


def make_passes(recipe: Recipe, backbone: Backbone, size: int = 6) -> list[Pass]:
    return make_step(recipe, backbone, size).passes


def make_step(recipe: Recipe, backbone: Backbone, size: int = 6, device: str = "cpu") -> Step:
    stage = recipe.stages[0]
    model = EmbeddingModel(backbone, layout=stage.layout, max_tokens=recipe.max_tokens)
    pairs = sample_pairs(model, stage, open_data(recipe, stage), size).pairs
    return step_of(model, stage, pairs, recipe.machine, device)


@pytest.fixture
def shape() -> Backbone:
    return open_backbone("nano", weights=False)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of pictures of many sizes and formats, one of them stored lying down."""
    rows = []
    (tmp_path / "images").mkdir()
    for number, (size, kind) in enumerate(
        [((84, 84), "png"), ((200, 60), "jpg"), ((40, 300), "webp"), ((120, 90), "tiff"), ((33, 500), "gif")]
    ):
        exif = Image.Exif()
        exif[0x0112] = 6 if number % 2 else 1
        Image.new("RGB", size, "green").save(tmp_path / "images" / f"{number}.{kind}", exif=exif)
        rows.append({"image_path": f"{number}.{kind}", "text": "a green field " * (number + 1)})
    path = tmp_path / "table.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def no_pixels(*args: object, **options: object) -> None:
    raise AssertionError("a pixel was decoded or a weight loaded")


class Kept:
    """A tensor that a graph keeps, for as long as it does."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


# Lengths.


@pytest.mark.parametrize("kind", ["scenes", "table"])
def test_tokens_are_those_of_really_encoded_rows(kind: str, table: Path, shape: Backbone) -> None:
    data = SCENES if kind == "scenes" else f"[{{kind: image_text_pairs, path: {table}}}]"
    recipe = make_recipe("bridge", data=data)
    mixture = open_data(recipe, recipe.stages[0])
    for number in range(5):
        pair = mixture.pair(number)
        for side in (pair.query, pair.target):
            measured, real = shape.encode(side, pixels=False), shape.encode(side)
            assert (measured.ids == real.ids).all()
            assert (measured.kinds == real.kinds).all()
            assert measured.grids == real.grids
            assert [patch.shape for patch in measured.patches] == [patch.shape for patch in real.patches]


def test_the_size_of_a_picture_is_that_of_its_upright_pixels(table: Path) -> None:
    for path in sorted((table.parent / "images").iterdir()):
        assert picture_size(path) == open_rgb(path, DEFAULT_LIMITS).size


def test_sampled_positions_are_spread_and_keep_sub_batches_whole() -> None:
    recipe = make_recipe("contrastive", options="sub_batch: 3", batch_size=30, data=TWO)
    chosen = positions(open_data(recipe, recipe.stages[0]), recipe.stages[0], 24)
    assert len(chosen) == 24 == len(set(chosen))
    assert all(
        chosen[start : start + 3] == [chosen[start] + offset for offset in range(3)] for start in range(0, 24, 3)
    )
    assert max(chosen) > 300


def test_hard_negatives_are_measured_too(shape: Backbone) -> None:
    pair = measure_pair(shape, Pair(Sample("one"), Sample("two"), (Sample("three"), Sample("four"))))
    assert len(pair.negatives) == 2


# Costs.


def test_flops_of_a_decoder_layer_are_those_of_its_formula(shape: Backbone) -> None:
    recipe = make_recipe("contrastive")
    forward, backward = Costs(shape, recipe, recipe.stages[0])._units(make_step(recipe, shape), "single")
    config = shape.stock.config.text_config
    width, inner = config.hidden_size, config.intermediate_size
    keys = width * config.num_key_value_heads // config.num_attention_heads
    assert forward.layer == 2 * (2 * width * width + 2 * width * keys + 3 * width * inner)
    assert forward.layer_look == 2 * 2 * width
    assert backward.layer == 2 * forward.layer


def test_a_gpu_is_planned_with_the_larger_passes_that_it_is_given(shape: Backbone) -> None:
    recipe = make_recipe("contrastive", extra="machine: {chunk_tokens: 8192}")
    here, there = (make_step(recipe, shape, 256, device).passes for device in ("cpu", "cuda"))
    assert len(there) < len(here)
    assert sum(part.tokens for part in there) == sum(part.tokens for part in here)
    assert open_device("h200").type == "cuda"


@pytest.mark.parametrize(
    "options", ["", "adapter: {rank: 4}", "adapter: {dora: false, vision: false}", "freeze_vision: true"]
)
def test_lasting_memory_is_that_of_a_real_setup(options: str, shape: Backbone) -> None:
    recipe = make_recipe("warm-up", options=options)
    stage = recipe.stages[0]
    costs = Costs(shape, recipe, stage)
    setup = set_up(EmbeddingModel(open_backbone("nano")), recipe, stage, sharded=False)
    assert costs.weights == sum(weight.nbytes for weight in setup.trainee.parameters())
    trained = list(setup.trainee.trained.values())
    assert costs.gradients == sum(weight.nbytes for weight in trained)
    for weight in trained:
        weight.grad = torch.zeros_like(weight)
    setup.optimiser.step()
    states = setup.optimiser.state.values()
    assert costs.optimiser == sum(value.nbytes for state in states for value in state.values())
    traced = trace(shape, recipe, stage, make_passes(recipe, shape))
    assert (traced.weights, traced.gradients) == (costs.weights, costs.gradients)


@pytest.mark.parametrize("options", ["", "adapter: {rank: 4}", "freeze_vision: true"])
@pytest.mark.parametrize("name", STAGES)
def test_what_the_backward_pass_needs_is_what_a_real_one_holds(
    name: str, options: str, shape: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(name, options=options)
    [part] = make_passes(recipe, shape)
    planned = trace(shape, recipe, recipe.stages[0], [part]).kept
    monkeypatch.setattr(tracing, "fake", lambda tensor: tensor)
    model = EmbeddingModel(stand_in(shape, device=torch.device("cpu")))
    trainee = set_up(model, recipe, recipe.stages[0], sharded=False).trainee.train()
    work = tracing._work(trainee, part)
    weights = {weight.untyped_storage().data_ptr() for weight in trainee.parameters()}
    kept: WeakSet[Kept] = WeakSet()

    def keep(tensor: Tensor) -> Kept:
        kept.add(box := Kept(tensor))
        return box

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda box: box.tensor):
        graph = trainee(work)
    # What no path from the result needs is gone by now.
    assert graph.requires_grad
    held = {box.tensor.untyped_storage().data_ptr(): box.tensor.untyped_storage().nbytes() for box in kept}
    real = sum(size for place, size in held.items() if place not in weights)
    if name == "warm-up":  # it hides patches, so it is given them normalised: counted as data
        pixels = 4 * part.patches * shape.grid.values_per_patch
        real = sum(size for place, size in held.items() if place not in weights and size != pixels)
    assert planned == pytest.approx(real, rel=0.05)


def test_checkpointed_activations_hold_less_and_compute_more(shape: Backbone) -> None:
    plain, frugal = (make_recipe("bridge", extra=extra) for extra in ("", "machine: {activation_checkpointing: true}"))
    parts = make_passes(plain, shape)
    one, other = (trace(shape, recipe, recipe.stages[0], parts) for recipe in (plain, frugal))
    assert other.kept < one.kept / 2
    assert other.backward["other"] > one.backward["other"] * 1.2


def test_few_layers_and_lines_tell_the_memory_of_many(shape: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe("warm-up", batch_size=40)
    costs = Costs(shape, recipe, recipe.stages[0])
    part = max(make_passes(recipe, shape, 40), key=lambda part: part.places)
    monkeypatch.setattr(costs_module, "_PART_PLACES", 256)
    whole = trace(shape, recipe, recipe.stages[0], [part], accumulates=True)
    assert costs._estimate(part) == pytest.approx(whole.peak - whole.gradients, rel=0.05)


@pytest.mark.parametrize(
    ("name", "machine", "adapter"),
    [
        ("contrastive", "machine: {activation_checkpointing: true}", "dora: false"),
        ("contrastive", "", "dora: true"),
        ("bridge", "machine: {activation_checkpointing: true}", "dora: true"),
        ("bridge", "", "dora: false"),
    ],
)
def test_a_deep_model_is_told_from_a_shallow_one(
    name: str, machine: str, adapter: str, shape: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What few layers and lines say is drawn on to three times the layers and twice the lines."""
    text, vision = shape.stock.config.text_config, shape.stock.config.vision_config
    text.num_hidden_layers, text.layer_types, vision.depth = 6, ["full_attention"] * 6, 4
    recipe = make_recipe(name, batch_size=12, extra=machine, options=f"adapter: {{rank: 4, {adapter}}}")
    costs = Costs(shape, recipe, recipe.stages[0])
    assert (costs.depth.layers, costs.depth.blocks) == (6, 4)
    monkeypatch.setattr(costs_module, "_PART_PLACES", 128)
    part = max(make_passes(recipe, shape, 12), key=lambda part: part.places)
    assert len(part.lines) > 2 * costs_module._few(part)
    whole = trace(shape, recipe, recipe.stages[0], [part], accumulates=True)
    assert costs._estimate(part) == pytest.approx(whole.peak - whole.gradients, rel=0.1)


def test_a_stand_in_of_fewer_layers_has_the_shape_of_the_rest(shape: Backbone) -> None:
    small = stand_in(shape, Depth(1, 1))
    assert (len(small.layers), small.hidden_size, small.device.type) == (1, shape.hidden_size, "meta")


# Plans.


@pytest.fixture
def own_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans do not look for the largest chunks that fit, which takes longer than all else that they say."""
    monkeypatch.setattr(plan_module._StagePlanner, "best_chunk", lambda planner: None)


def plan_on(recipe: Recipe, device: str = "h100", **options: int) -> Plan:
    return plan(recipe, device=device, sample=16, **options)


def test_a_plan_loads_no_weight_and_decodes_no_pixel(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe("warm-up", "contrastive", data=f"[{{kind: image_text_pairs, path: {table}}}]", batch_size=4)
    monkeypatch.setattr("safetensors.safe_open", no_pixels)
    monkeypatch.setattr("transformers.AutoModelForImageTextToText.from_pretrained", no_pixels)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", no_pixels)
    made = plan_on(recipe)
    assert [stage.name for stage in made.stages] == ["warm-up", "contrastive"]
    assert made.fits
    assert made.hours > 0
    assert "published" in made.stages[0].speed_basis


def test_a_plan_is_json_and_can_be_shown() -> None:
    from rich.console import Console

    made = plan_on(make_recipe("bridge"))
    content = json.loads(json.dumps(made.to_dict()))
    assert content["stages"][0]["memory"]["total"] == made.stages[0].memory.total
    console = Console(width=120, record=True)
    console.print(show(made))
    assert "not measured here" in console.export_text()


def test_chunks_shrink_with_the_memory_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    small = make_recipe("bridge", batch_size=200, extra="machine: {chunk_tokens: 1024}")
    known = devices_module._published()
    monkeypatch.setattr(devices_module, "_published", lambda: known)
    whole, least = (plan_on(recipe) for recipe in (make_recipe("bridge", batch_size=200), small))
    most_bytes, least_bytes = (made.stages[0].memory.total for made in (whole, least))
    assert whole.chunk_tokens == 65_536
    known["h100"]["memory_bytes"] = int((most_bytes + least_bytes) / 2 / 0.9)
    between = plan_on(small).chunk_tokens
    assert between is not None
    assert 1024 <= between < 65_536
    known["h100"]["memory_bytes"] = int((least_bytes - 1_000_000) / 0.9)
    assert plan_on(small).chunk_tokens is None


def test_memory_that_is_not_there_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    known = devices_module._published()
    known["h100"]["memory_bytes"] = 1_000_000_000
    monkeypatch.setattr(devices_module, "_published", lambda: known)
    made = plan_on(make_recipe("bridge"))
    assert not made.fits
    assert "try machine.activation_checkpointing, an adapter" in made.warnings[0]


def test_cut_texts_and_pictures_that_do_not_fit_are_warned_of(table: Path) -> None:
    data = f"[{{kind: image_text_pairs, path: {table}}}]"
    cut = plan_on(make_recipe("bridge", data=data, batch_size=4, extra="max_tokens: 20"))
    assert any("of the texts are cut to max_tokens 20" in warning for warning in cut.warnings)
    limits = "min_pixels: 12544, max_pixels: 12544"  # 16 visual tokens
    recipe = make_recipe("bridge", data=data, batch_size=4, extra="max_tokens: 20", options=limits)
    with pytest.raises(ValueError, match="none of 5 sampled rows fits"):
        plan_on(recipe)


def test_unreadable_rows_are_counted_and_named(table: Path) -> None:
    (table.parent / "images" / "1.jpg").write_bytes(b"not a picture")
    recipe = make_recipe("bridge", data=f"[{{kind: image_text_pairs, path: {table}}}]", batch_size=4)
    [warning] = plan_on(recipe).warnings
    assert warning.startswith("stage bridge: 1 of 5 sampled rows cannot be read, and the first ends the run")
    assert f"{table}:2" in warning


@pytest.mark.usefixtures("own_chunks")
def test_long_rows_and_too_many_ranks_are_warned_of() -> None:
    recipe = make_recipe("bridge", extra="machine: {chunk_tokens: 64}", data=SCENES.replace("400", "400, pixels: 300"))
    recipe = recipe.model_copy(update={"backbone": recipe.backbone.model_copy(update={"max_pixels": 300 * 300})})
    warnings = " ".join(plan_on(recipe, ranks=8).warnings)
    assert "longer than chunk_tokens 64" in warnings
    assert "below the number of ranks, 8" in warnings


@pytest.mark.usefixtures("own_chunks")
def test_sharded_weights_are_shared_out() -> None:
    whole = plan_on(make_recipe("bridge"), ranks=2).stages[0].memory
    shared = plan_on(make_recipe("bridge", extra="machine: {sharding: true}"), ranks=2).stages[0].memory
    assert shared.optimiser == whole.optimiser // 2


@pytest.mark.usefixtures("own_chunks")
def test_a_sharded_stage_is_planned_with_what_is_whole_on_each_rank(shape: Backbone) -> None:
    """In a step all outside the layers and its gradients, at the end of the stage the whole model."""
    recipe = make_recipe("bridge", extra="machine: {sharding: true}", options="freeze_vision: true")
    inside = {id(weight) for layer in shape.layers for weight in layer.parameters()}
    seen = {id(weight) for weight in shape.vision.parameters()}
    outside = {id(weight): 4 * weight.numel() for weight in shape.parameters() if id(weight) not in inside}
    learns = sum(size for key, size in outside.items() if key not in seen)
    layer = 4 * sum(weight.numel() for weight in shape.layers[0].parameters())
    assert Costs(shape, recipe, recipe.stages[0]).gathered == 2 * layer + sum(outside.values()) + learns
    few, many = (plan_on(recipe, ranks=ranks).stages[0].memory for ranks in (2, 6))
    whole = 4 * sum(weight.numel() for weight in shape.parameters())
    assert few.optimiser > 0
    assert few.activations > sum(outside.values()) + learns
    assert many.total >= many.base + whole + whole // 6


@pytest.mark.usefixtures("own_chunks")
def test_saving_a_model_of_lower_precision_is_planned_with_its_weights_in_float32(
    shape: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = devices_module._published()
    monkeypatch.setattr(devices_module, "_published", lambda: known)
    whole = 4 * sum(weight.numel() for weight in shape.parameters())
    # As of a large model's short rows.
    monkeypatch.setattr(Costs, "beyond", lambda costs, *_: costs.gradients)
    recipe = make_recipe(
        "contrastive", "bridge", extra="precision: bfloat16", options="adapter: {rank: 1, dora: false}"
    )
    first, last = (stage.memory.total - stage.memory.base for stage in plan_on(recipe).stages)
    assert first < whole <= last
    known["h100"]["memory_bytes"] = int((known["h100"]["base_bytes"] + (first + whole) / 2) / 0.9)
    made = plan_on(recipe)
    assert [stage.fits for stage in made.stages] == [True, False]
    [warning] = [warning for warning in made.warnings if "needs" in warning]
    assert "stage bridge" in warning and "the whole model" in warning


@pytest.mark.usefixtures("own_chunks")
def test_the_candidates_of_all_ranks_are_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cocoa.training.contrast._MOST_SCORES", 2**24)
    recipes = (
        make_recipe("contrastive", extra="machine: {chunk_tokens: 1024}", batch_size=size) for size in (512, 2**15)
    )
    few, many = (plan_on(one, ranks=ranks).stages[0].memory for one, ranks in zip(recipes, (1, 64), strict=True))
    # 512 queries on each rank, beside 512 candidates and beside 32,768.
    assert many.activations > 13 * 2**24 > 2 * few.activations


@pytest.mark.usefixtures("own_chunks")
def test_small_chunks_need_a_second_pass_for_contrast() -> None:
    whole = plan_on(make_recipe("contrastive", batch_size=16)).stages[0]
    cached = plan_on(make_recipe("contrastive", batch_size=16, extra="machine: {chunk_tokens: 128}")).stages[0]
    assert cached.flops / cached.places > 1.2 * whole.flops / whole.places
    assert cached.memory.activations < whole.memory.activations


def test_an_unknown_device_is_refused_with_those_known() -> None:
    with pytest.raises(UsageError, match="h100"):
        open_device("abacus")


@pytest.mark.usefixtures("own_chunks")
def test_a_plan_for_here_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cocoa.planning.rehearsal._SECONDS", 1.0)
    [stage] = plan_on(make_recipe("bridge"), device="here").stages
    assert stage.speed_basis.startswith("measured here")
    assert stage.step_seconds > 0
    assert stage.memory.base > 100_000_000


def test_a_trial_is_made_smaller_where_a_step_does_not_fit(shape: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the free memory of the GPU that it runs on, whatever the machine has."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    assert rehearsal.room(torch.device("cuda", 0)) == 800
    monkeypatch.setattr(rehearsal, "_SECONDS", 0.2)
    monkeypatch.setattr(rehearsal, "room", lambda device: 500.0)
    recipe = make_recipe("bridge", batch_size=2, extra="machine: {workers: 0}")
    mixture = open_data(recipe, recipe.stages[0])
    whole = Depth.of(shape)
    for needed, layers in ((500, whole.layers), (1000, whole.layers // 2)):
        tried = rehearsal.rehearse(shape, recipe, recipe.stages[0], mixture, num_pairs=2, flops=1.0, needed=needed)
        assert tried.depth.layers == layers
