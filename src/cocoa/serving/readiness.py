"""Whether the server can do its work now: asked by doing some of it."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Sequence

from cocoa.sample import Sample
from cocoa.serving.logs import log
from cocoa.serving.served import Served
from cocoa.serving.threads import Threads

_DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEklEQVR42mP4z8CAFTEMLQkAKP8/wc53yE8AAAAASUVORK5CYII="
)
"""A red PNG of 8 x 8 pixels."""
_FRESH_SECONDS = 1.0


class Readiness:
    """Embeds a text with a picture and searches for it, by each model; many who ask at once share one answer.

    That goes ahead of all that waits: to have much to do is not to be broken.
    """

    def __init__(self, models: Sequence[Served], seconds: float, looking: Threads) -> None:
        self.models = models
        self.seconds = seconds
        self.looking = looking
        self._asking: asyncio.Task[bool] | None = None
        self._since = 0.0

    async def is_ready(self) -> bool:
        """Returns whether a vector came back in time, now or within the last second."""
        if self._asking is None or (self._asking.done() and time.monotonic() - self._since > _FRESH_SECONDS):
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> bool:
        deadline = time.monotonic() + self.seconds
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + self.seconds):
                await asyncio.gather(*(self._probe(served, deadline) for served in self.models))
            is_ready = True
        except Exception:
            # Whatever it is: it is logged, counted, and the answer says so.
            log.exception("not ready")
            is_ready = False
        self._since = time.monotonic()
        self.models[0].engine.metrics.ready.set(is_ready)
        return is_ready

    async def _probe(self, served: Served, deadline: float) -> None:
        [found] = await served.engine.embed([Sample("ready?", (_DOT,))], deadline=deadline, ahead=True)
        if (index := served.index) is not None:
            await self.looking.run(lambda: index.search_vectors(found.vector[None], 1), ahead=True)
