"""How far an evaluation is, on the screen: one live table, or now and then a line where nothing can be overwritten."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from cocoa.evaluation.vectors import Progress
from cocoa.report.sentences import duration

WIDEST = 100
"""Columns that are used of a wider screen."""
QUIET_SECONDS = 30.0
"""Where nothing can be overwritten (a file, a pipe), a line is printed at most so often."""


class EvaluationProgress:
    """Shows what it is told: pictures that were looked at, then samples that were embedded."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._printed = time.monotonic()

    def __enter__(self) -> EvaluationProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._live.stop()

    def pictures(self, done: int, total: int) -> None:
        """Shows how many picture files have been looked at."""
        self._show("reading pictures", done, total, f"{done:,}/{total:,} files", "")

    def embedding(self, now: Progress) -> None:
        """Shows the state of the embedding."""
        left = now.seconds_left
        self._show(
            "embedding",
            now.tokens_done,
            now.tokens,
            f"{now.done:,}/{now.samples:,} samples",
            "" if left is None else f"{duration(left)} left",
            f"{now.tasks_ready}/{now.tasks} tasks have all their vectors",
            f"{now.rate:,.0f} samples/s",
            *([f"{now.kept:,} kept from before"] if now.kept else []),
        )

    def _show(self, what: str, done: int, total: int, count: str, left: str, *facts: str) -> None:
        if self._console.is_terminal:
            self._live.update(_drawn(min(self._console.width, WIDEST), what, done, total, count, left, facts))
        elif time.monotonic() - self._printed > QUIET_SECONDS:
            words = [word for word in (what, count, left, *facts) if word]
            self._console.print("  ".join(words), soft_wrap=True, highlight=False)
            self._printed = time.monotonic()


def _drawn(
    width: int, what: str, done: int, total: int, count: str, left: str, facts: tuple[str, ...]
) -> RenderableType:
    grid = Table.grid(
        Column(no_wrap=True), Column(ratio=1), Column(no_wrap=True), Column(no_wrap=True), padding=(0, 2, 0, 0)
    )
    grid.width = width
    grid.add_row(Text(what, "bold"), ProgressBar(total=max(1, total), completed=done), count, left)
    return Group(grid, Text("  " + "  ".join(facts), "dim")) if facts else grid
