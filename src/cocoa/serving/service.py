"""What the routes share: the models, their indexes, and the way from what a client wants to vectors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from fastapi import Depends, Request
from pydantic_core import to_json
from starlette.responses import Response

from cocoa.prompts import Side
from cocoa.sample import Sample
from cocoa.serving.engine import Engine
from cocoa.serving.problems import RequestError, late
from cocoa.serving.readiness import Readiness
from cocoa.serving.room import Room
from cocoa.serving.served import Served
from cocoa.serving.settings import ServeSettings
from cocoa.serving.sources import Sources
from cocoa.serving.threads import Threads
from cocoa.serving.turns import Turns
from cocoa.serving.vectors import Embedded, first_of

T = TypeVar("T")
_SHOWN_AT_ONCE = 4
"""Pictures of documents that are in memory at once to be drawn."""


class Service:
    """One application's parts; a route finds it at `request.app.state.service`."""

    def __init__(self, settings: ServeSettings, models: Sequence[Served]) -> None:
        self.settings = settings
        self.models = {served.name: served for served in models}
        self.first = models[0]
        self.metrics = self.first.engine.metrics
        self.sources = Sources(settings)
        self.searches = Turns(settings.queue.max_searches, "searches")
        self.showing = asyncio.Semaphore(_SHOWN_AT_ONCE)
        self._looking = Threads(2, "cocoa-look")
        self.readiness = Readiness(models, settings.ready_seconds, self._looking)
        self.is_draining = False
        self.has_ended = False
        self.num_under_way = 0
        self.room = Room(settings.queue.max_body_bytes)

    @property
    def engine(self) -> Engine:
        """The engine of the first model."""
        return self.first.engine

    @property
    def is_full(self) -> bool:
        """Whether no model has room for another item; one that keeps vectors may know it already."""
        return not self.settings.cache_items and all(served.engine.line.is_full for served in self.models.values())

    def served(self, name: str | None) -> Served:
        """Returns a model by its name, the first one if there is none. Raises `E_REQUEST_MODEL`."""
        if name is None:
            return self.first
        if name not in self.models:
            known = ", ".join(map(repr, self.models))
            what = "the model here is" if len(self.models) == 1 else "the models here are"
            raise RequestError("E_REQUEST_MODEL", f"{what} {known}", where="model", status=404)
        return self.models[name]

    async def look(self, work: Callable[[], T]) -> T:
        """Returns what `work` returns, which looks into an index or draws a document: in threads of its own."""
        return await self._looking.run(work)

    def close(self) -> None:
        """Ends the threads."""
        self.sources.close()
        self._looking.stop()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Counts a request until it is answered."""
        self.num_under_way += 1
        try:
            yield
        finally:
            self.num_under_way -= 1

    async def embed(
        self,
        request: Request,
        samples: Sequence[Sample],
        side: Side | None = None,
        *,
        model: str | None = None,
        dimensions: int | None = None,
        cut: bool = False,
    ) -> list[Embedded]:
        """Returns what `vectors` returns, if that is in time and the client does not go away first."""
        return await self.in_time(request, self.vectors(samples, side, model=model, dimensions=dimensions, cut=cut))

    async def in_time(self, request: Request, work: Coroutine[Any, Any, T]) -> T:
        """Returns what `work` returns.

        Raises `E_SERVER_DEADLINE` when the time of a request is over, `E_REQUEST_GONE` when the client goes away.
        """
        try:
            async with asyncio.timeout(self.settings.deadline_seconds):
                return await unless_gone(request, work)
        except TimeoutError:
            raise late() from None

    async def vectors(
        self,
        samples: Sequence[Sample],
        side: Side | None = None,
        *,
        model: str | None = None,
        dimensions: int | None = None,
        cut: bool = False,
    ) -> list[Embedded]:
        """Returns the vectors of samples whose pictures are references; raises what the client did wrong."""
        deadline = time.monotonic() + self.settings.deadline_seconds
        served = self.served(model)
        served.check_dimensions(dimensions)
        self._check_limits(samples)
        with self.room.share() as take:
            if any(sample.images for sample in samples):
                samples = await self.sources.resolve(samples, take)
            embedded = await served.engine.embed(samples, side, deadline=deadline, cut=cut)
        return embedded if dimensions is None else [first_of(item, dimensions) for item in embedded]

    def _check_limits(self, samples: Sequence[Sample]) -> None:
        limits = self.settings.limits
        if len(samples) > limits.max_items:
            raise RequestError("E_LIMIT_ITEMS", f"more than {limits.max_items} items (max_items)", status=413)
        if sum(len(sample.images) for sample in samples) > limits.max_images:
            raise RequestError("E_LIMIT_IMAGES", f"more than {limits.max_images} pictures (max_images)", status=413)
        for sample in samples:
            if len(sample.text) > limits.max_characters:
                raise RequestError(
                    "E_LIMIT_CHARACTERS",
                    f"a text has more than {limits.max_characters} characters (max_characters)",
                    where=sample.where,
                    status=413,
                )


def service_of(request: Request) -> Service:
    """Returns the service that a request came to."""
    service: Service = request.app.state.service
    return service


class Needs:
    """What a route asks of a key: that it opens one of these scopes."""

    def __init__(self, *scopes: str) -> None:
        self.scopes = scopes

    async def __call__(self, request: Request) -> None:
        """Raises `E_REQUEST_SCOPE` if the key does not."""
        if not any(request.state.key.opens(scope) for scope in self.scopes):
            raise RequestError("E_REQUEST_SCOPE", f"this key does not open {' or '.join(self.scopes)}", status=403)


def needs(*scopes: str) -> Any:
    """Returns the dependency of a route that only keys of one of these scopes may use."""
    return Depends(Needs(*scopes))


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Returns what `work` returns, or cancels it when the client goes away first."""
    working = asyncio.ensure_future(work)

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        working.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        return await working
    except asyncio.CancelledError:
        if watching.done():
            raise RequestError("E_REQUEST_GONE", "the client went away", status=499) from None
        raise
    finally:
        watching.cancel()
        working.cancel()


def json_reply(value: Any) -> Response:
    """Returns an answer of JSON; a number that is not finite, which JSON has not, is null."""
    return Response(to_json(value, inf_nan_mode="null"), media_type="application/json")
