"""`/livez`, `/readyz`, `/metrics`, `/v1/models`: what is asked about the server itself."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from cocoa.sample import Sample
from cocoa.serving.problems import RequestError
from cocoa.serving.service import json_reply, needs, service_of

router = APIRouter(tags=["server"])


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "alive"}


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """A vector comes back through the real line in time."""
    service = service_of(request)
    try:
        if service.is_draining:
            raise RequestError("E_SERVER_STOPPING", "the server is stopping", status=503)
        deadline = time.monotonic() + service.settings.ready_seconds
        await service.engine.embed([Sample("ready")], deadline=deadline)
    except Exception:
        service.engine.metrics.ready.set(0)
        return JSONResponse({"status": "not ready"}, 503)
    service.engine.metrics.ready.set(1)
    return JSONResponse({"status": "ready"})


@router.get("/metrics", dependencies=[needs("admin")])
async def metrics(request: Request) -> Response:
    """Counters and gauges, for Prometheus."""
    return Response(service_of(request).engine.metrics.text(), media_type="text/plain; version=0.0.4")


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """The model, as OpenAI's client lists it."""
    name = service_of(request).settings.model_name
    return json_reply({"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "cocoa"}]})
