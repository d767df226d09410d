"""`cocoa synthesize`, `cocoa check-data`, `cocoa mine`: the data around a model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cocoa.cli.console import A_MODEL, console, counted, errors, refuse_idle
from cocoa.errors import UsageError


class Engine(StrEnum):
    """Who makes the texts of a synthesis."""

    endpoint = "endpoint"
    local = "local"


def synthesize(
    context: typer.Context,
    images: Annotated[Path, typer.Argument(help="Folder of pictures, or a .zip archive of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the table; a job that was killed goes on there.")],
    kind: Annotated[str, typer.Option(help="captions (warm-up) or questions, with answers (bridge).")],
    model: Annotated[str, typer.Option(help="Name at the endpoint; locally a folder, hub id or nano.")],
    endpoint: Annotated[str, typer.Option(help="OpenAI-compatible address, such as http://localhost:8000/v1.")] = "",
    engine: Annotated[Engine, typer.Option(help="Who is asked; local: a model in this process.")] = Engine.endpoint,
    prompts: Annotated[str | None, typer.Option(help="Prompt file (.yaml) or name; default: of the kind.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable that holds the key.")] = None,
    concurrency: Annotated[int, typer.Option(help="Most requests at once.")] = 16,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take.")] = 120.0,
    retries: Annotated[int, typer.Option(help="Attempts after the first.")] = 5,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest words.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(help="Longest reply.")] = 1024,
    max_pixels: Annotated[int, typer.Option(help="Larger pictures are made smaller first.")] = 1280 * 28 * 28,
    seed: Annotated[int, typer.Option(help="Of the replies and of --limit.")] = 0,
    extra: Annotated[
        str, typer.Option(help="JSON object for the request or the local model; null leaves a field out.")
    ] = "{}",
    limit: Annotated[int | None, typer.Option(help="Draw so many of the pictures.")] = None,
    shard_size: Annotated[int, typer.Option(help="Pictures written at a time.")] = 256,
    price: Annotated[tuple[float, float], typer.Option(help="Of a million prompt and completion tokens.")] = (0.0, 0.0),
    retry_bad: Annotated[bool, typer.Option(help="Ask again about bad rows.")] = False,
    copy_images: Annotated[bool, typer.Option(help="Copy the pictures instead of linking to them.")] = False,
    device: Annotated[str | None, typer.Option(help="For --engine local; default a GPU where there is one.")] = None,
) -> None:
    """Make captions, or questions with answers, from pictures with a model; resumable, nothing is paid twice."""
    import json
    from contextlib import nullcontext

    from cocoa.synthesis import KINDS, Endpoint, Prices, Sampling
    from cocoa.synthesis import synthesize as run

    if kind not in KINDS:
        raise UsageError("E_USAGE_SYNTHESIS", f"--kind is {kind!r}; use {' or '.join(KINDS)}")
    try:
        fields = json.loads(extra)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise UsageError("E_USAGE_SYNTHESIS", "--extra must be a JSON object")
    opened: Any
    if engine is Engine.local:
        elsewhere = ("endpoint", "api_key_env", "concurrency", "timeout", "retries")
        refuse_idle(context, "with --engine local", *elsewhere)
        from cocoa.synthesis.local import LocalEngine

        opened = nullcontext(LocalEngine.open(model, device=device))
    else:
        refuse_idle(context, "with --engine endpoint", "device")
        if not endpoint:
            raise UsageError("E_USAGE_ENDPOINT", "give --endpoint, as http://localhost:8000/v1, or --engine local")
        opened = Endpoint(
            endpoint, model, api_key_env=api_key_env, concurrency=concurrency, timeout=timeout, retries=retries
        )
    with opened as asked, Progress(BarColumn(), TextColumn("{task.description}"), console=errors) as bar:
        line = bar.add_task("starting", total=None)
        summary = run(
            images,
            out,
            kind=kind,
            engine=asked,
            prompts=prompts,
            sampling=Sampling(temperature, max_tokens, seed, fields),
            max_pixels=max_pixels,
            limit=limit,
            shard_size=shard_size,
            retry_bad=retry_bad,
            copy_images=copy_images,
            prices=Prices(*price),
            on_progress=lambda now: bar.update(line, total=now.total, completed=now.done, description=now.line()),
            say=lambda text: bar.console.print(escape(text)),
        )
    made = f"{counted(summary.rows, 'row')} of {counted(summary.pictures, 'picture')}"
    console.print(f"{made} in [bold]{escape(str(summary.table))}[/]", soft_wrap=True)
    for what, counts in {"dropped": summary.dropped, "bad": summary.bad}.items():
        if counts:
            listed = ", ".join(f"{number} {name}" for name, number in counts.items())
            console.print(f"{what}: {listed}; listed in {escape(str(out / 'job'))}", soft_wrap=True)


def check_data(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a YAML file.")],
    tasks: Annotated[str | None, typer.Option(help="Tasks to look for in the training data, as for evaluate.")] = None,
    old_tasks: Annotated[str | None, typer.Option("--eval", hidden=True, help="The name of --tasks once.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for check.json and check.html; default runs/NAME-check.")
    ] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Rows of each source to look at; default all.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Change an option (may be repeated).")] = None,
) -> None:
    """Look at a recipe's data before training: what is broken, repeated, leaked from the evaluation, or cut.

    Exits with 1 if there is an error among the findings.
    """
    from cocoa.checking.check import check_data as run
    from cocoa.checking.page import write_check
    from cocoa.data.mmeb_folders import find_data
    from cocoa.recipe import load_recipe

    if tasks is not None and old_tasks is not None:
        raise UsageError("E_USAGE_IDLE", "--eval is the old name of --tasks: give one of them")
    tasks = old_tasks if tasks is None else tasks
    loaded = load_recipe(recipe, changes or ())
    out = out or Path("runs") / f"{loaded.name}-check"
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        lines: dict[str, Any] = {}

        def on_progress(what: str, done: int, total: int) -> None:
            line = lines.setdefault(what, len(lines))
            if line == len(bar.tasks):
                bar.add_task(what, total=total)
            bar.update(bar.tasks[line].id, completed=done)

        folder = None if tasks is None else find_data(tasks)
        found = run(loaded, tasks=folder, sample=sample, on_progress=on_progress)
    write_check(found, out)
    styles = {"error": "bold red", "warning": "yellow", "note": "dim"}
    for finding in found.findings:
        # Two stages may have the same fault, each with its own rows.
        stages = f" in {', '.join(finding.stages)}" if finding.stages and len(loaded.stages) > 1 else ""
        first = finding.examples[0]
        said = f"{finding.title}: {finding.count:,}{stages} [{finding.code}], first at {first.where}: {first.message}"
        console.print(f"[{styles[finding.level]}]{finding.level}:[/] {escape(said)}", soft_wrap=True, highlight=False)
    if not found.findings:
        rows = sum(stage.num_read for stage in found.stages)
        stages, pictures = counted(len(found.stages), "stage"), counted(found.num_pictures, "picture")
        console.print(f"Nothing found in {counted(rows, 'row')} of {stages} and {pictures}.", highlight=False)
    console.print(f"Page in [bold]{escape(str(out / 'check.html'))}[/]", soft_wrap=True)
    if found.num_errors:
        raise typer.Exit(1)


def mine(
    model: Annotated[str, typer.Argument(help=A_MODEL)],
    train: Annotated[Path, typer.Argument(help="Training table, or a folder of them, in MMEB's columns.")],
    out: Annotated[Path, typer.Option(help="Folder for the tables with negatives.")],
    negatives: Annotated[int, typer.Option(help="Negatives of each row.")] = 7,
    min_rank: Annotated[int, typer.Option(help="Nearest wrong target that may be taken; 1 is the nearest.")] = 1,
    max_rank: Annotated[int, typer.Option(help="Farthest wrong target that may be taken.")] = 100,
    max_score: Annotated[float | None, typer.Option(help="Highest score of a negative.")] = None,
    max_ratio: Annotated[float, typer.Option(help="Highest share of the positive's score; inf: no bound.")] = 0.95,
    margin: Annotated[float | None, typer.Option(help="A negative scores so much below the positive.")] = None,
    draw: Annotated[str, typer.Option(help="top of the window, or random in it.")] = "top",
    seed: Annotated[int, typer.Option(help="Of the random draw.")] = 0,
    pool: Annotated[str, typer.Option(help="Search the row's own table, or all.")] = "table",
    replace: Annotated[bool, typer.Option("--replace", help="Replace the negatives that are there.")] = False,
    split: Annotated[str, typer.Option(help="Wording of a snapshot of MMEB-train.")] = "original",
    only: Annotated[list[str] | None, typer.Option("--only", help="This subset only (may be repeated).")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows read of each table.")] = None,
    max_bad_rate: Annotated[float | None, typer.Option(help="Rate of bad rows that may be left out.")] = None,
    copy_images: Annotated[bool, typer.Option("--copy-images", help="Copy pictures, do not link.")] = False,
    vectors: Annotated[Path | None, typer.Option(help="Folder of vectors that several jobs share.")] = None,
) -> None:
    """Put hard negatives into training tables, found with one's own model."""
    from cocoa.mining import Window
    from cocoa.mining import mine as run

    bound = None if max_ratio == float("inf") else max_ratio
    window = Window(negatives, min_rank, max_rank, max_score, bound, margin, draw, seed)  # type: ignore[arg-type]
    columns = (TextColumn("embedding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors) as bar:
        line = bar.add_task("")
        made = run(
            model,
            train,
            out,
            window=window,
            pool=pool,  # type: ignore[arg-type]
            keep=not replace,
            split=split,
            subsets=only,
            limit=limit,
            max_bad_rate=max_bad_rate,
            copy_images=copy_images,
            vectors=vectors,
            on_progress=lambda done, total: bar.update(line, completed=done, total=total),
            say=bar.console.print,
        )
    console.print(
        f"{counted(made.mined, 'negative')} for {counted(made.rows, 'row')}, with fewer than {negatives}: "
        f"{made.short_rows:,}; {made.not_first:.1%} of positives are not first; bad rows left out: "
        f"{sum(made.bad.values()):,}. "
        f"Tables in [bold]{escape(str(out / 'train'))}[/]",
        soft_wrap=True,
    )
    if made.bounded_rows:
        bounds = {"--max-ratio": bound, "--max-score": max_score, "--margin": margin}
        given = ", ".join(f"{name} {value}" for name, value in bounds.items() if value is not None)
        console.print(
            f"[yellow]rows that would have more but for {given}: {made.bounded_rows:,}[/]; what is near them scores "
            f"higher. Where this model's scores lie is in {escape(str(out / 'mining.json'))}",
            soft_wrap=True,
            highlight=False,
        )
