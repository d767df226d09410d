"""`POST /v1/explain`: which pieces of a document's picture speak for its match with a query."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from cocoa.explanation import Explanation, explain
from cocoa.prompts import prompted
from cocoa.sample import Sample
from cocoa.serving.bodies import StrictRoute
from cocoa.serving.documents import document_of, picture_of
from cocoa.serving.problems import RequestError
from cocoa.serving.searching import SearchBody, query_vector
from cocoa.serving.served import Served
from cocoa.serving.service import Service, json_reply, needs, service_of
from cocoa.serving.turns import Turns

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
    if not hasattr(request.app.state, "explaining"):
        request.app.state.explaining = Turns(MOST_WAITING, "explanations")
    turns: Turns = request.app.state.explaining
    with service.searches, turns:
        found = await service.in_time(request, _explained(service, served, body))
    rows, columns = found.values.shape
    return json_reply({"rows": rows, "columns": columns, "values": found.values.tolist(), "score": found.score})


async def _explained(service: Service, served: Served, body: ExplainBody) -> Explanation:
    document = await document_of(service, served, body.id)
    if not document.image:
        raise RequestError("E_DATA_NO_PICTURE", "the document has no picture to explain", where="id")
    picture = await picture_of(service, served, document)
    vector = await query_vector(service, body)
    model = served.engine.forward.model
    worded = prompted(Sample(document.text, (picture,), "id"), "document", None, model.prompts)
    return await served.engine.compute(lambda: explain(model, worded, vector[: body.dimensions]))
