"""What a link costs: steps, pairs and seconds from its log, FLOPs counted on sampled pairs without its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cocoa.ablation.links import Link
from cocoa.files import write_file
from cocoa.planning.costs import Costs
from cocoa.planning.lengths import sample_pairs
from cocoa.planning.passes import step_of
from cocoa.portable import portable
from cocoa.recipe import MachineOptions, Recipe
from cocoa.report.totals import total
from cocoa.training.setup import backbone_of, model_of, open_data, set_pixel_limits

_SAMPLED = 256
_MOST_STEPS = 4
_NO_COST = {"steps": 0, "pairs": 0, "tokens": 0, "seconds": 0.0, "flops": 0.0}


def cost_of(link: Link, links: Path, places: Mapping[str, str]) -> dict[str, Any]:
    """Returns what a trained link took: `steps`, `pairs`, `tokens`, `seconds`, `flops`, as JSON can hold them.

    `places` as in `flops_of`.
    """
    lines = (links / link.address / "metrics.jsonl").read_text().splitlines()
    totals = total(json.loads(line) for line in lines)
    return {
        "steps": totals.steps,
        "pairs": totals.pairs,
        "tokens": round(totals.tokens),
        "seconds": round(totals.seconds, 2),
        "flops": totals.steps * flops_of(link.recipe, links.parent / "flops", places),
    }


def added(costs: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the sums of costs."""
    return {key: sum((cost[key] for cost in costs), start=zero) for key, zero in _NO_COST.items()}


def flops_of(recipe: Recipe, kept: Path, places: Mapping[str, str]) -> float:
    """Returns the FLOPs of one step of a recipe's only stage, forward and backward; counted once and kept in a file.

    The file is named by what is counted, with `places` as in `chain_of`: a study that goes on elsewhere finds it.
    """
    # Neither how long nor how fast it learns changes what a step does. The machine does: but it may be another when a
    # study goes on, and arms of equal FLOPs must not be trained for other steps then.
    stage = recipe.stages[0].model_copy(update={"steps": 10**6, "warmup_steps": 0, "learning_rate": 1.0})
    recipe = recipe.model_copy(update={"stages": (stage,), "seed": 0, "machine": MachineOptions()})
    content = json.dumps(
        portable(recipe.model_dump(mode="json", exclude={"name", "machine", "prompts"}), places), sort_keys=True
    )
    path = kept / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.json"
    if not path.is_file():
        write_file(path, json.dumps({"stage": stage.name, "flops": _count(recipe)}) + "\n")
    return float(json.loads(path.read_text())["flops"])


def _count(recipe: Recipe) -> float:
    stage, options = recipe.stages[0], recipe.backbone
    backbone = backbone_of(recipe, weights=False)
    model = model_of(recipe, stage, backbone)
    set_pixel_limits(model, options.min_pixels, options.max_pixels, "recipe: backbone")
    set_pixel_limits(model, stage.min_pixels, stage.max_pixels, f"recipe: stage {stage.name}")
    pairs = sample_pairs(model, stage, open_data(recipe, stage), _SAMPLED).pairs
    costs = Costs(backbone, recipe, stage)
    size = stage.batch_size
    num_steps = min(_MOST_STEPS, max(1, len(pairs) // size))
    taken = [pairs[place % len(pairs)] for place in range(num_steps * size)]
    steps = [
        step_of(model, stage, taken[number * size : (number + 1) * size], recipe.machine) for number in range(num_steps)
    ]
    return float(np.mean([costs.flops(step, recipe.machine) for step in steps]))
