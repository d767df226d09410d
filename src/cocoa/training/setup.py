"""A model and its data made ready for a stage: objectives, adapters, precision, optimiser, order of the pairs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from cocoa.adapters import Adapter, add_adapter
from cocoa.backbones import NANO, NANO_UNTRAINED, Backbone, check_weights, open_backbone
from cocoa.backbones.patches import PatchGrid
from cocoa.batch import row_length
from cocoa.data.bad_rows import BadRows
from cocoa.data.mixing import Mixture
from cocoa.data.mmeb_train import MmebTrain
from cocoa.data.sources import Grouped, Pairs
from cocoa.data.text_targets import TextTargets
from cocoa.errors import CocoaError, ModelError, RecipeError
from cocoa.layouts import Role
from cocoa.model import EmbeddingModel, best_device
from cocoa.objectives.contrastive import ContrastiveOptions
from cocoa.prompts import PROMPTS
from cocoa.recipe import Recipe, Stage
from cocoa.training.batches import EncodedPair, Fit
from cocoa.training.reconstruct import stage_row
from cocoa.training.trainee import Trainee


@dataclass(frozen=True)
class Setup:
    """A model made ready for a stage."""

    trainee: Trainee
    adapter: Adapter | None
    optimiser: Optimizer


def set_up(model: EmbeddingModel, recipe: Recipe, stage: Stage, *, sharded: bool) -> Setup:
    """Returns a model made ready for a stage: its objectives' own weights, adapters, precision and optimiser.

    Random weights come from the recipe's seed and the stage's name.
    """
    torch.manual_seed(stage_seed(recipe.seed, stage.name))
    backbone = model.backbone
    set_pixel_limits(model, stage.min_pixels, stage.max_pixels, f"recipe: stage {stage.name}")
    model.layout = stage.layout
    mixed = recipe.precision == "bfloat16"
    model.requires_grad_(True)
    objectives = [options.build(backbone).to(backbone.device) for options in stage.objectives]
    adapter = add_adapter(backbone, stage.adapter) if stage.adapter is not None else None
    if adapter is not None and mixed:
        adapter.read_as_given()
    if stage.freeze_vision:
        backbone.vision.requires_grad_(False)
    if recipe.machine.activation_checkpointing:
        backbone.checkpoint_activations()
    trainee = Trainee(model, stage, objectives, mixed=mixed)
    for weight in trainee.parameters():
        weight.data = weight.data.to(torch.bfloat16 if mixed and not weight.requires_grad else torch.float32)
    if sharded:
        trainee.shard()
    # On a GPU in one kernel, which reads and writes each weight once.
    on_gpu = backbone.device.type == "cuda"
    groups = decay_groups(trainee, stage.weight_decay)
    return Setup(trainee, adapter, AdamW(groups, lr=stage.learning_rate, fused=on_gpu))


def decay_groups(trainee: Trainee, weight_decay: float) -> list[dict[str, Any]]:
    """Returns the trained weights as the optimiser's groups: matrices, which decay, and all others.

    What scales or moves has no reason to be small: a norm pulled to 0 mutes what follows it, a row length of DoRA
    shrinks a weight that is frozen, and a rare token's row would decay in each step that does not read it.
    """
    embeddings = {id(module.weight) for module in trainee.modules() if isinstance(module, nn.Embedding)}
    weights = list(trainee.trained.values())
    decays = [weight.ndim >= 2 and id(weight) not in embeddings for weight in weights]
    groups = [
        {"params": [weight for weight, one in zip(weights, decays, strict=True) if one is kind], "weight_decay": decay}
        for kind, decay in ((True, weight_decay), (False, 0.0))
    ]
    return [group for group in groups if group["params"]]


def finished(setup: Setup, limits: PatchGrid) -> EmbeddingModel:
    """Returns the model of a stage that is over: adapters merged, the weights' type and pixel limits its own again."""
    trainee = setup.trainee
    trainee.eval()
    if setup.adapter is not None:
        setup.adapter.merge()
    trainee.model.backbone.grid = limits
    for weight in trainee.parameters():
        # Else those of weights that the next stage does not train would be held through all of it.
        weight.grad = None
    if trainee.mixed:
        for weight in trainee.model.parameters():
            weight.data = weight.data.to(torch.bfloat16)
    return trainee.model


def open_model(recipe: Recipe, device: torch.device | None = None, *, commit: str | None = None) -> EmbeddingModel:
    """Returns the recipe's backbone as an embedding model, before any stage; on the best device unless one is given.

    With `commit`, that of a hub id is read and not what the recipe's revision is at now.
    """
    # Random weights (`nano-untrained`, a new mask token's row) come from this seed.
    torch.manual_seed(recipe.seed)
    options = recipe.backbone
    model = model_of(recipe, recipe.stages[-1], backbone_of(recipe, commit=commit))
    set_pixel_limits(model, options.min_pixels, options.max_pixels, "recipe: backbone")
    for weight in model.parameters():
        weight.data = weight.data.to(_dtype(recipe))
    return model.to(device or best_device())


