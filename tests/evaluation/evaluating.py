"""A small model and small tasks on the disk, and evaluations in processes of their own that a test may kill."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cocoa.backbones import Backbone
from cocoa.evaluation.job import run_job
from cocoa.model import EmbeddingModel

# One process imports torch once; those that are killed are forked from it, before it has computed anything.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["cocoa.evaluation.job"])
SHARD = 40
"""Samples of a shard in these processes, so that small tasks have many."""


def save_model(backbone: Backbone, folder: Path, *, max_pixels: int = 56 * 56) -> Path:
    """Writes a model folder and returns it."""
    EmbeddingModel(backbone.with_pixel_limits(None, max_pixels), max_tokens=64).save(folder)
    return folder


def start(model: Path, tasks: Path, out: Path, *, processes: int = 1, environment: dict[str, str] | None = None) -> Any:
    """Returns a started process that evaluates into a folder."""
    process = CONTEXT.Process(target=_run, args=(model, tasks, out, processes, environment or {}))
    process.start()
    return process


def _run(model: Path, tasks: Path, out: Path, processes: int, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    run_job(model, tasks, out, processes=processes, shard_size=SHARD)


def rows(out: Path) -> list[tuple[str, ...]]:
    """Returns the keys of each shard of vectors that an evaluation left."""
    shards = (out / "cache" / "vectors").glob("*/*/facts.json")
    # A draft that a killed writer left is no shard.
    return [tuple(json.loads(path.read_text())["keys"]) for path in shards if not path.parent.name.startswith(".")]


def leftovers(out: Path) -> Sequence[Path]:
    """Returns what a writer that is gone left behind."""
    return [path for path in out.rglob("*") if ".draft" in path.name or ".old-" in path.name]
