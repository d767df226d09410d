"""`POST /v1/search`: the documents that are nearest to words, a picture, both, or other documents."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from pydantic import Field
from starlette.responses import Response

from cocoa.corpus.examples import combined
from cocoa.corpus.hits import Hit
from cocoa.corpus.index import Index
from cocoa.errors import CocoaError, UsageError
from cocoa.options import Options
from cocoa.sample import Sample
from cocoa.serving.bodies import StrictRoute
from cocoa.serving.documents import shown
from cocoa.serving.nearest import nearest, others
from cocoa.serving.problems import RequestError
from cocoa.serving.service import Service, json_reply, needs, service_of

router = APIRouter(route_class=StrictRoute, tags=["search"], dependencies=[needs("search")])

_OF_A_PICTURE = ("E_IMAGE_", "E_REQUEST_IMAGE", "E_LIMIT_IMAGE", "E_LIMIT_BYTES")
"""How codes begin that tell of an item's picture, and not of its text."""


class SearchBody(Options):
    """What is looked for, and how much of it."""

    text: str | None = None
    image: str | None = Field(None, min_length=1, description="Data URL or base64.")
    like: list[str] = Field([], description="Ids of documents to be near to.")
    unlike: list[str] = Field([], description="Ids of documents to be far from.")
    k: int = Field(10, ge=1)
    filter: dict[str, Any] | None = None
    dimensions: int | None = Field(None, ge=1)
    model: str | None = None


@router.post("/v1/search")
async def search(body: SearchBody, request: Request) -> Response:
    """Find the nearest documents."""
    service = service_of(request)
    start = time.perf_counter()
    served = service.served(body.model)
    index = served.searched()
    if body.k > service.settings.limits.max_k:
        raise RequestError("E_LIMIT_K", f"k is above {service.settings.limits.max_k} (max_k)", where="k")
    with service.searches:
        hits = await service.in_time(request, _hits(service, index, body))
    return json_reply(
        {
            "hits": [shown(hit, service, served) for hit in hits],
            "model": served.name,
            "seconds": time.perf_counter() - start,
        }
    )


async def _hits(service: Service, index: Index, body: SearchBody) -> list[Hit]:
    vector = await query_vector(service, body)
    condition = others(index, body.filter, [*body.like, *body.unlike])
    return await service.look(lambda: nearest(index, vector, body.k, condition, body.dimensions))


async def query_vector(service: Service, body: SearchBody) -> NDArray[np.float32]:
    """Returns the unit vector float32 [D] of a query, by the model that it names."""
    served = service.served(body.model)
    index = served.searched()
    for name, ids in (("like", body.like), ("unlike", body.unlike)):
        if len(ids) > service.settings.limits.max_likes:
            raise RequestError(
                "E_LIMIT_LIKES", f"more than {service.settings.limits.max_likes} documents (max_likes)", where=name
            )
    served.check_dimensions(body.dimensions)
    if not (body.text or body.image or body.like):
        raise RequestError("E_REQUEST_QUERY", "give a text, an image, or documents in like")
    rows = await service.look(lambda: index.get([*body.like, *body.unlike]))
    wanted = [row.vector for row in rows[: len(body.like)]]
    unwanted = [row.vector for row in rows[len(body.like) :]]
    if body.text or body.image:
        images = (body.image,) if body.image else ()
        sample = Sample(body.text or "", images, "text")
        try:
            [embedded] = await service.vectors([sample], "query", model=body.model)
        except CocoaError as error:
            if error.where == sample.where and (not body.text or error.code.startswith(_OF_A_PICTURE)):
                raise error.at("image") from None
            raise
        wanted.append(embedded.vector)
    try:
        return combined(np.stack(wanted), np.stack(unwanted) if unwanted else None)
    except UsageError:
        raise RequestError("E_REQUEST_QUERY", "what is liked and unlike cancels out", where="unlike") from None
