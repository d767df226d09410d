"""Checkpoints: all that a run needs to go on as if nothing had happened; safetensors and JSON, whole or not there.

A checkpoint is a folder `checkpoints/NUMBER`, NUMBER the steps done in all stages, with `weights.safetensors`,
`optimiser.safetensors` (within a stage), `state.json` and the manifest that `write_folder` writes last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from cocoa.errors import CocoaError, TrainingError
from cocoa.failpoints import failpoint
from cocoa.files import check_folder, remove_folder, sweep, write_folder
from cocoa.training.trainee import Trainee, kept_whole, put

FORMAT = 1
_WEIGHTS, _OPTIMISER, _STATE = "weights.safetensors", "optimiser.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its folder and its state; tensors are read when they are asked for."""

    folder: Path
    state: dict[str, Any]

    @property
    def stage(self) -> int:
        """The stage to go on with (its place in the recipe)."""
        return int(self.state["stage"])

    @property
    def step(self) -> int:
        """The step of that stage to go on with; 0: the stage has not begun."""
        return int(self.state["step"])

    @property
    def num_steps(self) -> int:
        """Steps done in all stages."""
        return int(self.state["num_steps"])

    @property
    def backbone(self) -> dict[str, str]:
        """What the run began from, see `receipt.backbone_origin`; of older versions nothing is known."""
        return dict(self.state.get("backbone", {}))

    def weights(self) -> dict[str, Tensor]:
        """Returns all weights by name."""
        return _read(self.folder / _WEIGHTS)

    def optimiser(self) -> dict[str, Tensor]:
        """Returns the optimiser's tensors, named `weight/quantity`."""
        return _read(self.folder / _OPTIMISER)


def save_checkpoint(
    folder: Path, state: Mapping[str, Any], weights: Mapping[str, Tensor], optimiser: Mapping[str, Tensor], *, keep: int
) -> Path:
    """Writes a checkpoint, reads it back against its hashes, and only then removes all but the newest `keep`.

    Raises `E_TRAINING_CHECKPOINT` if it cannot be written; then the older ones are untouched.
    """
    target = folder / f"{state['num_steps']:08d}"
    try:
        with write_folder(target) as draft:
            save_file(dict(weights), draft / _WEIGHTS)
            save_file(dict(optimiser), draft / _OPTIMISER)
            (draft / _STATE).write_text(json.dumps({"format": FORMAT, **state}, indent=1) + "\n")
    except (OSError, SafetensorError) as error:
        message = f"the checkpoint could not be written ({error}); the ones before are as they were"
        raise TrainingError("E_TRAINING_CHECKPOINT", message, where=str(target)) from error
    check_folder(target, hashes=True)
    failpoint("checkpoint-kept")
    for old in _folders(folder)[keep:]:
        remove_folder(old)
    return target


def newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Returns the newest complete checkpoint, if any, and why each newer one was passed over."""
    passed: list[str] = []
    for path in _folders(folder):
        try:
            return read_checkpoint(path), passed
        except TrainingError as error:
            passed.append(f"{path.name} is not complete: {error.message}")
    return None, passed


def read_checkpoint(folder: Path) -> Checkpoint:
    """Returns the checkpoint of a folder after comparing its hashes; raises `E_TRAINING_CHECKPOINT`."""
    try:
        check_folder(folder, hashes=True)
        state = json.loads((folder / _STATE).read_text())
        if state["format"] != FORMAT:
            raise TrainingError("E_TRAINING_CHECKPOINT", f"format {state['format']}, this version reads {FORMAT}")
    except (CocoaError, OSError, ValueError, KeyError, TypeError) as error:
        reason = error.message if isinstance(error, CocoaError) else str(error)
        raise TrainingError("E_TRAINING_CHECKPOINT", reason, where=str(folder)) from error
    return Checkpoint(folder, state)


def clean_up(folder: Path) -> None:
    """Removes what a killed run left half written."""
    if folder.is_dir():
        sweep(folder)


def set_aside(folder: Path, *, after: int) -> None:
    """Renames checkpoints of more steps than `after`, which were passed over, to `NUMBER.passed-over`.

    Counted among those that are kept, they would push out the ones that are whole. Nothing of them is removed: one may
    be of a newer version of the format.
    """
    for path in _folders(folder):
        if int(path.name) > after:
            aside, number = path.with_name(f"{path.name}.passed-over"), 2
            while aside.exists():
                aside, number = path.with_name(f"{path.name}.passed-over-{number}"), number + 1
            path.rename(aside)


def load_weights(trainee: Trainee, checkpoint: Checkpoint) -> None:
    """Fills all weights; one that is missing, unexpected or of another shape raises `E_TRAINING_CHECKPOINT`."""
    found, wanted = checkpoint.weights(), dict(trainee.named_parameters())
    where = str(checkpoint.folder)
    for trouble, names in (("lacks", wanted.keys() - found.keys()), ("has unexpected", found.keys() - wanted.keys())):
        if names:
            listed = ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise TrainingError("E_TRAINING_CHECKPOINT", f"the checkpoint {trouble} {listed}", where=where)
    for name, weight in wanted.items():
        if weight.shape != found[name].shape or weight.dtype != found[name].dtype:
            shapes = f"{tuple(found[name].shape)} {found[name].dtype}, not {tuple(weight.shape)} {weight.dtype}"
            raise TrainingError("E_TRAINING_CHECKPOINT", f"{name} is {shapes}", where=where)
        put(weight.data, found[name])


def optimiser_tensors(trainee: Trainee, optimiser: Optimizer, *, keep: bool = True) -> dict[str, Tensor]:
    """Returns what the optimiser remembers of each weight, whole, on the CPU.

    Every rank must call this; those that `keep` get it.
    """
    named = (
        (f"{name}/{quantity}", value)
        for name, weight in trainee.trained.items()
        for quantity, value in optimiser.state.get(weight, {}).items()
    )
    return kept_whole(named, keep=keep)


def load_optimiser(trainee: Trainee, optimiser: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Gives the optimiser its memory back; a weight that had none gets none."""
    trained = trainee.trained
    for key, content in tensors.items():
        name, _, quantity = key.rpartition("/")
        if name not in trained:
            raise TrainingError("E_TRAINING_CHECKPOINT", f"the optimiser knows a weight that is not trained: {name}")
        weight = trained[name]
        if content.shape == weight.shape:
            value = torch.empty_like(weight.data, dtype=content.dtype)
            put(value, content)
        else:
            # The count of steps, a number; where one kernel updates all weights it is on their device.
            value = content.to(weight.device) if optimiser.defaults.get("fused") else content.clone()
        optimiser.state[weight][quantity] = value


def _folders(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()), reverse=True)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError("E_TRAINING_CHECKPOINT", "the file cannot be read", where=str(path)) from error
    return tensors
