"""`cocoa evaluate`: a model and its scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cocoa.cli.console import A_MODEL, console, errors, rank, refuse_idle, summary_table

_RATES = {"official_hit_at_1": "official", "chance": "chance", "blind": "blind"}


def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help=A_MODEL)],
    tasks: Annotated[str, typer.Option(help="Folder in MMEB's format, folder of such folders, mmeb-v1, or hub id.")],
    out: Annotated[Path | None, typer.Option(help="Folder for results.json and report.html.")] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Score this task only (may be repeated).")] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=0.999, help="Score this share of the training tables instead; see held_out of data."
        ),
    ] = None,
    held_out_seed: Annotated[int, typer.Option(help="Which share it is.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Where vectors are kept for others; default OUT/cache.")] = None,
    workers: Annotated[int, typer.Option(help="Processes that share the work.")] = 1,
) -> None:
    """Score a model on tasks: hit@1 with ties against the model. Killed and started again, it goes on.

    On several GPUs: --workers 8, or torchrun --nproc-per-node 8 -m cocoa evaluate MODEL --tasks DIR --out DIR
    """
    if held_out is None:
        refuse_idle(context, "without --held-out", "held_out_seed")
    from cocoa.data.held_out import HeldOut
    from cocoa.evaluation.job import run_job
    from cocoa.evaluation.progress import EvaluationProgress

    with EvaluationProgress(errors if rank() in (None, 0) else Console(quiet=True)) as progress:
        result = run_job(
            model,
            tasks,
            out,
            only=only,
            held_out=None if held_out is None else HeldOut(share=held_out, seed=held_out_seed),
            cache=cache,
            processes=workers,
            on_pictures=progress.pictures,
            on_progress=progress.embedding,
        )
    if result is None:
        return
    scored = result.to_dict()["tasks"]
    # MMEB's own rule says something else only where there are ties.
    rates = tuple(key for key in _RATES if key != "official_hit_at_1" or any(task["ties"] for task in scored.values()))
    table = Table("task", "meta-task", "hit@1 (95 %)", *(_RATES[key] for key in rates), "queries", "of", box=None)
    table.padding, table.caption = (0, 1, 0, 0), "hit@1 in %, of so many candidates"
    for name, task in scored.items():
        low, high = (f"{100 * rate:.0f}" for rate in task["ci95"])
        numbers = (f"{100 * task[key]:.1f}" if task[key] is not None else "" for key in rates)
        table.add_row(
            escape(name),
            task["meta_task"],
            f"{100 * task['hit_at_1']:.1f} ({low}–{high})",
            *numbers,
            str(task["queries"]),
            str(task["candidates"]),
        )
    console.print(table)
    if result.summary:
        console.print(summary_table({str(model): result.summary}))
    else:
        missing = f" Missing of MMEB-V1: {', '.join(result.missing)}." if result.missing else ""
        several = "s" if len(result.tasks) > 1 else ""
        said = f"{len(result.tasks)} task{several} of a set; no mean over a part of it.{missing}"
        console.print(said, highlight=False)
    if out is not None:
        where, page = escape(str(out / "results.json")), escape(str(out / "report.html"))
        console.print(f"Results in [bold]{where}[/], with pictures in {page}", soft_wrap=True)
