"""`/livez`, `/readyz`, `/metrics`, `/v1/models`, `/v1/models/{name}`: what is asked about the server itself."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from cocoa.serving.service import json_reply, needs, service_of

router = APIRouter(tags=["server"])


# Those who ask by HEAD are answered too; once is enough in the schema.
@router.get("/livez")
@router.api_route("/livez", methods=["GET", "HEAD"], include_in_schema=False)
async def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "alive"}


@router.get("/readyz", responses={503: {"description": "Not ready."}})
@router.api_route("/readyz", methods=["GET", "HEAD"], include_in_schema=False)
async def readyz(request: Request) -> JSONResponse:
    """A text and a picture come back as a vector, through the real line, in time; and it does not stop."""
    service = service_of(request)
    if not service.is_draining and await service.readiness.is_ready():
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": "not ready"}, 503)


@router.get("/metrics", dependencies=[needs("admin")])
async def metrics(request: Request) -> Response:
    """Counters and gauges, for Prometheus."""
    return Response(service_of(request).metrics.text(), media_type="text/plain; version=0.0.4")


@router.get("/v1/models", dependencies=[needs("embed", "search")])
async def models(request: Request) -> Response:
    """The models, as OpenAI's client lists them."""
    return json_reply({"object": "list", "data": [_listed(name) for name in service_of(request).models]})


@router.get("/v1/models/{name:path}", dependencies=[needs("embed", "search")])
async def model(name: str, request: Request) -> Response:
    """One model, as OpenAI's client asks for it."""
    return json_reply(_listed(service_of(request).served(name).name))


def _listed(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "cocoa"}
