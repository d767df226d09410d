"""`GET /v1/index`: what there is to search, as the page shows it before anything is asked."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from cocoa.corpus.index import Index
from cocoa.serving.documents import shown
from cocoa.serving.logs import log
from cocoa.serving.served import Served
from cocoa.serving.service import Service, json_reply, needs, service_of

router = APIRouter(tags=["search"], dependencies=[needs("search")])

NUM_VALUES = 20
"""The commonest values of a column of words that are offered to filter by."""
NUM_EXAMPLES = 12
_KEPT_SECONDS = 60.0


@router.get("/v1/index")
async def describe(request: Request, model: str | None = None) -> Response:
    """How many documents there are, by what columns they can be filtered, and a few of them; and all models."""
    service = service_of(request)
    served = service.served(model)
    if not hasattr(request.app.state, "catalogues"):
        request.app.state.catalogues = {name: Catalogue(service, one) for name, one in service.models.items()}
    catalogues: dict[str, Catalogue] = request.app.state.catalogues
    return json_reply(await service.in_time(request, catalogues[served.name].content()))


class Catalogue:
    """The description of a model's index, made anew when it is older than a minute; meanwhile the old one is told."""

    def __init__(self, service: Service, served: Served) -> None:
        self.service = service
        self.served = served
        self._content: dict[str, Any] = {}
        self._until = 0.0
        self._making: asyncio.Task[dict[str, Any]] | None = None

    async def content(self) -> dict[str, Any]:
        """Returns the count, the columns and what can be chosen of each, the models, the dimensions, examples."""
        if self._making is None or (self._making.done() and time.monotonic() >= self._until):
            self._making = asyncio.create_task(self._make())
        return self._content or await asyncio.shield(self._making)

    async def _make(self) -> dict[str, Any]:
        try:
            self._content = await self.service.look(self._read)
            self._until = time.monotonic() + _KEPT_SECONDS
        except Exception:
            if not self._content:
                raise
            # Nobody waits for this one; whoever asks next does, and is told what is wrong.
            log.exception("the index of %s cannot be described", self.served.name)
            self._content = {}
        return self._content

    def _read(self) -> dict[str, Any]:
        index = self.served.index
        content = {
            "searchable": index is not None,
            # Without a folder that they may lie in no picture is shown, whatever the index names.
            "shows_pictures": bool(self.service.settings.roots),
            "count": 0,
            "columns": {},
            "facets": {},
            "model": self.served.name,
            "dimensions": self.served.lengths,
            "max_k": self.service.settings.limits.max_k,
            "models": [
                {"name": one.name, "searchable": one.index is not None, "dimensions": one.lengths}
                for one in self.service.models.values()
            ],
            "examples": [],
        }
        if index is None:
            return content
        columns = index.columns
        return content | {
            "count": index.count(),
            "columns": columns,
            "facets": {name: _facet(index, name, kind) for name, kind in columns.items()},
            "examples": _examples(index, self.served, self.service),
        }


def _facet(index: Index, name: str, kind: str) -> dict[str, Any]:
    """What can be chosen of a column: its commonest values, or the ends of its range."""
    counts: dict[Any, int] = index.facets(name, NUM_VALUES + 1)
    is_complete = len(counts) <= NUM_VALUES
    if kind in ("int", "float"):
        # The ends are known where all values are; elsewhere they would cost a look at every row.
        known = counts if is_complete else {}
        return {"kind": kind, "min": min(known, default=None), "max": max(known, default=None)}
    values = [{"value": value, "count": count} for value, count in list(counts.items())[:NUM_VALUES]]
    return {"kind": kind, "values": values, "complete": is_complete}


def _examples(index: Index, served: Served, service: Service) -> list[dict[str, Any]]:
    """A few documents far from one another: each the nearest to another direction, the same at every start."""
    directions = np.random.default_rng(0).normal(size=(2 * NUM_EXAMPLES, served.engine.dimensions)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    nearest = index.search_vectors(directions, 1)
    different = {hits[0].id: hits[0] for hits in nearest if hits}
    pictures_first = sorted(different.values(), key=lambda hit: not hit.image)
    return [shown(hit, service, served) for hit in pictures_first[:NUM_EXAMPLES]]
