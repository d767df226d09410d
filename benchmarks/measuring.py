"""How the benchmarks measure: seconds on the clock and of the processor, ratios with their spread, the machine's rate.

On a machine that does other work the clock says little and the processor's seconds still compare; both are kept.
"""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Times:
    """Seconds of one run: on the clock, and of all threads of this process."""

    wall: float
    cpu: float


@contextmanager
def timed(times: list[Times]) -> Iterator[None]:
    """Adds the times of a block to `times`."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    times.append(Times(time.perf_counter() - wall, time.process_time() - cpu))


def median(times: Sequence[Times]) -> float:
    """Returns the median seconds on the clock."""
    return statistics.median(one.wall for one in times)


def ratio(theirs: Sequence[Times], ours: Sequence[Times]) -> dict[str, Any]:
    """Returns how many times as long theirs take: of the medians, the spread over rounds, and of processor seconds."""
    rounds = [other.wall / one.wall for other, one in zip(theirs, ours, strict=True)]
    cpu = statistics.median(one.cpu for one in theirs) / statistics.median(one.cpu for one in ours)
    return {"median": median(theirs) / median(ours), "spread": [min(rounds), max(rounds)], "cpu": cpu}


def matrix_rate(*, size: int = 1024, repeats: int = 9) -> float:
    """Returns the float32 operations a second of a square matrix product with the threads that torch has now."""
    one = torch.randn(size, size)
    times: list[Times] = []
    one @ one
    for _ in range(repeats):
        with timed(times):
            one @ one
    return 2 * size**3 / median(times)


def circumstances(threads: int) -> dict[str, Any]:
    """Returns what must stand beside a measurement."""
    load = os.getloadavg()[0]
    cores = f"{os.cpu_count()} {platform.machine()} cores, {threads} threads, torch {torch.__version__}"
    command = f"python -m benchmarks.{Path(sys.argv[0]).stem} {' '.join(sys.argv[1:])}"
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "hardware": cores,
        "command": command.strip(),
        "load_average": round(load, 1),
    }
