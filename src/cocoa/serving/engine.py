"""From items to vectors: admission, decoding, reading, the line, and the way back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from PIL import Image

from cocoa.errors import CocoaError, ImageError
from cocoa.images import NOTES, picture_size
from cocoa.prompts import Side
from cocoa.sample import Sample
from cocoa.serving.cache import VectorCache
from cocoa.serving.decoding import DecodePool
from cocoa.serving.forward import Forward, Ready
from cocoa.serving.line import Cost, Job, Line
from cocoa.serving.metrics import Metrics
from cocoa.serving.passes import Passes
from cocoa.serving.problems import RequestError, late
from cocoa.serving.settings import ServeSettings
from cocoa.serving.threads import Threads
from cocoa.serving.vectors import Embedded

T = TypeVar("T")
_SMALL_BYTES = 65_536
_SMALL_CHARACTERS = 1_000
"""What is no larger is read on the event loop, in less time than a thread takes to hear of it."""


class Decoder(Protocol):
    """What turns the bytes of pictures into RGB, somewhere else than here."""

    async def adecode(self, sources: Sequence[bytes], *, ahead: bool = False) -> list[Image.Image | ImageError]:
        """Returns a picture or an error for each; `ahead` of all that wait if need be."""
        ...

    def close(self) -> None:
        """Ends its processes."""


class Engine:
    """The model behind its line. The event loop only hands on; decoding, reading and computing stand beside it."""

    def __init__(
        self,
        forward: Forward,
        settings: ServeSettings,
        metrics: Metrics,
        decoder: Decoder | None = None,
        *,
        name: str | None = None,
    ) -> None:
        self.forward = forward
        self.settings = settings
        self.metrics = metrics
        self.name = name or settings.model_name
        counted = self._counted = metrics.of(self.name)
        self.line: Line[Ready] = Line(settings.queue)
        self.passes = Passes(forward, self.line, counted)
        self.cache = VectorCache(settings.cache_items, counted)
        self._decoder = decoder
        self._reading = Threads(2, "cocoa-read")
        for what in ("items", "tokens", "pixels"):
            counted.hold(what, lambda what=what: getattr(self.line.held, what))  # type: ignore[misc]

    @property
    def dimensions(self) -> int:
        """Length D of a vector."""
        return self.forward.dimensions

    @property
    def matryoshka(self) -> tuple[int, ...]:
        """Lengths below D that the model was trained for, ascending."""
        return self.forward.matryoshka

    async def start(self) -> None:
        """Begins to take jobs from the line."""
        if self._decoder is None:
            self._decoder = DecodePool(self.settings.decode_workers, self.settings.limits.images)
        self.passes.start()

    async def stop(self) -> bool:
        """Ends threads and processes; returns whether that was possible, which it is not if a pass hangs."""
        self._reading.stop()
        is_free = self.passes.stop()
        if self._decoder is not None:
            await asyncio.to_thread(self._decoder.close)
        return is_free

    async def embed(
        self,
        samples: Sequence[Sample],
        side: Side | None = None,
        *,
        deadline: float,
        cut: bool = False,
        ahead: bool = False,
    ) -> list[Embedded]:
        """Returns the vectors of samples whose pictures are bytes, in the order given.

        Raises the first item's error (`where` names it), `E_SERVER_BUSY` at once where there is no room, and
        `E_SERVER_DEADLINE` when `deadline`, a time of `time.monotonic`, has come. What goes `ahead` is let in however
        much is under way, and waits for what has begun alone.
        """
        found = [self.cache.find(sample, side, cut) for sample in samples]
        missing = [sample for sample, known in zip(samples, found, strict=True) if known is None]
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                made = iter(await self._embed(missing, side, deadline, cut, ahead) if missing else [])
        except TimeoutError:
            raise late() from None
        return [known or next(made) for known in found]

    async def compute(self, work: Callable[[], T]) -> T:
        """Returns what `work` returns; it has the model to itself while it runs."""
        return await self.passes.compute(work)

    async def read(self, work: Callable[[], T], *, ahead: bool = False) -> T:
        """Returns what `work` returns; it runs beside the event loop and the model."""
        return await self._reading.run(work, ahead=ahead)

    async def decode(self, data: bytes) -> Image.Image:
        """Returns the picture of a file's bytes in RGB, decoded where that can do no harm; raises `ImageError`."""
        [picture] = await self._decode([data])
        if isinstance(picture, ImageError):
            raise picture
        return picture

    async def _embed(
        self, samples: Sequence[Sample], side: Side | None, deadline: float, cut: bool, ahead: bool
    ) -> list[Embedded]:
        cost = Cost(0, 0) if ahead else await self._cost(samples)
        self.line.admit(cost)
        try:
            ready = await self._ready(samples, side, cut, ahead)
            loop = asyncio.get_running_loop()
            jobs = [Job(item, item.num_tokens, deadline, loop.create_future()) for item in ready]
            self.passes.add(jobs, ahead=ahead)
            try:
                vectors = await asyncio.gather(*(job.vector for job in jobs))
            finally:
                for job in jobs:
                    job.vector.cancel()
        finally:
            self.line.release(cost)
        made = [Embedded(vector, *item.size) for vector, item in zip(vectors, ready, strict=True)]
        for sample, embedded in zip(samples, made, strict=True):
            self.cache.keep(sample, side, cut, embedded)
        return made

    async def _cost(self, samples: Sequence[Sample]) -> Cost:
        # Three characters a token: few texts have less.
        tokens = sum(len(sample.text) // 3 + 1 for sample in samples)
        if not any(sample.images for sample in samples):
            return Cost(len(samples), tokens)

        def pixels_of_all() -> list[int]:
            return [n for sample in samples for n in self._pixels(sample)]

        sizes = (len(image) for sample in samples for image in sample.images if isinstance(image, bytes))
        pixels = pixels_of_all() if sum(sizes) <= _SMALL_BYTES else await self.read(pixels_of_all)
        if sum(pixels) > (most := self.settings.limits.max_request_pixels):
            raise RequestError("E_LIMIT_PIXELS", f"more than {most} pixels (max_request_pixels)", status=413)
        return Cost(len(samples), tokens + sum(self.forward.num_tokens(n) for n in pixels), sum(pixels))

    def _pixels(self, sample: Sample) -> list[int]:
        """Pixels of each picture of a sample, by its header."""
        limits = self.settings.limits.images
        try:
            sizes = [picture_size(image, limits) for image in sample.images]
        except CocoaError as error:
            # No decoder will see it, and it is a bad picture all the same.
            self._counted.pictures.labels(error.code).inc()
            raise error.at(sample.where) from None
        return [width * height for width, height in sizes]

    async def _ready(self, samples: Sequence[Sample], side: Side | None, cut: bool, ahead: bool) -> list[Ready]:
        sources = [image for sample in samples for image in sample.images if isinstance(image, bytes)]
        decoded = iter(await self._decode(sources, ahead=ahead) if sources else [])
        with_pictures = [_decoded(sample, [next(decoded) for _ in sample.images]) for sample in samples]

        def all_ready() -> list[Ready]:
            return [self._one_ready(sample, side, cut) for sample in with_pictures]

        is_small = not sources and len(samples) == 1 and len(samples[0].text) <= _SMALL_CHARACTERS
        return all_ready() if is_small else await self.read(all_ready, ahead=ahead)

    async def _decode(self, sources: Sequence[bytes], *, ahead: bool = False) -> list[Image.Image | ImageError]:
        assert self._decoder is not None, "the engine has started"
        results = await self._decoder.adecode(sources, ahead=ahead)
        for result in results:
            if isinstance(result, ImageError):
                self._counted.pictures.labels(result.code).inc()
                continue
            self._counted.pictures.labels("good").inc()
            for note in result.info.get("notes", ()):
                # A decoder's process may say anything; a label is one of what it should.
                self._counted.notes.labels(note if note in NOTES else "other").inc()
        return results

    def _one_ready(self, sample: Sample, side: Side | None, cut: bool) -> Ready:
        try:
            return self.forward.ready(sample, side, cut=cut)
        except CocoaError as error:
            raise error.at(sample.where) from None


def _decoded(sample: Sample, pictures: Sequence[Image.Image | ImageError]) -> Sample:
    for picture in pictures:
        if isinstance(picture, ImageError):
            raise picture.at(sample.where)
    return replace(sample, images=tuple(picture for picture in pictures if isinstance(picture, Image.Image)))
