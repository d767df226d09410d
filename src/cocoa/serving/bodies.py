"""Bodies: read within size and time, then parsed as JSON that means one thing only."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from cocoa.serving.problems import RequestError
from cocoa.serving.room import Take
from cocoa.serving.service import Needs, service_of
from cocoa.serving.settings import RequestLimits

_LARGE = 65_536
"""Bytes from which on a body is parsed off the event loop."""


class StrictRequest(Request):
    """A request whose body is read within `RequestLimits`."""

    take: Take
    """Takes up room for bytes of the body until the request is answered."""

    async def body(self) -> bytes:
        """Returns the body. Raises `E_LIMIT_BODY`, `E_REQUEST_SLOW`, or `ClientDisconnect`."""
        if not hasattr(self, "_read"):
            limits: RequestLimits = self.app.state.settings.limits
            try:
                async with asyncio.timeout(limits.max_body_seconds):
                    self._read = await self._within(limits.max_body_bytes)
            except TimeoutError:
                raise RequestError(
                    "E_REQUEST_SLOW", f"the body did not arrive within {limits.max_body_seconds:g} s", status=408
                ) from None
        return self._read

    async def _within(self, most: int) -> bytes:
        too_large = RequestError("E_LIMIT_BODY", f"the body has more than {most} bytes (max_body_bytes)", status=413)
        length = self.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > most:
            raise too_large
        parts = bytearray()
        async for part in self.stream():
            if len(parts) + len(part) > most:
                raise too_large
            self.take(len(part))
            parts += part
        return bytes(parts)

    async def json(self) -> Any:
        """Returns the parsed body. Raises `E_REQUEST_JSON` or `E_LIMIT_JSON`."""
        if not hasattr(self, "_parsed"):
            body = await self.body()
            limits: RequestLimits = self.app.state.settings.limits
            is_small = len(body) < _LARGE
            self._parsed = parse(body, limits) if is_small else await asyncio.to_thread(parse, body, limits)
        return self._parsed


class StrictRoute(APIRoute):
    """A route whose body is JSON, read by `StrictRequest` before anything else looks at it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns FastAPI's handler behind the strict reading."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            request = StrictRequest(request.scope, request.receive)
            for dependency in self.dependencies:
                if isinstance(dependency.dependency, Needs):  # Before a body is read that nobody may send.
                    await dependency.dependency(request)
            if self.body_field is not None:
                kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
                if kind != "application/json":
                    # A page of another site can send other types without being asked for leave.
                    raise RequestError("E_REQUEST_TYPE", "send content-type: application/json", status=415)
            with service_of(request).room.share() as request.take:
                try:
                    if self.body_field is not None:
                        await request.json()
                    return await handler(request)
                except ClientDisconnect:
                    return Response(status_code=499)

        return strict


def parse(body: bytes, limits: RequestLimits) -> Any:
    """Returns the value of a JSON text in UTF-8.

    Raises `E_REQUEST_JSON` for what is not JSON, has a key twice, a number that is not finite or half of a surrogate
    pair, and `E_LIMIT_JSON` for what is too deep or has too many values; that is seen before anything is built.
    """
    _check_extent(body, limits)
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant, parse_float=_finite
        )
        if b"\\ud" in body or b"\\uD" in body:
            _check_characters(value)
        return value
    except (ValueError, RecursionError) as error:
        message = str(error) if isinstance(error, _NotOneThingError) else "the body is not JSON in UTF-8"
        raise RequestError("E_REQUEST_JSON", message, status=400) from None


class _NotOneThingError(ValueError):
    """JSON that two parsers would read differently."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _NotOneThingError("an object has the same key twice")
    return found


def _constant(name: str) -> Any:
    raise _NotOneThingError("NaN and Infinity are not JSON numbers")


def _check_characters(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _NotOneThingError("a text has half of a surrogate pair") from None


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _NotOneThingError("a number is too large")
    return value


def _check_extent(body: bytes, limits: RequestLimits) -> None:
    """Counts strings, and brackets and commas outside them; what is in a string is skipped at the speed of a search."""
    depth = values = strings = at = 0
    while at < len(body):
        quote = body.find(b'"', at)
        between = body[at : len(body) if quote < 0 else quote]
        values += between.count(b",") + between.count(b"[") + between.count(b"{")
        strings += quote >= 0
        # Each value may have a key; more strings than that are no JSON, and would take long to look through.
        if values >= limits.max_json_values or strings > 2 * limits.max_json_values + 1:
            raise RequestError(
                "E_LIMIT_JSON", f"the body has more than {limits.max_json_values} values (max_json_values)", status=413
            )
        for bracket in between.translate(None, _NOT_BRACKETS):
            depth += 1 if bracket in b"[{" else -1
            if depth > limits.max_json_depth:
                raise RequestError(
                    "E_LIMIT_JSON", f"the body is deeper than {limits.max_json_depth} (max_json_depth)", status=413
                )
        if quote < 0:
            return
        at = _end_of_string(body, quote + 1)


_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _end_of_string(body: bytes, at: int) -> int:
    """Where a string ends that starts at `at`: behind the first quote with an even number of backslashes before it."""
    while (quote := body.find(b'"', at)) >= 0:
        slashes = quote
        while slashes > at and body[slashes - 1] == 0x5C:
            slashes -= 1
        if (quote - slashes) % 2 == 0:
            return quote + 1
        at = quote + 1
    return len(body)
