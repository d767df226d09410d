"""Forward passes, one at a time in a thread of their own; an item that spoils its pass fails alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from cocoa.serving.line import Job, Line
from cocoa.serving.logs import log
from cocoa.serving.metrics import ModelMetrics
from cocoa.serving.problems import RequestError, failed
from cocoa.serving.threads import Threads
from cocoa.serving.vectors import checked

T = TypeVar("T")
Item = TypeVar("Item", contravariant=True)
R = TypeVar("R")
Result = NDArray[np.float32] | RequestError


class Embeds(Protocol[Item]):
    """What can embed items that are ready."""

    dimensions: int

    def embed(self, items: Sequence[Item]) -> NDArray[np.float32]:
        """Returns float32 [N, D] of unit norm, in the order given."""
        ...


class Passes(Generic[T]):
    """Takes jobs from the line whenever the model is free, and gives each its vector or its own error.

    While a pass runs the next ones gather in the line, so a batch is as large as the load makes it, and nobody waits
    for company.
    """

    def __init__(self, model: Embeds[T], line: Line[T], metrics: ModelMetrics) -> None:
        self.model = model
        self.line = line
        self.metrics = metrics
        self._arrived = asyncio.Event()
        self._thread = Threads(1, "cocoa-compute")
        self._inside: list[Job[T]] = []
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to take jobs."""
        self._running = asyncio.create_task(self._run())

    def add(self, jobs: Sequence[Job[T]], *, ahead: bool = False) -> None:
        """Puts the jobs of one request into the line, `ahead` of all others if need be."""
        self.line.put(jobs, ahead=ahead)
        self._arrived.set()

    async def compute(self, work: Callable[[], R]) -> R:
        """Returns what `work` returns; it has the model to itself while it runs."""
        return await self._thread.run(work)

    def give_up(self, error: RequestError) -> None:
        """Answers everything that is in the line or in a pass with an error."""
        for job in [*self._inside, *self.line.clear()]:
            if not job.vector.done():
                job.vector.set_exception(error)

    def stop(self) -> bool:
        """Takes no more jobs; returns whether the thread is free, which it is not inside a pass that hangs."""
        if self._running is not None:
            self._running.cancel()
        self._thread.stop()
        return not self._inside

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            jobs = self.line.take()
            if not jobs:
                self._arrived.clear()
                continue
            self._inside = jobs
            start = time.monotonic()
            contents = [job.content for job in jobs]
            # Between two passes there is time for one piece of other work, but not for all that waits.
            results = await self._thread.run(partial(self._vectors, contents), ahead=True)
            self._inside = []
            self._count(jobs, start)
            for job, result in zip(jobs, results, strict=True):
                if job.vector.done():  # Nobody waits for it any more.
                    continue
                if isinstance(result, RequestError):
                    job.vector.set_exception(result)
                else:
                    job.vector.set_result(result)

    def _count(self, jobs: Sequence[Job[T]], start: float) -> None:
        self.metrics.forward_seconds.observe(time.monotonic() - start)
        self.metrics.batch_items.observe(len(jobs))
        self.metrics.tokens.inc(sum(job.num_tokens for job in jobs))
        for job in jobs:
            self.metrics.waiting_seconds.observe(start - job.since)

    def _vectors(self, items: list[T]) -> list[Result]:
        """A vector or an error for each item. If the pass fails, whoever makes it fail is found and left out."""
        try:
            return [self._checked(vector) for vector in self.model.embed(items)]
        except Exception:
            log.exception("a pass of %d items failed", len(items))
            if len(items) == 1:
                return [failed()]
        results = [self._vectors([item])[0] for item in items]
        good = [place for place, result in enumerate(results) if not isinstance(result, RequestError)]
        if good and len(good) < len(items):
            # Once more together: then their vectors are, bit by bit, those of a pass without the others.
            for place, result in zip(good, self._vectors([items[place] for place in good]), strict=True):
                results[place] = result
        return results

    def _checked(self, vector: NDArray[np.float32]) -> Result:
        result = checked(vector, self.model.dimensions)
        if isinstance(result, np.ndarray):
            return result
        log.error("a vector is not given out: %s", result)
        return failed()
