"""The command line: parsing, progress and exit codes; what is done stands elsewhere.

Exit codes: 0 done (or stopped as asked), 1 a failure that the message explains, 2 wrong use, 130 interrupted.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

import cocoa
from cocoa.cli import ablation, corpus, data, evaluation, models, quickstart, searching, serving, training
from cocoa.cli.console import complain, console, errors, rank
from cocoa.errors import CocoaError, TrainingStoppedError

_GOES_ON = {
    "train": "; if the run had begun, --resume goes on from its last checkpoint",
    **dict.fromkeys(("ablate", "embed", "evaluate", "mine", "synthesize"), "; the same command goes on"),
}
"""What Ctrl-C costs, of the commands of which it may cost nothing."""


class _Commands(TyperGroup):
    """The commands; Ctrl-C ends each with a word and 130. Typer would end it with the number alone."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if rank() in (None, 0):
                errors.print(f"interrupted{_GOES_ON.get(ctx.invoked_subcommand, '')}", soft_wrap=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    help="CoCoA: turn a vision-language model into a multimodal embedding model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
recipe_app = typer.Typer(help="Look at recipes.", no_args_is_help=True)


def _version(wanted: bool) -> None:
    if wanted:
        console.print(f"cocoa {cocoa.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _settings(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    _State.debug = debug


class _State:
    debug = False


app.command()(quickstart.quickstart)
app.command()(training.train)
app.command()(training.plan)
app.command()(evaluation.evaluate)
app.command()(ablation.ablate)
app.command()(ablation.probe)
app.command()(data.synthesize)
app.command("check-data")(data.check_data)
app.command()(data.mine)
app.command()(corpus.embed)
app.command()(searching.index)
app.command()(searching.search)
app.command()(serving.serve)
app.command()(models.verify)
app.command()(models.export)
app.add_typer(recipe_app, name="recipe")
recipe_app.command("show")(training.show_recipe)


def main() -> None:
    """Runs the command line and exits with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What a terminal has no letters for, and names of files that are no text, are shown as escapes.
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except TrainingStoppedError as stop:
        # Every rank has stopped; one says so.
        if rank() in (None, 0):
            console.print(escape(f"{stop.where}: {stop.message}"), soft_wrap=True, highlight=False)
        sys.exit(stop.exit_code)
    except CocoaError as error:
        if _State.debug:
            raise
        complain(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        if _State.debug:
            raise
        place = f"{error.filename}: " if error.filename else ""
        complain(f"{place}{error.strerror or error} [E_SYSTEM]")
        sys.exit(1)
    except Exception as error:
        told = None if _State.debug else _what_the_system_refused(error)
        if told is None:
            raise
        complain(told)
        sys.exit(1)


_LESS = (
    "in training lower machine.chunk_tokens or set machine.activation_checkpointing (`cocoa plan` says what fits), "
    "elsewhere lower the tokens of a pass"
)


_LOST_RANKS = ("DistBackendError", "DistNetworkError", "DistStoreError")
_LOST_RANKS_WORDS = ("by peer", "Timed out waiting", "connectFullMesh failed")
_LATE = (
    "has not come for longer than machine.rank_timeout: it stands still, never started, or needs so long; then raise "
    "machine.rank_timeout"
)


def _what_the_system_refused(error: Exception) -> str | None:
    """Returns what to say where memory, disk, another rank or a library failed, not this program; None for all else.

    Libraries have errors of their own for it. They are known by name and words, since not every command imports them.
    """
    kind, text = type(error).__name__, str(error).strip()
    line = text.splitlines()[0] if text else kind
    if kind == "OutOfMemoryError":
        return f"the GPU's memory is full; {_LESS} ({line}) [E_SYSTEM_MEMORY]"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in text:
        return f"the memory is full; {_LESS} ({line}) [E_SYSTEM_MEMORY]"
    if kind == "SafetensorError":
        return f"a file could not be read or written: {line} [E_SYSTEM]"
    if isinstance(error, ImportError) and "torchvision::" in str(error.__cause__):
        # Of the wrong build it takes transformers down with it, and so every command that opens a model.
        return (
            "torchvision is here and not of the same build as torch, so transformers cannot be imported: "
            "`pip uninstall torchvision`, or take it from the index that torch came from (docs/use.md) [E_USAGE_EXTRA]"
        )
    if rank() is not None and (kind in _LOST_RANKS or any(words in text for words in _LOST_RANKS_WORDS)):
        if "timed out" in text.lower() or "timeout" in text.lower():
            return f"another rank {_LATE} [E_SYSTEM_RANK]"
        return "another rank is gone; its own message says why [E_SYSTEM_RANK]"
    return None
