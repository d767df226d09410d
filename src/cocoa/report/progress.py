"""The progress of a run on the screen: where it is, how fast, and how long it will take, all from the step records."""

from __future__ import annotations

import textwrap
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from cocoa.recipe import Stage
from cocoa.report.curves import in_words
from cocoa.report.sentences import duration
from cocoa.report.totals import Totals, total

RECENT = 20
"""Speeds are means over so many steps."""
WIDEST = 100
"""Columns that are used of a wider screen."""
QUIET_SECONDS = 30.0
"""Where nothing can be overwritten (a file, a pipe), a line is printed at most so often, and at the end of a stage."""

Record = Mapping[str, Any]


class TrainingProgress:
    """A bar for the running stage with its numbers below; a finished stage stays, with its means.

    `stages` are those of the run; without them the time that is left of the whole run is not told.
    """

    def __init__(self, console: Console, stages: Sequence[Stage] = ()) -> None:
        self._console = console
        self._stages = stages
        self._records: list[Record] = []
        self._recent: deque[Record] = deque(maxlen=RECENT)
        self._live = Live(console=console, refresh_per_second=4)
        self._printed = time.monotonic()

    def __enter__(self) -> TrainingProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self._console.print(escape(text), soft_wrap=True)

    def step(self, stage: Stage, record: Record) -> None:
        """Shows the state after a step."""
        self._records.append(record)
        self._recent.append(record)
        if record["step"] + 1 == stage.steps:
            self._finish(stage, record)
        elif self._console.is_terminal:
            recent = total(self._recent)
            self._live.update(self._drawn(stage, record, recent, self._left(stage, record, recent)))
        elif time.monotonic() - self._printed > QUIET_SECONDS:
            recent = total(self._recent)
            self._print(stage, record, recent, self._left(stage, record, recent))

    def _finish(self, stage: Stage, record: Record) -> None:
        """Prints the stage's last state, which stays, and forgets its records."""
        whole = total(self._records)
        # After a resumption this process saw only a part of the stage.
        part = "" if whole.steps == stage.steps else f"{whole.steps:,} steps "
        if self._console.is_terminal:
            self._live.update("")
            self._console.print(self._drawn(stage, record, whole, f"{part}in {duration(whole.seconds)}"))
        else:
            self._print(stage, record, whole, f"{part}in {duration(whole.seconds)}")
        self._records.clear()
        self._recent.clear()

    def _print(self, stage: Stage, record: Record, totals: Totals, times: str) -> None:
        words = (stage.name, _count(stage, record), times, *_facts(record, totals))
        self._console.print(escape("  ".join(words)), soft_wrap=True, highlight=False)
        self._printed = time.monotonic()

    def _drawn(self, stage: Stage, record: Record, totals: Totals, times: str) -> RenderableType:
        width = min(self._console.width, WIDEST)
        name = Column(no_wrap=True, overflow="ellipsis", max_width=24)
        grid = Table.grid(name, Column(ratio=1), Column(no_wrap=True), Column(no_wrap=True), padding=(0, 2, 0, 0))
        grid.width = width
        bar = ProgressBar(total=stage.steps, completed=record["step"] + 1)
        grid.add_row(Text(stage.name, "bold"), bar, _count(stage, record), times)
        return Group(grid, Text(_filled(_facts(record, totals), width), "dim"))

    def _left(self, stage: Stage, record: Record, recent: Totals) -> str:
        """The time that is left of the stage, and of the run: later stages are guessed to need as long for a pair."""
        steps = stage.steps - record["step"] - 1
        seconds = steps * recent.seconds / recent.steps
        names = [each.name for each in self._stages]
        later = self._stages[names.index(stage.name) + 1 :] if stage.name in names else ()
        left = f"{duration(seconds)} left"
        if not later:
            return f"{left} of the run" if names else left
        pairs = sum(each.steps * each.batch_size for each in later)
        return f"{left}, run ~{duration(seconds + pairs * recent.seconds / max(1, recent.pairs))}"


def _count(stage: Stage, record: Record) -> str:
    return f"{record['step'] + 1:,}/{stage.steps:,}"


def _facts(record: Record, totals: Totals) -> list[str]:
    """The losses of the last step, and what all of the steps cost."""
    return [
        *(f"{in_words(name)} {loss:.3f}" for name, loss in record["losses"].items()),
        f"{totals.tokens_per_second:,.0f} tokens/s",
        f"{totals.pad_rate:.0%} pad",
        f"{totals.wait_rate:.0%} data wait",
        f"{totals.memory_bytes / 1e9:.1f} GB",
        *([f"{totals.skipped:,} rows left out"] if totals.skipped else []),
    ]


def _filled(facts: Sequence[str], width: int) -> str:
    """The facts in as few lines as fit, none of them torn."""
    unbroken = "  ".join(fact.replace(" ", "\xa0") for fact in facts)
    lines = textwrap.fill(
        unbroken, width, initial_indent="  ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return lines.replace("\xa0", " ")
