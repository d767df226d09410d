"""One optimiser step of each stage of the paper's recipe at the real Qwen2-VL-2B shape, with random weights.

    python -m scripts.step_real_shape --shape ../shared/qwen2_vl --out reference/real-shape.json

Nothing is learnt from random weights; what is shown is that every stage runs at this size, in how much memory and time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from datetime import date
from pathlib import Path

import torch
from benchmarks.backbones import real_shape

from cocoa.data.scene_pairs import ScenePairs
from cocoa.model import EmbeddingModel
from cocoa.recipe import load_recipe
from cocoa.training.batches import encode_pairs
from cocoa.training.ranks import Ranks
from cocoa.training.setup import set_up
from cocoa.training.step import backward_step


def main() -> None:
    """Runs the steps and writes what they cost."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", type=Path, default=Path("../shared/qwen2_vl"))
    parser.add_argument("--out", type=Path, default=Path("reference/real-shape.json"))
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--pixels", type=int, default=112, help="width and height of the pictures")
    parser.add_argument("--only", help="this stage alone; the others stay in the file as they are")
    parser.add_argument("--dora", action="store_true", help="the paper's DoRA, slow on two cores")
    arguments = parser.parse_args()
    recipe = load_recipe(Path("recipes/cocoa-qwen2-vl-2b.yaml"))
    ranks = Ranks.join()
    began = time.perf_counter()
    backbone = real_shape(arguments.shape, "qwen2-vl-2b", ranks.device)
    model = EmbeddingModel(backbone, max_tokens=recipe.max_tokens)
    print(f"{sum(weight.numel() for weight in backbone.parameters()):,} weights in {time.perf_counter() - began:.0f} s")
    scenes = ScenePairs(seed=0, num_pairs=100, pixels=arguments.pixels)
    stages = {}
    for planned in recipe.stages:
        stage = planned
        if arguments.only not in (None, stage.name):
            continue
        began = time.perf_counter()
        assert stage.adapter is not None
        stage = stage.model_copy(update={"adapter": stage.adapter.model_copy(update={"dora": arguments.dora})})
        setup = set_up(model, recipe, stage, sharded=False)
        assert setup.adapter is not None
        setup.trainee.train()
        # A single pair has nothing to be told apart from.
        size = max(2, arguments.batch_size) if stage.name == "contrastive" else arguments.batch_size
        pairs = encode_pairs(backbone, [scenes[number] for number in range(size)])
        before = {name: weight.detach().clone() for name, weight in setup.trainee.trained.items()}
        tally = backward_step(setup.trainee, pairs, ranks, recipe.machine, seed=0)
        norm = float(torch.nn.utils.clip_grad_norm_(setup.trainee.trained.values(), stage.max_grad_norm))
        setup.optimiser.step()
        moved = sum(not torch.equal(before[name], weight) for name, weight in setup.trainee.trained.items())
        step_seconds = time.perf_counter() - began
        num_trained = sum(weight.numel() for weight in before.values())
        setup.adapter.merge()
        stages[stage.name] = {
            "losses": tally.losses,
            "gradient_norm": norm,
            "tokens": tally.num_tokens,
            "trained_weights": num_trained,
            "tensors_moved": f"{moved} of {len(before)}",
            "seconds": round(step_seconds, 1),
            "peak_memory_gb": round(_peak(ranks.device) / 1e9, 2),
        }
        print(stage.name, stages[stage.name], flush=True)
    if arguments.only and arguments.out.exists():
        stages = json.loads(arguments.out.read_text())["stages"] | stages
    result = {
        "what": "one optimiser step of each stage, Qwen2-VL-2B shape, random weights, bfloat16, "
        + ("DoRA" if arguments.dora else "LoRA")
        + " of rank 8, vision too",
        "date": date.today().isoformat(),
        "hardware": _hardware(ranks.device),
        "torch": torch.__version__,
        "command": f"python -m scripts.step_real_shape --batch-size {arguments.batch_size} --pixels {arguments.pixels}"
        + (" --dora" if arguments.dora else ""),
        "stages": stages,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} {platform.machine()} cores"


if __name__ == "__main__":
    main()
