"""How far an embedding job is, on the screen: a bar, or now and then a line where nothing can be overwritten."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

from cocoa.corpus.filling import Progress
from cocoa.report.sentences import duration

QUIET_SECONDS = 30.0
"""Where nothing can be overwritten (a file, a pipe), a line is printed at most so often."""


class EmbeddingProgress:
    """Shows what it is told."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(TextColumn("embedding"), BarColumn(), TextColumn("{task.description}"), console=console)
        self._task = self._bars.add_task("", total=None)
        self._printed = time.monotonic()

    def __enter__(self) -> EmbeddingProgress:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *error: Any) -> None:
        # Stopped where it was not started, it would print an empty line.
        if self._console.is_terminal:
            self._bars.stop()

    def show(self, now: Progress) -> None:
        """Shows the rows done, the speed, the time left and the bad rows met."""
        left = now.seconds_left
        words = "  ".join(
            [
                f"{now.done:,}/{now.rows:,} rows",
                f"{now.rate:,.0f} rows/s",
                *([f"{duration(left)} left"] if left is not None else []),
                *([f"{now.kept:,} kept from before"] if now.kept else []),
                *([f"{now.bad:,} bad"] if now.bad else []),
            ]
        )
        if self._console.is_terminal:
            self._bars.update(self._task, completed=now.done, total=now.rows, description=words)
        elif time.monotonic() - self._printed > QUIET_SECONDS:
            self._console.print(f"embedding  {words}", soft_wrap=True, highlight=False)
            self._printed = time.monotonic()
