"""From items to vectors: admission, decoding, reading, the line, one computing thread, a check of what comes out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cocoa.errors import CocoaError, ModelError
from cocoa.images import open_rgb, picture_size
from cocoa.prompts import Side
from cocoa.sample import Sample
from cocoa.serving.forward import Forward, Ready
from cocoa.serving.line import Cost, Job, Line
from cocoa.serving.metrics import Metrics
from cocoa.serving.problems import RequestError
from cocoa.serving.settings import ServeSettings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Embedded:
    """A unit vector float32 [D], and the tokens that it took."""

    vector: NDArray[np.float32]
    num_tokens: int


class Engine:
    """The model behind its line. Everything but decoding and computing happens on the event loop."""

    def __init__(self, forward: Forward, settings: ServeSettings, metrics: Metrics) -> None:
        self.forward = forward
        self.settings = settings
        self.metrics = metrics
        self.line: Line[Ready] = Line(settings.queue)
        self._arrived = asyncio.Event()
        self._reading = ThreadPoolExecutor(2, thread_name_prefix="cocoa-read")
        self._computing = ThreadPoolExecutor(1, thread_name_prefix="cocoa-compute")
        self._passes: asyncio.Task[None] | None = None

    @property
    def dimensions(self) -> int:
        """Length D of a vector."""
        return self.forward.dimensions

    async def start(self) -> None:
        """Begins to take jobs from the line."""
        self._passes = asyncio.create_task(self._run_passes())

    async def stop(self) -> None:
        """Ends the threads; whoever still waits is told."""
        if self._passes is not None:
            self._passes.cancel()
        self._reading.shutdown(wait=False, cancel_futures=True)
        self._computing.shutdown(wait=True, cancel_futures=True)

    async def embed(
        self, samples: Sequence[Sample], side: Side | None = None, *, deadline: float, cut: bool = False
    ) -> list[Embedded]:
        """Returns the vectors of samples whose pictures are bytes, in the order given.

        Raises the first item's error (`where` names it), `E_SERVER_BUSY` at once where there is no room, and
        `E_SERVER_DEADLINE` when `deadline`, a time of `time.monotonic`, has come.
        """
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self._embed(samples, side, deadline, cut)
        except TimeoutError:
            raise RequestError(
                "E_SERVER_DEADLINE", "the answer did not come in time", status=503, retry_after=1
            ) from None

    async def compute(self, work: Callable[[], T]) -> T:
        """Returns what `work` returns; it has the model to itself while it runs."""
        return await asyncio.get_running_loop().run_in_executor(self._computing, work)

    async def read(self, work: Callable[[], T]) -> T:
        """Returns what `work` returns; it runs beside the event loop and the model."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, work)

    async def _embed(self, samples: Sequence[Sample], side: Side | None, deadline: float, cut: bool) -> list[Embedded]:
        cost = await self._cost(samples)
        self.line.admit(cost)
        try:
            ready = await self.read(lambda: [self._ready(sample, side, cut) for sample in samples])
            loop = asyncio.get_running_loop()
            jobs = [Job(item, item.num_tokens, deadline, loop.create_future()) for item in ready]
            self.line.put(jobs)
            self._arrived.set()
            try:
                vectors = await asyncio.gather(*(job.vector for job in jobs))
            finally:
                for job in jobs:
                    job.vector.cancel()
        finally:
            self.line.release(cost)
        return [Embedded(vector, job.num_tokens) for vector, job in zip(vectors, jobs, strict=True)]

    async def _cost(self, samples: Sequence[Sample]) -> Cost:
        # A token is a byte at least, and three in ordinary text.
        tokens = sum(len(sample.text) // 3 + 1 for sample in samples)
        if not any(sample.images for sample in samples):
            return Cost(len(samples), tokens)
        pixels = await self.read(lambda: [self._pixels(sample) for sample in samples])
        return Cost(len(samples), tokens + sum(self.forward.num_tokens(n) for n in pixels if n), sum(pixels))

    def _pixels(self, sample: Sample) -> int:
        limits = self.settings.limits.images
        try:
            return sum(int(np.prod(picture_size(image, limits))) for image in sample.images)
        except CocoaError as error:
            raise error.at(sample.where) from None

    def _ready(self, sample: Sample, side: Side | None, cut: bool) -> Ready:
        limits = self.settings.limits.images
        try:
            sample = replace(sample, images=tuple(open_rgb(image, limits) for image in sample.images))
            return self.forward.ready(sample, side, cut=cut)
        except CocoaError as error:
            raise error.at(sample.where) from None

    async def _run_passes(self) -> None:
        while True:
            await self._arrived.wait()
            jobs = self.line.take()
            if not jobs:
                self._arrived.clear()
                continue
            start = time.monotonic()
            for job in jobs:
                self.metrics.waiting_seconds.observe(start - job.since)
            results = await self.compute(lambda jobs=jobs: self._vectors([job.content for job in jobs]))  # type: ignore[misc]
            self.metrics.forward_seconds.observe(time.monotonic() - start)
            self.metrics.batch_items.observe(len(jobs))
            for job, result in zip(jobs, results, strict=True):
                if job.vector.done():
                    continue
                if isinstance(result, CocoaError):
                    job.vector.set_exception(result)
                else:
                    self.metrics.tokens.inc(job.num_tokens)
                    job.vector.set_result(result)

    def _vectors(self, items: list[Ready]) -> list[NDArray[np.float32] | CocoaError]:
        """A vector or an error for each item; if the pass fails, whoever makes it fail is found and left out."""
        try:
            return [self._checked(vector) for vector in self.forward.embed(items)]
        except Exception as error:
            if len(items) == 1:
                return [ModelError("E_MODEL_FAILED", f"the pass failed: {error!r}")]
        alone = [self._vectors([item])[0] for item in items]
        good = [place for place, result in enumerate(alone) if not isinstance(result, CocoaError)]
        if good and len(good) < len(items):
            # Once more together, so that a vector does not depend on who failed beside it.
            for place, vector in zip(good, self._vectors([items[place] for place in good]), strict=True):
                alone[place] = vector
        return alone

    def _checked(self, vector: NDArray[np.float32]) -> NDArray[np.float32] | CocoaError:
        if vector.shape != (self.dimensions,):
            return ModelError("E_MODEL_OUTPUT", f"vector of shape {vector.shape}, not ({self.dimensions},)")
        if not np.isfinite(vector).all() or abs(float(np.linalg.norm(vector)) - 1) > 1e-3:
            return ModelError("E_MODEL_OUTPUT", "vector is not finite or not of unit length")
        return vector
