"""The command line: parsing, progress and exit codes; what is done stands elsewhere.

Exit codes: 0 done (or stopped as asked), 1 a failure that the message explains, 2 wrong use.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cocoa.errors import CocoaError, TrainingStoppedError, UsageError
from cocoa.sample import META_TASKS

app = typer.Typer(
    help="CoCoA: turn a vision-language model into a multimodal embedding model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
recipe_app = typer.Typer(help="Look at recipes.", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe")
console = Console()
errors = Console(stderr=True)


@app.callback()
def _settings(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    _State.debug = debug


class _State:
    debug = False


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for models, results and report.")] = Path("runs/quickstart"),
) -> None:
    """Go the whole way on generated pictures with the nano backbone: train, evaluate, search, report."""
    from cocoa.quickstart import run_quickstart
    from cocoa.report.progress import TrainingProgress

    with TrainingProgress(console) as progress:
        results = run_quickstart(out, on_step=progress.step, say=progress.say)
    variants = results["variants"]
    costs = {
        name: {"steps": f"{variant['training_steps']}", "time": f"{variant['training_seconds']:.0f} s"}
        for name, variant in variants.items()
    }
    console.print(_summary_table(variants, costs))
    console.print(
        f"[bold]{results['seconds']:.0f} s.[/] Open [bold]{escape(str(out / 'report.html'))}[/] in a browser."
    )
    console.print(f'Then try: cocoa search {escape(str(out / "index"))} --text "a dog face left of a cat face"')


@app.command()
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
    ranks = Ranks.join()
    screen = console if ranks.is_first else Console(quiet=True)
    with (
        TrainingProgress(screen, loaded.stages) as progress,
        board if board is not None and ranks.is_first else nullcontext(),
    ):

        def on_step(stage: Any, record: dict[str, Any]) -> None:
            progress.step(stage, record)
            if board is not None:
                board.add(record)

        _, log = run(loaded, out, resume=resume, ranks=ranks, on_step=on_step, say=progress.say)
    if not ranks.is_first:
        return
    write_file(out / "report.html", train_page(loaded, log.records))
    model, report = escape(str(out / "model")), escape(str(out / "report.html"))
    console.print(f"Model in [bold]{model}[/], curves in {report}", soft_wrap=True)


@app.command()
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

    made = make_plan(load_recipe(recipe, changes or ()), device=device, ranks=ranks)
    console.print(show(made))
    if json_file is not None:
        write_file(json_file, json.dumps(made.to_dict(), indent=2) + "\n")


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    tasks: Annotated[str, typer.Option(help="Folder in MMEB's format, folder of such folders, mmeb-v1, or hub id.")],
    out: Annotated[Path | None, typer.Option(help="Folder for results.json and report.html.")] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Score this task only (may be repeated).")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where vectors are kept for others; default OUT/cache.")] = None,
    workers: Annotated[int, typer.Option(help="Processes that share the work.")] = 1,
) -> None:
    """Score a model on tasks: hit@1 with ties against the model. Killed and started again, it goes on.

    On several GPUs: --workers 8, or torchrun --nproc-per-node 8 -m cocoa evaluate MODEL --tasks DIR --out DIR
    """
    from cocoa.evaluation.job import run_job
    from cocoa.evaluation.progress import EvaluationProgress

    with EvaluationProgress(console if _rank() in (None, 0) else Console(quiet=True)) as progress:
        result = run_job(
            model,
            tasks,
            out,
            only=only,
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
        console.print(_summary_table({str(model): result.summary}))
    else:
        missing = f" Missing of MMEB-V1: {', '.join(result.missing)}." if result.missing else ""
        console.print(f"{len(result.tasks)} tasks of a set; no mean over a part of it.{missing}", highlight=False)
    if out is not None:
        where, page = escape(str(out / "results.json")), escape(str(out / "report.html"))
        console.print(f"Results in [bold]{where}[/], with pictures in {page}", soft_wrap=True)


_SUMMARY = (*META_TASKS, "overall")
_RATES = {"official_hit_at_1": "official", "chance": "chance", "blind": "blind"}


@app.command()
def synthesize(
    images: Annotated[Path, typer.Argument(help="Folder of pictures, or a .zip archive of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the table; a job that was killed goes on there.")],
    kind: Annotated[str, typer.Option(help="captions (warm-up) or questions, with answers (bridge).")],
    model: Annotated[str, typer.Option(help="Name at the endpoint; locally a folder, hub id or nano.")],
    endpoint: Annotated[str, typer.Option(help="OpenAI-compatible address, such as http://localhost:8000/v1.")] = "",
    engine: Annotated[str, typer.Option(help="endpoint, or local: a model in this process.")] = "endpoint",
    prompts: Annotated[str | None, typer.Option(help="Prompt file (.yaml) or name; default: of the kind.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable that holds the key.")] = None,
    concurrency: Annotated[int, typer.Option(help="Most requests at once.")] = 16,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take.")] = 120.0,
    retries: Annotated[int, typer.Option(help="Attempts after the first.")] = 5,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest words.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(help="Longest reply.")] = 1024,
    max_pixels: Annotated[int, typer.Option(help="Larger pictures are made smaller first.")] = 1280 * 28 * 28,
    seed: Annotated[int, typer.Option(help="Of the replies and of --limit.")] = 0,
    extra: Annotated[str, typer.Option(help="JSON object for the request's body; null leaves a field out.")] = "{}",
    limit: Annotated[int | None, typer.Option(help="Draw so many of the pictures.")] = None,
    shard_size: Annotated[int, typer.Option(help="Pictures written at a time.")] = 256,
    price: Annotated[tuple[float, float], typer.Option(help="Of a million prompt and completion tokens.")] = (0.0, 0.0),
    retry_bad: Annotated[bool, typer.Option(help="Ask again about bad rows.")] = False,
    copy_images: Annotated[bool, typer.Option(help="Copy the pictures instead of linking to them.")] = False,
    device: Annotated[str, typer.Option(help="For --engine local.")] = "cpu",
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
    if engine == "local":
        from cocoa.synthesis.local import LocalEngine

        opened = nullcontext(LocalEngine.open(model, device=device))
    elif engine == "endpoint":
        opened = Endpoint(
            endpoint, model, api_key_env=api_key_env, concurrency=concurrency, timeout=timeout, retries=retries
        )
    else:
        raise UsageError("E_USAGE_SYNTHESIS", f"--engine is {engine!r}; use endpoint or local")
    with opened as asked, Progress(BarColumn(), TextColumn("{task.description}"), console=console) as bar:
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
    console.print(f"{summary.rows} rows of {summary.pictures} pictures in [bold]{escape(str(summary.table))}[/]")
    for what, counts in {"dropped": summary.dropped, "bad": summary.bad}.items():
        if counts:
            listed = ", ".join(f"{number} {name}" for name, number in counts.items())
            console.print(f"{what}: {listed}; listed in {escape(str(out / 'job'))}")


@app.command("check-data")
def check_data(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a YAML file.")],
    tasks: Annotated[
        Path | None, typer.Option("--eval", help="Tasks to look for in the training data: a folder as for evaluate.")
    ] = None,
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
    from cocoa.recipe import load_recipe

    loaded = load_recipe(recipe, changes or ())
    out = out or Path("runs") / f"{loaded.name}-check"
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        lines: dict[str, Any] = {}

        def on_progress(what: str, done: int, total: int) -> None:
            line = lines.setdefault(what, len(lines))
            if line == len(bar.tasks):
                bar.add_task(what, total=total)
            bar.update(bar.tasks[line].id, completed=done)

        found = run(loaded, tasks=tasks, sample=sample, on_progress=on_progress)
    write_check(found, out)
    styles = {"error": "bold red", "warning": "yellow", "note": "dim"}
    for finding in found.findings:
        said = f"{finding.title}: {finding.count:,} [{finding.code}], first at {finding.examples[0].where}"
        console.print(f"[{styles[finding.level]}]{finding.level}:[/] {escape(said)}", soft_wrap=True, highlight=False)
    if not found.findings:
        console.print("Nothing found.")
    console.print(f"Page in [bold]{escape(str(out / 'check.html'))}[/]", soft_wrap=True)
    if found.num_errors:
        raise typer.Exit(1)


@app.command()
def mine(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
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
    with Progress(TextColumn("embedding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
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
        f"{made.mined} negatives for {made.rows} rows, {made.short_rows} rows have fewer than {negatives}; "
        f"{made.not_first:.1%} of positives are not first; {sum(made.bad.values())} bad rows left out. "
        f"Tables in [bold]{escape(str(out / 'train'))}[/]"
    )


@app.command()
def embed(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    documents: Annotated[Path, typer.Argument(metavar="INPUT", help="Folder of pictures, or .parquet/.jsonl table.")],
    out: Annotated[Path, typer.Option(help="Folder for the embeddings.")],
) -> None:
    """Embed pictures or rows, ready to be searched."""
    from cocoa.corpus.embeddings import embed_path
    from cocoa.embedder import Embedder

    embeddings = embed_path(Embedder.load(model), documents, out, progress=True)
    console.print(f"{len(embeddings.ids)} vectors of {embeddings.vectors.shape[1]} dimensions in {escape(str(out))}")


@app.command()
def search(
    index: Annotated[Path, typer.Argument(metavar="URI", help="Folder that `cocoa embed` wrote.")],
    text: Annotated[str | None, typer.Option(help="Words to search for.")] = None,
    image: Annotated[Path | None, typer.Option(help="Picture to search for.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many to show.")] = 10,
    model: Annotated[Path | None, typer.Option(help="Model folder, if it is not where it was.")] = None,
) -> None:
    """Search embeddings by words, by a picture, or both."""
    from cocoa.corpus.index import Index
    from cocoa.embedder import Embedder

    if not text and image is None:
        raise UsageError("E_USAGE_SEARCH", "give --text, --image, or both")
    opened = Index.open(index)
    embedder = Embedder.load(model or opened.embeddings.model)
    query: dict[str, Any] = {"text": text or ""} | ({"image": image} if image else {})
    table = Table("rank", "score", "id", "text")
    for rank, hit in enumerate(opened.search(embedder, [query], k)[0], 1):
        table.add_row(str(rank), f"{hit.score:.3f}", escape(hit.id), escape(hit.text))
    console.print(table)


@recipe_app.command("show")
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
        console.print(
            f"[bold]{stage.name}[/]: {stage.layout} (rows look at columns; A context, e bridge token, B target)"
        )
        console.print(escape(LAYOUTS[stage.layout].draw()) + "\n", highlight=False)


def _summary_table(summaries: dict[str, Any], costs: dict[str, dict[str, str]] | None = None) -> Table:
    """The means of each meta-task that was scored, and beside them what a variant cost."""
    columns = [column for column in _SUMMARY if column in next(iter(summaries.values()))]
    # Narrow enough for 80 columns.
    table = Table("hit@1 in %", *columns, *next(iter((costs or {"": {}}).values())), box=None, padding=(0, 1, 0, 0))
    for name, summary in summaries.items():
        cost = (costs or {}).get(name, {}).values()
        table.add_row(escape(name), *(f"{100 * summary[column]:.1f}" for column in columns), *cost)
    return table


def main() -> None:
    """Runs the command line and exits with its code."""
    try:
        app()
    except TrainingStoppedError as stop:
        # Every rank has stopped; one says so.
        if _rank() in (None, 0):
            console.print(escape(f"{stop.where}: {stop.message}"), soft_wrap=True, highlight=False)
        sys.exit(stop.exit_code)
    except CocoaError as error:
        if _State.debug:
            raise
        _complain(str(error))
        sys.exit(error.exit_code)
    except RuntimeError as error:
        if _State.debug or not _lost_a_rank(error):
            raise
        _complain("another rank is gone; its own message says why")
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("interrupted")
        sys.exit(130)


def _complain(text: str) -> None:
    place = "" if _rank() is None else f"rank {_rank()}: "
    # In one piece, so that the lines of several ranks do not mix.
    errors.print(f"{place}[bold red]error:[/] {escape(text)}", soft_wrap=True)


def _lost_a_rank(error: RuntimeError) -> bool:
    """Whether this rank failed only because another did: gloo says so in words, nccl by its own type."""
    return _rank() is not None and (type(error).__name__ == "DistBackendError" or "by peer" in str(error))


def _rank() -> int | None:
    """The number of this process among several that `torchrun` started; None if it is alone."""
    return int(os.environ["RANK"]) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None


if __name__ == "__main__":
    main()
