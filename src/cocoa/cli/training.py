"""`cocoa train`, `cocoa plan`, `cocoa recipe show`: a recipe and what it does."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from cocoa.cli.console import console, errors


def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a YAML file.")],
    out: Annotated[Path | None, typer.Option(help="New folder for the run; default runs/NAME.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change an option: stages.warm-up.steps=10 (may be repeated).")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out from its last checkpoint.")] = (
        False
    ),
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write the numbers to OUT/tensorboard.")
    ] = False,
) -> None:
    """Train the stages of a recipe and write the model folder.

    On several GPUs: torchrun --nproc-per-node 8 -m cocoa train RECIPE
    """
    from cocoa.files import write_file
    from cocoa.recipe import load_recipe
    from cocoa.report import train_page
    from cocoa.report.progress import TrainingProgress
    from cocoa.training.board import Board
    from cocoa.training.loop import train as run
    from cocoa.training.ranks import Ranks

    loaded = load_recipe(recipe, changes or ())
    out = out or Path("runs") / loaded.name
    # Made before anybody waits for anybody: it fails on all ranks or on none.
    board = Board(out) if tensorboard else None
    ranks = Ranks.join(loaded.machine.rank_timeout)
    screen = console if ranks.is_first else Console(quiet=True)
    with (
        TrainingProgress(screen, loaded.stages) as progress,
        board if board is not None and ranks.is_first else nullcontext(),
    ):

        def on_step(stage: Any, record: dict[str, Any]) -> None:
            progress.step(stage, record)
            if board is not None:
                board.add(record)

        def on_trained(log: Any) -> None:
            write_file(out / "report.html", train_page(loaded, log.records))

        run(loaded, out, resume=resume, ranks=ranks, on_step=on_step, on_trained=on_trained, say=progress.say)
    if not ranks.is_first:
        return
    model, report = escape(str(out / "model")), escape(str(out / "report.html"))
    console.print(f"Model in [bold]{model}[/], curves in {report}", soft_wrap=True)


def plan(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a YAML file.")],
    device: Annotated[str, typer.Option(help="What it will run on: here, h100, h200 or a100-80gb.")] = "here",
    ranks: Annotated[int, typer.Option(min=1, help="How many of them.")] = 1,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Change an option (may be repeated).")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the plan there.")] = None,
) -> None:
    """Say what a recipe will take before it is run: tokens, padding, memory, time, and the rows that will not fit."""
    from cocoa.files import write_file
    from cocoa.planning.plan import plan as make_plan
    from cocoa.planning.show import show
    from cocoa.recipe import load_recipe

    loaded = load_recipe(recipe, changes or ())
    with errors.status("reading the data and counting steps …"):
        made = make_plan(loaded, device=device, ranks=ranks)
    console.print(show(made))
    if json_file is not None:
        write_file(json_file, json.dumps(made.to_dict(), indent=2) + "\n")


def show_recipe(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a YAML file.")],
    changes: Annotated[list[str] | None, typer.Option("--set", help="Change an option (may be repeated).")] = None,
) -> None:
    """Print a recipe with all defaults, and the picture of each stage's attention layout."""
    from cocoa.layouts import LAYOUTS
    from cocoa.recipe import load_recipe

    loaded = load_recipe(recipe, changes or ())
    console.print(escape(loaded.to_yaml()), highlight=False)
    for stage in loaded.stages:
        is_joined = "B" in stage.letters
        what = "A context, e bridge token, B target" if is_joined else "A a query or a target by itself, e bridge token"
        console.print(f"[bold]{stage.name}[/]: {stage.layout} (rows look at columns; {what})", soft_wrap=True)
        console.print(escape(LAYOUTS[stage.layout].draw(stage.letters)) + "\n", highlight=False)
