"""The model of a checkpoint: what a run had made of it when it was stopped, adapters merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cocoa.errors import TrainingError
from cocoa.model import EmbeddingModel
from cocoa.recipe import Recipe
from cocoa.training.checkpoints import Checkpoint, load_weights, newest_checkpoint, read_checkpoint
from cocoa.training.receipt import Hashes, backbone_origin, changed_files, data_hashes, receipt, trained_lengths
from cocoa.training.run_folder import DATA
from cocoa.training.setup import finished, open_model, set_up
from cocoa.training.trainee import Trainee


def restored_model(folder: Path) -> tuple[EmbeddingModel, dict[str, Any]]:
    """Returns the model, and its receipt, of a run's newest checkpoint or of one checkpoint's folder.

    Raises `E_TRAINING_CHECKPOINT` where there is none that is complete or its backbone has changed, and what opening
    the backbone raises.
    """
    if (folder / "checkpoints").is_dir():
        found, passed = newest_checkpoint(folder / "checkpoints")
        if found is None:
            reasons = "; ".join(passed) or "none has been written"
            raise TrainingError("E_TRAINING_CHECKPOINT", f"no complete checkpoint: {reasons}", where=str(folder))
    else:
        found = read_checkpoint(folder)
    try:
        recipe = Recipe.model_validate_json(json.dumps(found.state["recipe"]))
    except (KeyError, ValidationError) as error:
        message = "its recipe is not one that this version reads"
        raise TrainingError("E_TRAINING_CHECKPOINT", message, where=str(found.folder)) from error
    model = _model_of(found, recipe)
    origin = backbone_origin(recipe, model.backbone)
    if changed := changed_files(found.backbone, origin):
        message = f"the backbone {recipe.backbone.name} has changed since the run was begun: {', '.join(changed)}"
        raise TrainingError("E_TRAINING_CHECKPOINT", message, where=str(found.folder))
    begun = found.stage + (found.step > 0)
    model.matryoshka = trained_lengths(recipe.stages[:begun])
    return model, receipt(recipe, _records(found), _data(found, recipe), found.backbone or origin)


def _model_of(checkpoint: Checkpoint, recipe: Recipe) -> EmbeddingModel:
    model = open_model(recipe, commit=checkpoint.backbone.get("commit"))
    if checkpoint.step == 0:
        # Between two stages: the model is what the stage before made of it.
        stage = recipe.stages[max(checkpoint.stage - 1, 0)]
        load_weights(Trainee(model, stage, []), checkpoint)
        model.layout = stage.layout
        return model
    limits = model.backbone.grid
    setup = set_up(model, recipe, recipe.stages[checkpoint.stage], sharded=False)
    load_weights(setup.trainee, checkpoint)
    return finished(setup, limits)


def _data(checkpoint: Checkpoint, recipe: Recipe) -> Hashes:
    """What the data was when the run was begun, where the run still says so."""
    path = checkpoint.folder.parent.parent / DATA
    if not path.is_file():
        return data_hashes(recipe)
    told: Hashes = json.loads(path.read_text())
    return told


def _records(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """The log's lines up to the checkpoint, where the log still is."""
    log = checkpoint.folder.parent.parent / "metrics.jsonl"
    if not log.is_file():
        return []
    return [json.loads(line) for line in log.read_text().splitlines()[: checkpoint.num_steps]]
