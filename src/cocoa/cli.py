"""The command line: parsing, progress and exit codes; what is done stands elsewhere.

Exit codes: 0 done, 1 a failure that the message explains, 2 wrong use.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from cocoa.errors import CocoaError, UsageError
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

    with _TrainingProgress() as progress:
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
) -> None:
    """Train the stages of a recipe and write the model folder."""
    from cocoa.files import write_file
    from cocoa.recipe import load_recipe
    from cocoa.report import train_page
    from cocoa.training.loop import train as run

    loaded = load_recipe(recipe, changes or ())
    out = out or Path("runs") / loaded.name
    with _TrainingProgress() as progress:
        _, log = run(loaded, out, on_step=progress.step)
    write_file(out / "report.html", train_page(loaded, log.records))
    console.print(f"Model in [bold]{escape(str(out / 'model'))}[/], curves in {escape(str(out / 'report.html'))}")


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    tasks: Annotated[Path, typer.Option(help="Folder in MMEB's format, or a folder of such folders.")],
    out: Annotated[Path | None, typer.Option(help="Folder for results.json.")] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Score this task only (may be repeated).")] = None,
) -> None:
    """Score a model on tasks: hit@1 with ties against the model."""
    from cocoa.data.mmeb_eval import read_tasks
    from cocoa.evaluation.runner import evaluate as run
    from cocoa.model import EmbeddingModel

    found = read_tasks(tasks, only)
    opened = EmbeddingModel.load(model)
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        line = bar.add_task("evaluating", total=len(found))

        def on_task(task: Any, score: Any) -> None:
            bar.update(line, advance=1, description=f"{task.name} {score.hit_at_1:.1%}")

        result = run(opened, found, name=str(model), complete=only is None, on_task=on_task)
    columns = ("task", "meta-task", "hit@1", "official", "chance", "blind", "queries", "of")
    table = Table(*columns, box=None, padding=(0, 1, 0, 0), caption="hit@1 in %, of so many candidates")
    for name, task in result.to_dict()["tasks"].items():
        table.add_row(
            name,
            task["meta_task"],
            *(f"{100 * task[key]:.1f}" if task[key] is not None else "" for key in _RATES),
            str(task["queries"]),
            str(task["candidates"]),
        )
    console.print(table)
    if result.complete:
        console.print(_summary_table({str(model): result.to_dict()["summary"]}))
    else:
        console.print(f"{len(found)} tasks of the folder; no mean over a part of them.")
    if out is not None:
        console.print(f"Results in [bold]{escape(str(result.write(out)))}[/]")


_SUMMARY = (*META_TASKS, "overall")
_RATES = ("hit_at_1", "official_hit_at_1", "chance", "blind")


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


class _TrainingProgress:
    """One bar a stage, with losses, speed and the time that is left."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description:24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._lines: dict[str, Any] = {}

    def __enter__(self) -> _TrainingProgress:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)

    def say(self, text: str) -> None:
        """Prints a line above the bars."""
        self._bar.console.print(escape(text))

    def step(self, stage: Any, record: dict[str, Any]) -> None:
        """Moves the stage's bar on."""
        if record["step"] == 0:
            self._lines[stage.name] = self._bar.add_task(stage.name, total=stage.steps, numbers="")
        losses = " ".join(f"{name} {loss:.3f}" for name, loss in record["losses"].items())
        numbers = f"{losses}  {record['tokens_per_second']:,.0f} tokens/s"
        self._bar.update(self._lines[stage.name], completed=record["step"] + 1, numbers=numbers)


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
    except CocoaError as error:
        if _State.debug:
            raise
        errors.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        errors.print("interrupted")
        sys.exit(130)


if __name__ == "__main__":
    main()
