"""The routes that embed: one for each family of clients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import APIRouter, Request
from starlette.responses import Response

from cocoa.serving.bodies import StrictRoute
from cocoa.serving.problems import RequestError
from cocoa.serving.service import json_reply, needs, service_of
from cocoa.serving.shapes.cohere import CohereBody
from cocoa.serving.shapes.openai import EmbeddingsBody
from cocoa.serving.shapes.voyage import VoyageBody

router = APIRouter(route_class=StrictRoute, tags=["embeddings"], dependencies=[needs("embed")])


@router.post("/v1/embeddings")
async def embeddings(body: EmbeddingsBody, request: Request) -> Response:
    """Embed texts and pictures as OpenAI's, vLLM's, Jina's and SGLang's clients ask for it."""
    embedded = await service_of(request).embed(
        request, body.samples(), body.side, model=body.model, dimensions=body.dimensions, cut=body.truncate
    )
    return json_reply(body.reply(embedded))


@router.post("/v2/embed")
async def embed(body: CohereBody, request: Request) -> Response:
    """Embed texts and pictures as Cohere's client asks for it."""
    with _output_dimension():
        embedded = await service_of(request).embed(
            request,
            body.samples(),
            body.side,
            model=body.model,
            dimensions=body.output_dimension,
            cut=body.truncate == "END",
        )
    return json_reply(body.reply(embedded))


@router.post("/v1/multimodalembeddings")
async def multimodal_embeddings(body: VoyageBody, request: Request) -> Response:
    """Embed lists of texts and pictures as Voyage's client asks for it."""
    with _output_dimension():
        embedded = await service_of(request).embed(
            request, body.samples(), body.side, model=body.model, dimensions=body.output_dimension, cut=body.truncation
        )
    return json_reply(body.reply(embedded))


@contextmanager
def _output_dimension() -> Iterator[None]:
    """Says of what is wrong with `dimensions` that it is wrong with the field of that name here."""
    try:
        yield
    except RequestError as error:
        raise error.at("output_dimension") if error.where == "dimensions" else error from None
