"""A run: the stages of a recipe, one after another, each on the model that the one before left."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cocoa.backbones import open_backbone
from cocoa.data.mixing import Mixture
from cocoa.errors import ModelError, TrainingError, UsageError
from cocoa.files import write_file
from cocoa.model import EmbeddingModel, best_device
from cocoa.recipe import Recipe, Stage
from cocoa.training.batches import EncodedPairs, prefetched
from cocoa.training.schedule import learning_rate
from cocoa.training.step import Objective, run_step


@dataclass
class RunLog:
    """The numbers of a run: one record a step, also appended to `path` as JSON lines."""

    path: Path | None = None
    records: list[dict[str, Any]] = field(default_factory=list)

    def add(self, record: dict[str, Any]) -> None:
        """Keeps a record and writes it out."""
        self.records.append(record)
        if self.path is not None:
            with self.path.open("a") as stream:
                stream.write(json.dumps(record) + "\n")


StepHook = Callable[[Stage, dict[str, Any]], None]
StageHook = Callable[[Stage, EmbeddingModel, list[Objective]], None]


def train(
    recipe: Recipe,
    out: Path,
    *,
    model_folder: Path | None = None,
    on_step: StepHook | None = None,
    on_stage_end: StageHook | None = None,
) -> tuple[EmbeddingModel, RunLog]:
    """Returns the trained model and its numbers; writes `recipe.yaml`, `metrics.jsonl` and `model/` into `out`.

    The model goes to `model_folder` instead, if that is given.
    `out` must be new or empty, so that no run is overwritten. `on_step` is told each record, `on_stage_end` is given
    the model and the stage's objectives (which are dropped after it). Raises `CocoaError`; then `out` has no `model/`.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError("E_USAGE_OUT", "folder is not empty; choose another --out or remove it", where=str(out))
    # All data is opened before anything is trained or written: a bad row of the last stage must not cost the first two.
    data = [open_data(recipe, stage) for stage in recipe.stages]
    model = open_model(recipe)
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "recipe.yaml", recipe.to_yaml())
    log = RunLog(out / "metrics.jsonl")
    for stage, mixture in zip(recipe.stages, data, strict=True):
        run_stage(model, recipe, stage, mixture, log, on_step=on_step, on_stage_end=on_stage_end)
    model.save(model_folder or out / "model", receipt=receipt(recipe, log))
    return model, log


def open_model(recipe: Recipe) -> EmbeddingModel:
    """Returns the recipe's backbone as an embedding model, on the best device at hand, before any stage."""
    # Random weights (`nano-untrained`, a new mask token's row) come from this seed.
    torch.manual_seed(recipe.seed)
    options = recipe.backbone
    backbone = open_backbone(options.name, attention=options.attention)
    try:
        backbone.with_pixel_limits(options.min_pixels, options.max_pixels)
    except ModelError as error:
        raise error.at("recipe: backbone") from error
    model = EmbeddingModel(backbone, layout=recipe.stages[-1].layout, max_tokens=recipe.max_tokens)
    return model.to(best_device())


def open_data(recipe: Recipe, stage: Stage) -> Mixture:
    """Returns the pairs of a stage, in the order that the recipe's seed gives them."""
    return Mixture([source.build() for source in stage.data], stage_seed(recipe.seed, stage.name))


def run_stage(
    model: EmbeddingModel,
    recipe: Recipe,
    stage: Stage,
    mixture: Mixture,
    log: RunLog,
    *,
    on_step: StepHook | None = None,
    on_stage_end: StageHook | None = None,
) -> None:
    """Trains the model by one stage of the recipe, all weights."""
    seed = stage_seed(recipe.seed, stage.name)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    objectives = [options.build(model.backbone).to(model.backbone.device) for options in stage.objectives]
    weights = [*model.parameters(), *(weight for objective in objectives for weight in objective.parameters())]
    optimiser = torch.optim.AdamW(weights, lr=stage.learning_rate, weight_decay=stage.weight_decay)
    model.layout = stage.layout
    model.train()
    began = time.perf_counter()
    for step, pairs in enumerate(prefetched(model.backbone, mixture, steps=stage.steps, batch_size=stage.batch_size)):
        rate = learning_rate(
            step, steps=stage.steps, warmup_steps=stage.warmup_steps, peak=stage.learning_rate, schedule=stage.schedule
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        result = run_step(model, stage, objectives, pairs, generator)
        if not torch.isfinite(result.total):
            raise TrainingError(
                "E_TRAINING_DIVERGED",
                f"loss is {result.total.item()} at step {step} of stage {stage.name}; rows: {_rows(pairs)}",
            )
        optimiser.zero_grad(set_to_none=True)
        result.total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, stage.max_grad_norm)
        optimiser.step()
        now = time.perf_counter()
        record = {
            "step": step,
            "stage": stage.name,
            "losses": result.losses,
            "learning_rate": rate,
            "tokens_per_second": result.num_tokens / (now - began),
            "data_wait_seconds": pairs.seconds,
            "seconds": now - began,
        }
        began = now
        log.add(record)
        if on_step is not None:
            on_step(stage, record)
    model.eval()
    if on_stage_end is not None:
        on_stage_end(stage, model, [objective.eval() for objective in objectives])


def stage_seed(seed: int, name: str) -> int:
    """Returns the seed of a stage: a stage of the same name sees the same order in every recipe of that seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1


def receipt(recipe: Recipe, log: RunLog) -> dict[str, Any]:
    """Returns what a model folder says of its making: the recipe, and each stage's last losses and seconds."""
    stages = {}
    for stage in recipe.stages:
        records = [record for record in log.records if record["stage"] == stage.name]
        stages[stage.name] = {
            "last_losses": records[-1]["losses"],
            "seconds": round(sum(record["seconds"] for record in records), 1),
        }
    return {"recipe": recipe.model_dump(mode="json"), "stages": stages, "torch": torch.__version__}


def _rows(pairs: EncodedPairs) -> str:
    places = [sample.where or f"row {number}" for number, sample in enumerate(pairs.queries)]
    return ", ".join(places[:8]) + (f" and {len(places) - 8} more" if len(places) > 8 else "")
