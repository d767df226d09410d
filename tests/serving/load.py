"""Load on a server of this machine: many clients at once, and every reply is held to what was asked."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx2
import numpy as np
import psutil

Question = tuple[dict[str, Any], np.ndarray]
"""A body of /v1/embeddings, and the vectors that belong to it."""


@dataclass
class Load:
    """What came of it: answers by status, wrong ones, seconds of each that was good and of each that was refused."""

    statuses: Counter[int] = field(default_factory=Counter)
    num_wrong: int = 0
    good_seconds: list[float] = field(default_factory=list)
    refused_seconds: list[float] = field(default_factory=list)
    memory_growth: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0
    """What the server's processes took, which compares where a machine does other work too."""

    def summary(self) -> dict[str, Any]:
        """Rates, percentiles and counts, for reference/serving.json."""
        good = np.sort(self.good_seconds) if self.good_seconds else np.zeros(1)
        refused = np.sort(self.refused_seconds) if self.refused_seconds else np.zeros(1)
        return {
            "seconds": round(self.seconds, 1),
            "statuses": {str(status): number for status, number in sorted(self.statuses.items())},
            "num_wrong": self.num_wrong,
            "answers_per_second": round(len(self.good_seconds) / self.seconds, 1),
            "answers_per_processor_second": round(len(self.good_seconds) / max(self.processor_seconds, 1e-9), 1),
            "p50_seconds": round(float(np.quantile(good, 0.5)), 4),
            "p99_seconds": round(float(np.quantile(good, 0.99)), 4),
            "refused_p50_seconds": round(float(np.quantile(refused, 0.5)), 4),
            "memory_growth_bytes": self.memory_growth,
        }


def put_under_load(
    url: str, questions: list[Question], *, clients: int, seconds: float, process: int, key: str = "any"
) -> Load:
    """Asks for so many seconds with so many clients; `process` is whose memory is watched, after a warm-up."""
    return asyncio.run(_load(url, questions, clients, seconds, process, key))


async def _load(url: str, questions: list[Question], clients: int, seconds: float, process: int, key: str) -> Load:
    load, watched = Load(), psutil.Process(process)
    # One connection each, as clients have: a pool of them all looks through all of them for every request.
    how: dict[str, Any] = {"base_url": url, "timeout": 120, "trust_env": False, "verify": ssl.create_default_context()}
    headers = {"authorization": f"Bearer {key}"}
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(httpx2.AsyncClient(headers=headers, **how)) for _ in range(clients)]

        async def ask(number: int, until: float, counted: Load) -> None:
            turn = number
            while time.monotonic() < until:
                turn += clients
                body, expected = questions[turn % len(questions)]
                start = time.perf_counter()
                answer = await sessions[number].post("/v1/embeddings", json=body)
                took = time.perf_counter() - start
                counted.statuses[answer.status_code] += 1
                if answer.status_code != 200:
                    counted.refused_seconds.append(took)
                    # As clients do: who comes again at once measures how fast it can be refused.
                    await asyncio.sleep(float(answer.headers.get("retry-after", "0.05")))
                    continue
                counted.good_seconds.append(took)
                got = np.array([row["embedding"] for row in answer.json()["data"]], np.float32)
                if got.shape != expected.shape or np.abs(got - expected).max() > 1e-4:
                    counted.num_wrong += 1

        async def run(length: float, counted: Load) -> None:
            until = time.monotonic() + length
            await asyncio.gather(*(ask(number, until, counted) for number in range(clients)))

        await run(min(3.0, seconds / 3), Load())
        before, start, processor = watched.memory_info().rss, time.monotonic(), _processor_seconds(watched)
        await run(seconds, load)
        load.seconds, load.memory_growth = time.monotonic() - start, watched.memory_info().rss - before
        load.processor_seconds = _processor_seconds(watched) - processor
    return load


def _processor_seconds(process: psutil.Process) -> float:
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)
