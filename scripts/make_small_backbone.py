"""Makes the backbone of 7.7 million parameters that studies/small-scale.yaml begins from, in runs/small-backbone/model,
and keeps what its training came to in reference/small-backbone.json.

python -m scripts.make_small_backbone
"""

from __future__ import annotations

import json
import os
import platform
from datetime import date
from pathlib import Path
from statistics import mean

import torch

from cocoa.backbones.nano import load_nano, new_nano
from cocoa.files import write_folder
from cocoa.recipe import load_recipe
from cocoa.training.loop import train

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "small-backbone.yaml"
OUT = ROOT / "runs" / "small-backbone"
REFERENCE = ROOT / "reference" / "small-backbone.json"
LAST_STEPS = 100
"""The losses that are kept are means over so many steps, as single batches differ."""


def write_untrained(folder: Path) -> None:
    """Writes the random backbone: twice nano's width, half as many layers again, twice its vision tower."""
    torch.manual_seed(0)
    text = load_nano(weights=False).text
    backbone = new_nano(text, hidden_size=256, num_layers=6, vision_size=192, num_vision_layers=4)
    # Whole or not there: a folder that is there is taken for made.
    with write_folder(folder, manifest=False) as draft:
        backbone.save(draft)


def main() -> None:
    """Draws, trains, and keeps the losses. Killed and called again, it goes on."""
    if not (OUT / "untrained").is_dir():
        write_untrained(OUT / "untrained")
    run = OUT / "run"
    recipe = load_recipe(RECIPE)
    model, log = train(recipe, run, resume=(run / "recipe.yaml").is_file(), model_folder=OUT / "model")
    stages = {}
    for stage in recipe.stages:
        records = [record for record in log.records if record["stage"] == stage.name]
        stages[stage.name] = {
            "steps": len(records),
            "next_token": round(mean(record["losses"]["next_token"] for record in records[-LAST_STEPS:]), 4),
            "seconds": round(sum(record["seconds"] for record in records)),
        }
    kept = {
        "date": date.today().isoformat(),
        "command": "make small-backbone",
        "hardware": f"{os.cpu_count()} {platform.machine()} cores, torch {torch.__version__}",
        "parameters": sum(weights.numel() for weights in model.backbone.parameters()),
        "stages": stages,
    }
    REFERENCE.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
