"""Trains both variants of recipes/open-sets.yaml for several seeds, scores them, and writes docs/results.md.

    python scripts/run_open_sets.py --out runs/open-sets

A run that has its results is not repeated, so an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cocoa.data.mmeb_eval import read_tasks
from cocoa.evaluation.runner import evaluate
from cocoa.recipe import Recipe, load_recipe
from cocoa.sample import META_TASKS
from cocoa.training.loop import train

ROOT = Path(__file__).parents[1]
VARIANTS = ("contrastive_only", "cocoa")
Results = dict[str, Any]


def run(recipe: Recipe, variant: str, seed: int, out: Path, tasks_folder: Path) -> Results:
    """Returns the results of one variant and seed; trains only if they are not there yet."""
    done = out / f"{variant}-{seed}" / "study.json"
    if done.is_file():
        results: Results = json.loads(done.read_text())
        return results
    if done.parent.exists():
        shutil.rmtree(done.parent)  # an interrupted run of this study
    stages = recipe.stages if variant == "cocoa" else recipe.stages[-1:]
    began = time.perf_counter()
    model, log = train(recipe.model_copy(update={"seed": seed, "stages": stages}), done.parent)
    trained = time.perf_counter()
    results = evaluate(model, read_tasks(tasks_folder), name=f"{variant}-{seed}").to_dict()
    results["seconds"] = {"train": trained - began, "evaluate": time.perf_counter() - trained}
    results["steps"] = len(log.records)
    done.write_text(json.dumps(results, indent=1) + "\n")
    return results


def page(recipe: Recipe, seeds: Sequence[int], runs: Mapping[str, Sequence[Results]]) -> str:
    """Returns docs/results.md."""
    first = runs[VARIANTS[0]][0]["tasks"]
    lines = [
        "# Results on the open sets",
        "",
        "Real pictures: emoji drawings, flags, clothing, blood cells, NLVR. Written by `make open-sets`, which runs",
        "`python scripts/run_open_sets.py --out runs/open-sets`; no number here is typed by hand.",
        "",
        "Backbone: nano (1.5 million parameters, trained on generated emoji scenes only).",
        f"Seeds: {', '.join(map(str, seeds))}. "
        f"Hardware: {os.cpu_count()} {platform.machine()} cores, torch {torch.__version__}.",
        "Both variants see the same labelled pairs in the same order; `cocoa` has the warm-up and the bridge before.",
        "hit@1 in %, ties against the model, mean ± standard deviation over the seeds.",
        "",
        _verdict(runs),
        "",
        "| | contrastive_only | cocoa | difference |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| **{key}** | " + " | ".join(_compared([_summaries(runs[v], key) for v in VARIANTS])) + " |"
        for key in [*META_TASKS, "overall"]
    ]
    lines += [
        "| training steps | " + " | ".join(str(runs[v][0]["steps"]) for v in VARIANTS) + " | |",
        "| training seconds | " + " | ".join(_seconds(runs[v], "train") for v in VARIANTS) + " | |",
        "| evaluation seconds | " + " | ".join(_seconds(runs[v], "evaluate") for v in VARIANTS) + " | |",
        "",
        "Stages of `cocoa`: "
        + "; ".join(f"{s.name} {s.steps} steps of {s.batch_size} pairs at {s.learning_rate:g}" for s in recipe.stages)
        + ".",
        "",
        "| task | meta-task | chance | blind | contrastive_only | cocoa | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, facts in first.items():
        rates = [[run["tasks"][name]["hit_at_1"] for run in runs[v]] for v in VARIANTS]
        guesses = " | ".join(f"{100 * facts[key]:.1f}" if facts[key] is not None else "" for key in ("chance", "blind"))
        lines.append(f"| {name} | {facts['meta_task']} | {guesses} | " + " | ".join(_compared(rates)) + " |")
    lines += [
        "",
        "*chance*: a random guess. *blind*: the most frequent training answer to the same question, picture unseen.",
        "A score at or below *blind* says that the pictures of that task did not help.",
        "",
    ]
    return "\n".join(lines)


def _verdict(runs: Mapping[str, Sequence[Results]]) -> str:
    before, after = (_summaries(runs[variant], "overall") for variant in VARIANTS)
    differences = [100 * (b - a) for a, b in zip(before, after, strict=True)]
    mean = statistics.mean(differences)
    shown = f"Overall `cocoa` is {mean:+.1f} points from `contrastive_only` over {len(differences)} seeds"
    if len(differences) < 2:
        return f"{shown}: too few to say anything."
    error = statistics.stdev(differences) / len(differences) ** 0.5
    if abs(mean) <= 2 * error:
        return f"**{shown}, with a standard error of {error:.1f}: no difference is shown at this scale.**"
    return f"**{shown}, with a standard error of {error:.1f}.**"


def _summaries(runs: Sequence[Results], key: str) -> list[float]:
    return [run["summary"][key] for run in runs]


def _seconds(runs: Sequence[Results], key: str) -> str:
    return f"{statistics.mean(run['seconds'][key] for run in runs):.0f}"


def _compared(rates: Sequence[Sequence[float]]) -> list[str]:
    shown = [
        f"{100 * statistics.mean(r):.1f}" + (f" ± {100 * statistics.stdev(r):.1f}" if len(r) > 1 else "") for r in rates
    ]
    differences = [100 * (b - a) for a, b in zip(*rates, strict=True)]
    spread = f" ± {statistics.stdev(differences):.1f}" if len(differences) > 1 else ""
    return [*shown, f"{statistics.mean(differences):+.1f}{spread}"]


def main() -> None:
    """Runs the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    options = parser.parse_args()
    recipe = load_recipe(ROOT / "recipes" / "open-sets.yaml")
    runs: dict[str, list[Results]] = {variant: [] for variant in VARIANTS}
    for seed in options.seeds:
        for variant in VARIANTS:
            runs[variant].append(run(recipe, variant, seed, options.out, options.tasks))
            print(
                variant, seed, {key: round(value, 4) for key, value in runs[variant][-1]["summary"].items()}, flush=True
            )
    options.page.write_text(page(recipe, options.seeds, runs))


if __name__ == "__main__":
    main()
