"""`/livez`, `/readyz`, `/metrics`, `/v1/models`: what is asked about the server itself."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from cocoa.serving.service import json_reply, needs, service_of

router = APIRouter(tags=["server"])


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "alive"}


@router.get("/readyz", responses={503: {"description": "Not ready."}})
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
    names = service_of(request).models
    listed = [{"id": name, "object": "model", "created": 0, "owned_by": "cocoa"} for name in names]
    return json_reply({"object": "list", "data": listed})
