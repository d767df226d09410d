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


CPU = torch.device("cpu")


@contextmanager
def timed(times: list[Times], device: torch.device = CPU) -> Iterator[None]:
    """Adds the times of a block to `times`, until its device is done."""
    finish(device)
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    finish(device)
    times.append(Times(time.perf_counter() - wall, time.process_time() - cpu))


def finish(device: torch.device) -> None:
    """Waits until a device has done all that it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def device_peak(device: torch.device, most: dict[str, int], name: str) -> Iterator[None]:
    """Notes in `most` how many bytes a block held at most on a GPU, beside those that it found there."""
    finish(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    yield
    finish(device)
    most[name] = torch.cuda.max_memory_allocated(device) - before


def median(times: Sequence[Times]) -> float:
    """Returns the median seconds on the clock."""
    return statistics.median(one.wall for one in times)


def ratio(theirs: Sequence[Times], ours: Sequence[Times]) -> dict[str, Any]:
    """Returns how many times as long theirs take: of the medians, the spread over rounds, and of processor seconds."""
    rounds = [other.wall / one.wall for other, one in zip(theirs, ours, strict=True)]
    cpu = statistics.median(one.cpu for one in theirs) / statistics.median(one.cpu for one in ours)
    return {"median": median(theirs) / median(ours), "spread": [min(rounds), max(rounds)], "cpu": cpu}


def matrix_rate(*, size: int = 1024, repeats: int = 9, device: torch.device = CPU) -> float:
    """Returns the operations a second of a square matrix product: float32 with torch's threads, or a GPU's bfloat16."""
    if device.type == "cuda":
        size, repeats = 8192, 20
    one = torch.randn(size, size, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    times: list[Times] = []
    one @ one
    for _ in range(repeats):
        with timed(times, device):
            one @ one
    return 2 * size**3 / median(times)


def circumstances(threads: int, device: torch.device = CPU) -> dict[str, Any]:
    """Returns what must stand beside a measurement."""
    load = os.getloadavg()[0]
    cores = f"{os.cpu_count()} {platform.machine()} cores, {threads} threads, torch {torch.__version__}"
    if device.type == "cuda":
        cores = f"{torch.cuda.get_device_name(device)}, {cores}"
    command = f"python -m benchmarks.{Path(sys.argv[0]).stem} {' '.join(sys.argv[1:])}"
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "hardware": cores,
        "command": command.strip(),
        "load_average": round(load, 1),
    }
