"""`cocoa ablate`: ways of training against each other. `cocoa probe`: what explains a model's scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from cocoa.cli.console import A_MODEL, console
from cocoa.errors import UsageError


def ablate(
    study: Annotated[Path, typer.Argument(help="Study, a YAML file.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the study; default runs/NAME. Run again, it goes on.")] = (
        None
    ),
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change an option of the study: seeds=[0,1] (may be repeated).")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ARM/BUDGET/SEED", help="Only these runs, light/*/0 (may be repeated): machines can share."
        ),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Train nothing; write the tables of the runs that are done.")
    ] = False,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Copy the records to FOLDER/NAME, from which the study can go on."),
    ] = None,
    again: Annotated[
        str | None,
        typer.Option("--repeat", metavar="ARM/BUDGET/SEED", help="Only train this run again from its stored recipe."),
    ] = None,
) -> None:
    """Train the arms of a study with every seed under every budget, and test each against the baseline."""
    from cocoa.ablation.analysis import analyse
    from cocoa.ablation.job import Job
    from cocoa.ablation.records import keep as keep_records
    from cocoa.ablation.records import read_records
    from cocoa.ablation.study import load_study
    from cocoa.ablation.trials import Standing
    from cocoa.ablation.writing import write_results

    if report_only and only:
        raise UsageError("E_USAGE_RUN", "--only has no effect with --report-only, which tells of all runs")
    loaded = load_study(study, changes or ())
    out = out or Path("runs") / loaded.name
    if again is not None:
        if only or report_only or keep is not None:
            raise UsageError("E_USAGE_RUN", "--repeat trains one run again and does nothing else: give it alone")
        _repeat(Job(loaded, out, folder=study.parent), again)
        return
    if not report_only:
        with Live(console=console, refresh_per_second=2) as live:

            def on_standing(standing: Standing) -> None:
                if console.is_terminal:
                    live.update(_table(analyse(loaded, standing.records).to_dict(), standing), refresh=True)
                else:
                    # Where nothing can be overwritten, a line for each run.
                    _say(_said(standing))

            Job(loaded, out, folder=study.parent, only=only or (), on_standing=on_standing, say=_say).run()
    else:
        Job(loaded, out, folder=study.parent).check_begun()
    records = read_records(out)
    write_results(analyse(loaded, records), records, out)
    where, page = escape(str(out / "results.md")), escape(str(out / "report.html"))
    console.print(f"Tables in [bold]{where}[/], with charts in {page}", soft_wrap=True)
    if keep is not None:
        kept = keep_records(out, keep, folder=study.parent)
        _say(f"{kept.new} records kept in {kept.folder}, {kept.old} were there")


def probe(
    model: Annotated[str, typer.Argument(help=A_MODEL)],
    tasks: Annotated[str, typer.Option(help="Folder in MMEB's format, folder of such folders, mmeb-v1, or hub id.")],
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write them there.")] = None,
) -> None:
    """Measure a model's vectors, layer by layer too: how they lie, what e holds and looks at, what is read off it."""
    from cocoa.data.mmeb_eval import read_tasks
    from cocoa.data.mmeb_folders import find_data
    from cocoa.files import write_file
    from cocoa.model import EmbeddingModel, local_folder
    from cocoa.probing import probe as measure

    found = measure(EmbeddingModel.load(local_folder(model)), read_tasks(find_data(tasks)))
    table = Table("probe", "value", box=None)
    for name, value in found.whole.items():
        table.add_row(name.replace("_", " "), f"{value:.3f}")
    console.print(table)
    by_layer = Table("by layer", *(str(number) for number in range(1, len(found.layers) + 1)), box=None)
    for name in found.layers[-1]:
        by_layer.add_row(name.replace("_", " "), *(f"{layer[name]:.3f}" for layer in found.layers))
    console.print(by_layer)
    if json_file is not None:
        write_file(json_file, json.dumps(found.to_dict(), indent=1) + "\n")


def _repeat(job: Any, name: str) -> None:
    """Shows a run's numbers as stored and as they come again; ends with 1 where they differ."""
    from cocoa.ablation.repeating import repeat

    found = repeat(job, name)
    table = Table("task", "stored", "again", box=None)
    for task, rate in found.stored.items():
        table.add_row(task, f"{100 * rate:.2f}", f"{100 * found.again[task]:.2f}")
    console.print(table)
    if not found.is_same:
        _say("Not the same numbers: compare the record's versions with those that are installed here.")
        raise typer.Exit(1)
    _say("The same numbers.")


def _say(text: str) -> None:
    console.print(escape(text), soft_wrap=True, highlight=False)


def _said(standing: Any) -> str:
    now = standing.now
    running = "" if now is None else f", now {now.arm} under {now.budget}, seed {now.seed}"
    if now is not None and now.number is not None:
        running += f" (tuning, trial {now.number})"
    return f"{standing.done} of {standing.of} runs{running}"


def _table(result: dict[str, Any], standing: Any) -> Table:
    """Every arm under every budget so far: mean hit@1, and the difference to the baseline."""
    columns = [budget["budget"] for budget in result["budgets"]]
    table = Table("arm", *columns, box=None, caption=_said(standing))
    cells: dict[str, dict[str, str]] = {}
    for budget in result["budgets"]:
        for arm in budget["arms"]:
            difference = "" if arm["difference"] is None else f" ({100 * arm['difference']:+.1f})"
            cells.setdefault(arm["title"], {})[budget["budget"]] = (
                f"{100 * arm['score']:.1f}{difference} ×{len(arm['seeds'])}"
            )
    for title, own in cells.items():
        table.add_row(escape(title), *(own.get(budget["budget"], "") for budget in result["budgets"]))
    return table
