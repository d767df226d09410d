"""`POST /v1/explain`: which pieces of a document's picture speak for its match with a query."""

from __future__ import annotations

import asyncio

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from pydantic import Field
from starlette.responses import Response

from cocoa.explanation import Explanation, explain
from cocoa.prompts import prompted
from cocoa.sample import Sample
from cocoa.serving.bodies import StrictRoute
from cocoa.serving.documents import document_of, picture_of
from cocoa.serving.engine import Engine
from cocoa.serving.problems import RequestError, busy
from cocoa.serving.searching import SearchBody, query_vector
from cocoa.serving.service import json_reply, needs, service_of, unless_gone

router = APIRouter(route_class=StrictRoute, tags=["search"], dependencies=[needs("search")])

MOST_WAITING = 4
"""Explanations under way at once: each holds up the model for about three passes of its picture."""


class ExplainBody(SearchBody):
    """A query as for search, and the document that it found."""

    id: str = Field(description="The document's id.")


@router.post("/v1/explain")
async def explain_match(body: ExplainBody, request: Request) -> Response:
    """Say why a document matches: a map over its picture, rows from the top, values from 0 to 1."""
    service = service_of(request)
    served = service.served(body.model)
    document = await document_of(served, body.id)
    if not document.image:
        raise RequestError("E_DATA_NO_PICTURE", "the document has no picture to explain", where="id")
    if not hasattr(request.app.state, "explaining"):
        request.app.state.explaining = Turns()
    turns: Turns = request.app.state.explaining
    with turns:
        picture = await picture_of(service, served, document)
        vector = await query_vector(service, request, body)
        try:
            found = await unless_gone(
                request,
                _explained(served.engine, Sample(document.text, (picture,), "id"), vector[: body.dimensions]),
            )
        except TimeoutError:
            raise RequestError(
                "E_SERVER_DEADLINE", "the answer did not come in time", status=503, retry_after=1
            ) from None
    rows, columns = found.values.shape
    return json_reply({"rows": rows, "columns": columns, "values": found.values.tolist(), "score": found.score})


async def _explained(engine: Engine, document: Sample, query: NDArray[np.float32]) -> Explanation:
    model = engine.forward.model
    worded = prompted(document, "document", None, model.prompts)
    async with asyncio.timeout(engine.settings.deadline_seconds):
        return await engine.compute(lambda: explain(model, worded, query))


class Turns:
    """Lets so many in and no more."""

    def __init__(self) -> None:
        self.inside = 0

    def __enter__(self) -> None:
        if self.inside >= MOST_WAITING:
            raise busy("explanations")
        self.inside += 1

    def __exit__(self, *_: object) -> None:
        self.inside -= 1