def backbone_of(recipe: Recipe, *, weights: bool = True, commit: str | None = None) -> Backbone:
    """Returns the backbone that a recipe begins from; without `weights` its shape only, see `load_backbone`.

    `commit` is read instead of the recipe's revision.

    Raises `ModelError`, of the recipe's option where the option is to blame (`E_MODEL_REVISION`).
    """
    options = recipe.backbone
    try:
        return open_backbone(
            options.name,
            revision=commit or options.revision,
            attention=options.attention,
            dtype=_dtype(recipe),
            weights=weights,
        )
    except ModelError as error:
        if error.code == "E_MODEL_REVISION":
            raise error.at("recipe: backbone.revision") from error
        raise


def _dtype(recipe: Recipe) -> torch.dtype:
    return torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32


def check_start(recipe: Recipe, *, commit: str | None = None) -> None:
    """Raises what opening the backbone, or a stage when it begins, would refuse, as far as can be told without weights.

    It takes seconds, so that neither hours of reading data nor the stages before are in vain. `commit` is as in
    `open_model`.
    """
    backbone = backbone_of(recipe, weights=False, commit=commit)
    if recipe.backbone.name not in (NANO, NANO_UNTRAINED):
        check_weights(recipe.backbone.name)
    model = model_of(recipe, recipe.stages[-1], backbone)
    set_pixel_limits(model, recipe.backbone.min_pixels, recipe.backbone.max_pixels, "recipe: backbone")
    own = backbone.grid
    for stage in recipe.stages:
        where = f"recipe: stage {stage.name}"
        set_pixel_limits(model, stage.min_pixels, stage.max_pixels, where)
        backbone.grid = own
        for options in stage.objectives:
            if isinstance(options, ContrastiveOptions):
                try:
                    options.check(backbone.hidden_size)
                except RecipeError as error:
                    raise error.at(where) from error


def model_of(recipe: Recipe, stage: Stage, backbone: Backbone) -> EmbeddingModel:
    """Returns a backbone as an embedding model that reads, pools and is asked as a recipe and its stage say."""
    return EmbeddingModel(
        backbone,
        layout=stage.layout,
        max_tokens=recipe.max_tokens,
        pooling=recipe.pooling,
        prompts=PROMPTS | recipe.prompts,
    )


def set_pixel_limits(model: EmbeddingModel, min_pixels: int | None, max_pixels: int | None, where: str) -> None:
    """Changes how large the model sees pictures. Raises `E_MODEL_PIXELS` naming the option's place."""
    try:
        model.backbone.with_pixel_limits(min_pixels, max_pixels)
    except ModelError as error:
        raise error.at(where) from error


def open_data(recipe: Recipe, stage: Stage, bad: BadRows | None = None) -> Mixture:
    """Returns the pairs of a stage, in the order that the recipe's seed gives them; bad rows are noted in `bad`.

    Where a stage rebuilds words of targets alone, the rows of tables whose target is a picture are left out: the only
    words there are those of the instruction (method 8, 10).
    """
    bad = bad or BadRows(recipe.max_bad_rate)
    sources: list[Pairs] = [source.build(bad.note) for source in stage.data]
    bad.check(sum(len(source) for source in sources) + len(bad.rows))
    if stage.rebuilds_target_text:
        sources = [TextTargets(source) if isinstance(source, MmebTrain) else source for source in sources]
        if not any(map(len, sources)):
            only = "all targets are pictures, and the stage rebuilds words of targets"
            raise RecipeError("E_RECIPE_OPTION", f"stage {stage.name}: {only}")
    num_tables = sum(len(source.groups) if isinstance(source, Grouped) else 1 for source in sources)
    if stage.sub_batch is not None and num_tables == 1:
        raise RecipeError("E_RECIPE_OPTION", f"stage {stage.name}: sub_batch has no effect, all pairs are of one table")
    weights = [source.weight for source in stage.data]
    try:
        return Mixture(sources, stage_seed(recipe.seed, stage.name), stage.sub_batch, weights)
    except CocoaError as error:
        raise error.at(f"stage {stage.name}") from error


def num_left_out(mixture: Mixture) -> int:
    """Returns how many pairs `open_data` left out because their target is a picture."""
    return sum(source.left_out for source in mixture.sources if isinstance(source, TextTargets))


def stage_seed(seed: int, name: str) -> int:
    """Returns the seed of a stage: a stage of the same name sees the same order in every recipe of that seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 2


def fits(model: EmbeddingModel, stage: Stage) -> Fit:
    """Returns what counts the texts of a pair that the stage's rows will cut; it raises where pictures do not fit."""
    rows = {options.rows for options in stage.objectives}

    def fit(pair: EncodedPair) -> int:
        sizes = []
        if rows - {"single"}:
            made = stage_row(model, stage, pair.query, pair.target)
            kept = sum(len(segment) for segment, role in made if role != Role.BRIDGE)
            sizes.append((kept, len(pair.query) + len(pair.target)))
        if "single" in rows:
            samples = (pair.query, pair.target, *pair.negatives)
            sizes += [(row_length(model.row(sample)) - model.pooling.tokens, len(sample)) for sample in samples]
        return sum(kept < given for kept, given in sizes)

    return fit
