"""The application: routes behind the door, and how failures of every kind are told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

import cocoa
from cocoa.corpus.index import Index
from cocoa.errors import CocoaError
from cocoa.serving import embedding, manual, page, probes, searching
from cocoa.serving.door import Door
from cocoa.serving.engine import Engine
from cocoa.serving.keys import ApiKeys
from cocoa.serving.logs import log
from cocoa.serving.problems import RequestError, public, reply
from cocoa.serving.served import Served
from cocoa.serving.service import Service
from cocoa.serving.settings import ServeSettings


def create_app(
    settings: ServeSettings,
    engine: Engine,
    index: Index | None = None,
    *,
    compared: Sequence[Served] = (),
    keys: ApiKeys | None = None,
) -> FastAPI:
    """Returns the application; its lifespan starts and stops the engines: its own, and those of `compared` models.

    Without `keys` anyone who reaches it is answered: then it must be on loopback only.
    """
    models = [Served(engine.name, engine, index), *compared]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for served in models:
            await served.engine.start()
        yield
        service.close()
        service.has_ended = all([await served.engine.stop() for served in models])

    app = FastAPI(
        title="CoCoA",
        version=cocoa.__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings = settings
    service = app.state.service = Service(settings, models)
    for part in (probes, manual, embedding, searching, page):
        app.include_router(part.router)
    for kind in (CocoaError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _told)
    app.add_middleware(Door, service=service, keys=keys or ApiKeys())
    return app


async def _told(request: Request, error: Exception) -> Response:
    match error:
        case CocoaError():
            told = public(error)
            if told.status >= 500 and told is not error:
                log.error("request %s failed", request.state.request_id, exc_info=error)
            elif told is not error:
                log.info("request %s: %r", request.state.request_id, str(error))
        case RequestValidationError():
            told = _field_at_fault(error)
        case HTTPException(status_code=404):
            told = RequestError("E_REQUEST_ROUTE", "there is nothing at this path", status=404)
        case HTTPException(status_code=405):
            allow = (error.headers or {}).get("Allow", "")
            what = f"this path takes {' and '.join(sorted(allow.split(', ')))}"
            told = RequestError("E_REQUEST_METHOD", what, status=405, allow=allow)
        case HTTPException():
            told = RequestError("E_REQUEST_BAD", "the request cannot be read", status=error.status_code)
        case _:
            raise error
    request.state.code = told.code
    return reply(told, request.state.request_id)


def _field_at_fault(error: RequestValidationError) -> RequestError:
    problem = error.errors()[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"][1:])
    if problem["type"] == "extra_forbidden":
        return RequestError("E_REQUEST_FIELD", "there is no such field", where=place.lstrip(".")[:200])
    if problem["type"] == "missing":
        return RequestError("E_REQUEST_FIELD", "the field is missing", where=place.lstrip(".")[:200])
    return RequestError("E_REQUEST_FIELD", str(problem["msg"])[:300], where=place.lstrip(".")[:200])
