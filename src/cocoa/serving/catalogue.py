"""`GET /v1/index`: what there is to search, as the page shows it before anything is asked."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from cocoa.corpus.index import Index
from cocoa.serving.documents import shown
from cocoa.serving.service import Service, json_reply, needs, service_of

router = APIRouter(tags=["search"], dependencies=[needs("search")])

NUM_VALUES = 20
"""The commonest values of a column of words that are offered to filter by."""
NUM_EXAMPLES = 12
_KEPT_SECONDS = 60.0
_LEAST_DIMENSIONS = 8


@router.get("/v1/index")
async def describe(request: Request) -> Response:
    """How many documents there are, by what columns they can be filtered, and a few of them."""
    service = service_of(request)
    if not hasattr(request.app.state, "catalogue"):
        request.app.state.catalogue = Catalogue(service)
    catalogue: Catalogue = request.app.state.catalogue
    return json_reply(await catalogue.content())


class Catalogue:
    """The description of a service's index, made anew when it is older than a minute."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._content: dict[str, Any] = {}
        self._until = 0.0

    async def content(self) -> dict[str, Any]:
        """Returns the count, the columns and what can be chosen of each, the models, the dimensions, examples."""
        if time.monotonic() >= self._until:
            self._content = await self.service.engine.read(self._read)
            self._until = time.monotonic() + _KEPT_SECONDS
        return self._content

    def _read(self) -> dict[str, Any]:
        index, dimensions = self.service.index, self.service.engine.dimensions
        content = {
            "searchable": index is not None,
            # Without a folder that they may lie in no picture is shown, whatever the index names.
            "shows_pictures": bool(self.service.settings.roots),
            "count": 0,
            "columns": {},
            "facets": {},
            "models": [self.service.settings.model_name],
            "dimensions": lengths(dimensions),
            "examples": [],
        }
        if index is None:
            return content
        columns = index.columns
        return content | {
            "count": index.count(),
            "columns": columns,
            "facets": {name: _facet(index, name, kind) for name, kind in columns.items()},
            "examples": _examples(index, dimensions),
        }


def lengths(dimensions: int) -> list[int]:
    """Returns the lengths of vector that the page offers to compare: all, a half, a quarter, down to an eighth."""
    return [
        part for part in (dimensions // share for share in (1, 2, 4, 8)) if part >= min(_LEAST_DIMENSIONS, dimensions)
    ]


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


def _examples(index: Index, dimensions: int) -> list[dict[str, Any]]:
    """A few documents far from one another: each the nearest to another direction, the same at every start."""
    directions = np.random.default_rng(0).normal(size=(2 * NUM_EXAMPLES, dimensions)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    nearest = index.search_vectors(directions, 1)
    different = {hits[0].id: hits[0] for hits in nearest if hits}
    pictures_first = sorted(different.values(), key=lambda hit: not hit.image)
    return [shown(hit) for hit in pictures_first[:NUM_EXAMPLES]]
