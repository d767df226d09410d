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
from cocoa.model import EmbeddingModel, local_folder
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
    """Draws, trains, puts the model in its place, and keeps its scores. A training that was killed goes on."""
    if not (OUT / "data").is_dir():
        write_scene_tasks(OUT / "data", seed=5, num_train=2048, num_test=12)
    if not (OUT / "tests").is_dir():
        write_scene_tasks(OUT / "tests", **TEST_SCENES)
    _, log = train(load_recipe(RECIPE), OUT / "run", resume=(OUT / "run").is_dir())
    shutil.rmtree(SHIPPED, ignore_errors=True)
    shutil.copytree(OUT / "run" / "model", SHIPPED)
    model = EmbeddingModel.load(local_folder("nano-embedder"))
    found = evaluate(model, read_tasks(OUT / "tests"), name="nano-embedder").to_dict()
    kept = {
        "date": date.today().isoformat(),
        "command": "make nano-embedder",
        "hardware": f"{os.cpu_count()} {platform.machine()} cores, torch {torch.__version__}",
        "seconds": round(sum(record["seconds"] for record in log.records)),
        "summary": found["summary"],
        "tasks": {name: task["hit_at_1"] for name, task in found["tasks"].items()},
    }
    REFERENCE.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
