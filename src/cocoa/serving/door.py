"""The door: nothing behind it sees a request that has no right to be answered.

A plain ASGI layer around the whole application. It looks at what the server parsed (`scope["path"]`, raw headers) and
never at a URL rebuilt from the Host header, and it denies by default: only the two probes pass without a key.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import itertools
import re
import secrets

from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cocoa.serving.embedding import router
from cocoa.serving.keys import ApiKey, ApiKeys
from cocoa.serving.logs import log
from cocoa.serving.problems import RequestError, busy, failed, reply, stopping
from cocoa.serving.service import Service
from cocoa.serving.settings import LOOPBACK

PROBES = frozenset({"/livez", "/readyz"})
EMBEDDING = frozenset(route.path for route in router.routes if isinstance(route, APIRoute))
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")


class Door:
    """Gives each request an id, checks headers, host and key, counts the answer, and lets no exception out."""

    def __init__(self, app: ASGIApp, service: Service, keys: ApiKeys) -> None:
        self.app = app
        self.service = service
        self.keys = keys
        settings = service.settings
        self.max_header_bytes = settings.limits.max_header_bytes
        # One draw for all: a system call for each request would wait for the model's thread each time.
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count()
        self.hosts = LOOPBACK | {name.lower() for name in (settings.host, *settings.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one connection of the ASGI server."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request_id = f"{self._prefix}{next(self._numbers):08x}"
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [pair for pair in message.get("headers", ()) if pair[0] != b"x-request-id"]
                message = {**message, "headers": [*headers, (b"x-request-id", request_id.encode())]}
            await send(message)

        with self.service.under_way(), self.service.metrics.request(scope) as outcome:
            try:
                key = self._admit(scope)
                scope.setdefault("state", {}).update(key=key, request_id=request_id)
                await self.app(scope, receive, answer)
            except RequestError as error:
                outcome.code = error.code
                outcome.route = scope["path"] if scope["path"] in EMBEDDING else ""
                await reply(error, request_id)(scope, receive, answer)
            except asyncio.CancelledError:
                if status or not self.service.is_draining:
                    raise
                # The time to stop is over, and what keeps this request is no pass that could be given up.
                outcome.code = stopping().code
                await reply(stopping(), request_id)(scope, receive, answer)
            except Exception:
                log.exception("request %s failed", request_id)
                outcome.code = "E_SERVER_FAILED"
                if status:
                    raise  # Half an answer is out; only closing the connection tells the client.
                await reply(failed(), request_id)(scope, receive, answer)
            finally:
                outcome.status = status
                outcome.code = scope.get("state", {}).get("code", outcome.code)

    def _admit(self, scope: Scope) -> ApiKey | None:
        """The key that opened the door; None for a probe. Raises what is wrong."""
        headers = Headers(scope=scope)
        size = sum(len(name) + len(value) for name, value in headers.raw) + len(scope.get("raw_path") or b"")
        if size + len(scope["query_string"]) > self.max_header_bytes:
            raise RequestError(
                "E_LIMIT_HEADERS",
                f"headers have more than {self.max_header_bytes} bytes (max_header_bytes)",
                status=431,
            )
        if scope["path"] in PROBES and scope["method"] in ("GET", "HEAD"):
            return None
        if "*" not in self.hosts and _host(headers.getlist("host")) not in self.hosts:
            raise RequestError("E_REQUEST_HOST", "this server does not go by that name (Host header)", status=421)
        key = self.keys.find(_shown(headers.getlist("authorization")))
        if key is None:
            raise RequestError("E_REQUEST_KEY", "a valid API key is needed", status=401)
        if self.service.is_draining:
            raise stopping()
        if scope["path"] in EMBEDDING and self.service.is_full:
            # Before the body is read: to refuse must cost little, or those who come too much take all from the others.
            raise busy("items")
        return key


def _host(values: list[str]) -> str | None:
    """The name in a Host header, without port; None where there is not exactly one well-formed name."""
    match = _HOST.fullmatch(values[0].lower()) if len(values) == 1 else None
    return match[1].strip("[]") if match else None


def _shown(values: list[str]) -> str | None:
    """The key in an Authorization header: Bearer, or the password of Basic; None where there is not exactly one."""
    if len(values) != 1:
        return None
    # As it was sent, in UTF-8: headers are read as if they were Latin-1.
    kind, _, value = values[0].encode("latin-1").decode("utf-8", "surrogateescape").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode("utf-8", "surrogateescape").partition(":")[2]
        except (binascii.Error, ValueError):
            return None
    return None
