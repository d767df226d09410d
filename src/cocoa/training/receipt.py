"""The receipt in a model folder: recipe, seeds, what the data was, and how the losses went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cocoa.backbones import NANO, NANO_UNTRAINED, Backbone
from cocoa.data.tables import find_tables
from cocoa.files import sha256
from cocoa.model import library_versions
from cocoa.objectives.contrastive import ContrastiveOptions
from cocoa.portable import own_places, portable
from cocoa.recipe import Recipe, Stage
from cocoa.training.setup import stage_seed

_BESIDE_WEIGHTS = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
Hashes = dict[str, dict[str, str]]
"""The sha256 of each table, by the path that a recipe reads and the table's name there."""


def receipt(
    recipe: Recipe,
    records: Sequence[dict[str, Any]],
    hashes: Hashes | None = None,
    origin: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Returns what a model folder says of its making: recipe, seeds, hashes of data and backbone, stages in numbers.

    A model folder may be published: paths below the working directory or the home folder are told from there.
    """
    stages = {}
    for stage in recipe.stages:
        own = [record for record in records if record["stage"] == stage.name]
        stages[stage.name] = {
            "seed": stage_seed(recipe.seed, stage.name),
            "steps": len(own),
            "first_losses": own[0]["losses"] if own else {},
            "last_losses": own[-1]["losses"] if own else {},
            "seconds": round(sum(record["seconds"] for record in own), 1),
            "pairs": sum(record["pairs"] for record in own),
            "skipped": sum(record["skipped"] for record in own),
        }
    made = {
        "recipe": recipe.model_dump(mode="json"),
        "stages": stages,
        "data": hashes or {},
        "backbone": origin or {},
        "versions": library_versions(),
    }
    told: dict[str, Any] = portable(made, own_places())
    return told


def data_hashes(recipe: Recipe) -> Hashes:
    """Returns, for each path that a recipe reads, the sha256 of its tables by name; generated data has its seed.

    Pictures beside the tables are not hashed, there may be millions; a path that is gone has no hashes.
    """
    return {str(path): _hashes(path) for path in sorted(set(data_paths(recipe)))}


def data_paths(recipe: Recipe) -> list[Path]:
    """Returns the paths that a recipe reads data from, in its order; one that is read twice is there twice."""
    sources = (source for stage in recipe.stages for source in stage.data)
    return [path for source in sources if isinstance(path := getattr(source, "path", None), Path)]


def backbone_origin(recipe: Recipe, backbone: Backbone) -> dict[str, str]:
    """Returns what a run began from: the `commit` of a hub id, or the sha256 of each of a folder's files by name.

    Nothing is said of nano, which is that of the package's version.
    """
    if backbone.commit is not None:
        return {"commit": backbone.commit}
    name = recipe.backbone.name
    folder = Path(name)
    if name in (NANO, NANO_UNTRAINED) or not folder.is_dir():
        return {}
    return {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.suffix in (".json", ".safetensors")}


def changed_files(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Returns the names of a backbone's files that are not what `backbone_origin` said before, its weights apart.

    Those are in the checkpoint from which a run goes on. Where nothing is known of before, nothing has changed.
    """
    return [name for name in _BESIDE_WEIGHTS if before and before.get(name) != now.get(name)]


def _hashes(path: Path) -> dict[str, str]:
    if path.is_file():
        return {path.name: sha256(path)}
    # A published set has a folder for each subset.
    folders = [path, *sorted(folder for folder in path.iterdir() if folder.is_dir())] if path.is_dir() else []
    return {str(table.relative_to(path)): sha256(table) for folder in folders for table in find_tables(folder)}


def trained_lengths(stages: Sequence[Stage]) -> tuple[int, ...]:
    """Returns the lengths below the full one that the last contrastive one of some stages trains to be vectors."""
    for stage in reversed(stages):
        for options in stage.objectives:
            if isinstance(options, ContrastiveOptions):
                return tuple(sorted(options.dimensions))
    return ()
