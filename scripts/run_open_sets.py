"""Trains both variants of recipes/open-sets.yaml for several seeds, scores them, and writes docs/results.md.

    python scripts/run_open_sets.py --out runs/open-sets

Whatever is there is not done again: a finished training, a finished score. A training that was interrupted goes on from
its checkpoint, a score from the vectors that were kept. So the study can be stopped at any time, and begun again by the
same command. Other machines may take a share: `--seeds 2 --no-page`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cocoa.data.mmeb_eval import read_tasks
from cocoa.evaluation.job import run_job
from cocoa.evaluation.runner import evaluate
from cocoa.evaluation.trivial import ConstantModel, GreyPictures, RandomModel, frequent_answers
from cocoa.files import write_file
from cocoa.model import EmbeddingModel
from cocoa.recipe import Recipe, load_recipe
from cocoa.training.loop import train
from open_sets_page import TRIVIAL, VARIANTS, Results, Run, page

ROOT = Path(__file__).parents[1]


def trained(recipe: Recipe, out: Path) -> Path:
    """Returns the model folder of a recipe's run in `out`, trained as far as it is not yet."""
    if not (out / "model").exists():
        train(recipe, out, resume=(out / "recipe.yaml").is_file())
    return out / "model"


def scored(out: Path, score: Callable[[], Results]) -> Results:
    """Returns the results in `out`, after `score` if there are none."""
    path = out / "results.json"
    if not path.is_file():
        write_file(path, json.dumps(score(), indent=2) + "\n")
    results: Results = json.loads(path.read_text())
    return results


def run(recipe: Recipe, variant: str, seed: int, out: Path, tasks: Path) -> Run:
    """Returns the numbers of one variant and seed; does what of it is not done yet."""
    folder = out / f"{variant}-{seed}"
    stages = recipe.stages if variant == "cocoa" else recipe.stages[-1:]
    model = trained(recipe.model_copy(update={"seed": seed, "stages": stages}), folder)
    evaluation = folder / "evaluation"
    if not (evaluation / "results.json").is_file():
        run_job(model, tasks, evaluation)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Run(
        results=json.loads((evaluation / "results.json").read_text()),
        steps=len(records),
        seconds=sum(record["seconds"] for record in records),
    )


def run_trivial(model: Path, out: Path, tasks: Path) -> dict[str, Results]:
    """Returns the numbers of models that cannot have learned to see, through the same evaluator and scorer."""
    opened = EmbeddingModel.load(model)

    def through_evaluator(trivial: EmbeddingModel, name: str) -> Callable[[], Results]:
        return lambda: evaluate(trivial, read_tasks(tasks), name=name).to_dict()

    ways: dict[str, Callable[[], Results]] = {
        "random": through_evaluator(RandomModel(opened.backbone), "random"),
        "constant": through_evaluator(ConstantModel(opened.backbone), "constant"),
        "grey pictures": through_evaluator(GreyPictures(opened), "grey pictures"),
        "frequent answer": lambda: _frequent_answers(tasks),
    }
    return {name: scored(out / f"trivial-{name.replace(' ', '-')}", ways[name]) for name in TRIVIAL}


def _frequent_answers(tasks: Path) -> Results:
    scores = frequent_answers(read_tasks(tasks), sorted(path for path in tasks.iterdir() if (path / "train").is_dir()))
    return {"tasks": {name: _rates(score) for name, score in scores.items()}}


def _rates(score: Any) -> dict[str, float]:
    return {name: getattr(score, name) for name in ("hit_at_1", "expected_hit_at_1", "official_hit_at_1")}


def main() -> None:
    """Runs the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "open-sets.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    parser.add_argument("--no-page", action="store_true", help="only do a share of the work")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe)
    recipe = recipe.model_copy(update={"machine": recipe.machine.model_copy(update={"checkpoint_every": 20})})
    runs: dict[str, list[Run]] = {variant: [] for variant in VARIANTS}
    for seed in options.seeds:
        for variant in VARIANTS:
            runs[variant].append(run(recipe, variant, seed, options.out, options.tasks))
            rates = {key: round(rate, 4) for key, rate in runs[variant][-1].results["summary"].items()}
            print(variant, seed, rates, flush=True)
    trivial = run_trivial(options.out / f"cocoa-{options.seeds[0]}" / "model", options.out, options.tasks)
    if not options.no_page:
        options.page.write_text(page(recipe, options.seeds, runs, trivial))


if __name__ == "__main__":
    main()
