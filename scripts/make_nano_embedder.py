"""Makes the embedding model that ships as `nano-embedder`, and keeps its scores in reference/nano-embedder.json.

python -m scripts.make_nano_embedder
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from datetime import date
from pathlib import Path

import torch

from cocoa.data.mmeb_eval import read_tasks
from cocoa.data.scene_tasks import write_scene_tasks
from cocoa.evaluation.runner import evaluate
from cocoa.model import Card, EmbeddingModel
from cocoa.recipe import load_recipe
from cocoa.training.loop import train

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "nano-embedder.yaml"
SHIPPED = ROOT / "src" / "cocoa" / "assets" / "nano-embedder"
REFERENCE = ROOT / "reference" / "nano-embedder.json"
OUT = ROOT / "runs" / "nano-embedder"
TEST_SCENES = {"seed": 0, "num_train": 12, "num_test": 200}
"""The quickstart's test tables."""


def main() -> None:
    """Draws, trains, puts the model in its place, and keeps its scores. Killed and called again, it goes on."""
    if not (OUT / "data").is_dir():
        write_scene_tasks(OUT / "data", seed=5, num_train=2048, num_test=12)
    if not (OUT / "tests").is_dir():
        write_scene_tasks(OUT / "tests", **TEST_SCENES)
    run, made = OUT / "run", OUT / SHIPPED.name
    if not made.is_dir():
        train(load_recipe(RECIPE), run, resume=(run / "recipe.yaml").is_file(), model_folder=made)
    shutil.rmtree(SHIPPED, ignore_errors=True)
    shutil.copytree(made, SHIPPED)
    model = EmbeddingModel.load(SHIPPED, device="cpu")
    found = evaluate(model, read_tasks(OUT / "tests"), name="nano-embedder").to_dict()
    kept = {
        "date": date.today().isoformat(),
        "command": "make nano-embedder",
        "hardware": f"{os.cpu_count()} {platform.machine()} cores, torch {torch.__version__}",
        "seconds": round(sum(stage["seconds"] for stage in Card.read(SHIPPED).receipt["stages"].values())),
        "summary": found["summary"],
        "tasks": {name: task["hit_at_1"] for name, task in found["tasks"].items()},
    }
    REFERENCE.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
