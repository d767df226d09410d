"""What the commands write to: the console, the error stream, and tables that several of them show."""

from __future__ import annotations

import os
import re
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cocoa.errors import UsageError
from cocoa.sample import META_TASKS

console = Console()
errors = Console(stderr=True)
SUMMARY = (*META_TASKS, "overall")
A_MODEL = "Model folder, nano-embedder, or on the hub OWNER/NAME or OWNER/NAME@REVISION."
"""What stands for a model in every command; help is shown as markup, which would swallow brackets."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal obeys instead of showing it; of C0 only tab and new line are text."""


def summary_table(summaries: dict[str, Any], costs: dict[str, dict[str, str]] | None = None) -> Table:
    """The means of each meta-task that was scored, and beside them what a variant cost."""
    columns = [column for column in SUMMARY if column in next(iter(summaries.values()))]
    # Narrow enough for 80 columns.
    table = Table("hit@1 in %", *columns, *next(iter((costs or {"": {}}).values())), box=None, padding=(0, 1, 0, 0))
    for name, summary in summaries.items():
        cost = (costs or {}).get(name, {}).values()
        table.add_row(escape(name), *(f"{100 * summary[column]:.1f}" for column in columns), *cost)
    return table


def counted(number: int, thing: str) -> str:
    """Returns `1 row`, `1,024 rows`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def rank() -> int | None:
    """The number of this process among several that `torchrun` started; None if it is alone."""
    return int(os.environ["RANK"]) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None


def refuse_idle(context: typer.Context, when: str, *names: str) -> None:
    """Raises `E_USAGE_IDLE` if one of these options was given to a command, where it has no effect."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError("E_USAGE_IDLE", f"--{name.replace('_', '-')} has no effect {when}")


def harmless(text: str) -> str:
    """Returns markup that shows a text from outside as it is, its control characters as escapes: `\\x1b`."""
    return escape(_CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text.replace("\r\n", "\n")))


def complain(text: str) -> None:
    """Says what went wrong, on the error stream, and which rank says it."""
    place = "" if rank() is None else f"rank {rank()}: "
    # In one piece, so that the lines of several ranks do not mix.
    errors.print(f"{place}[bold red]error:[/] {harmless(text)}", soft_wrap=True)
