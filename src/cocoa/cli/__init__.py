"""The command line: parsing, progress and exit codes; what is done stands elsewhere.

Exit codes: 0 done (or stopped as asked), 1 a failure that the message explains, 2 wrong use.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.markup import escape

from cocoa.cli import ablation, corpus, data, evaluation, models, quickstart, searching, serving, training
from cocoa.cli.console import complain, console, errors, rank
from cocoa.errors import CocoaError, TrainingStoppedError

app = typer.Typer(
    help="CoCoA: turn a vision-language model into a multimodal embedding model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
recipe_app = typer.Typer(help="Look at recipes.", no_args_is_help=True)


@app.callback()
def _settings(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
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
    except RuntimeError as error:
        if _State.debug or not (_lost_a_rank(error) or _is_out_of_memory(error)):
            raise
        if _is_out_of_memory(error):
            complain(f"{_MEMORY_IS_FULL} ({str(error).splitlines()[0]}) [E_SYSTEM_MEMORY]")
        else:
            complain("another rank is gone or stands still; its own message says why")
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("interrupted")
        sys.exit(130)


_MEMORY_IS_FULL = (
    "the GPU's memory is full; in training lower machine.chunk_tokens or set machine.activation_checkpointing "
    "(`cocoa plan` says what fits), elsewhere lower the tokens of a pass"
)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory was full; by name, since torch is not imported for commands that do without."""
    return type(error).__name__ == "OutOfMemoryError"


def _lost_a_rank(error: RuntimeError) -> bool:
    """Whether this rank failed only because another did: gloo says so in words, nccl by its own type."""
    told = "by peer" in str(error) or "Timed out waiting" in str(error)
    return rank() is not None and (told or type(error).__name__ == "DistBackendError")
