"""The server process: an application on a socket, until it is told to stop; then it finishes what it began."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from cocoa.corpus.index import Index
from cocoa.embedder import Embedder
from cocoa.errors import UsageError
from cocoa.serving.app import create_app
from cocoa.serving.engine import Engine
from cocoa.serving.forward import Forward
from cocoa.serving.keys import ApiKeys
from cocoa.serving.listening import allow_connections, bound, listen
from cocoa.serving.logs import log, show_log
from cocoa.serving.metrics import Metrics
from cocoa.serving.problems import stopping
from cocoa.serving.served import Served, named
from cocoa.serving.service import Service
from cocoa.serving.settings import LOOPBACK, ServeSettings

_LAST_WRITES_SECONDS = 2
_KEEP_ALIVE_SECONDS = 75


Place = tuple[str | Path, str | None]
"""A model (folder, or `OWNER/NAME` on the hub), and what there is to search with it, if anything: folder or URI."""


def serve(models: Sequence[Place], settings: ServeSettings) -> None:
    """Serves model folders until SIGTERM or SIGINT, and returns once all is answered; a second signal ends it at once.

    Raises `E_USAGE_KEYS` where others than this machine could reach it without a key, and `E_USAGE_ADDRESS` where it
    cannot listen; both before a model is loaded.
    """
    keys = ApiKeys.load(settings.key_file)
    check_reach(settings, keys)
    with bound(settings.host, settings.port) as sockets:
        show_log()
        allow_connections(settings.max_connections)
        server = DrainingServer(open_app(models, settings, keys))
        listen(sockets)
        run(server, sockets)


def check_reach(settings: ServeSettings, keys: ApiKeys) -> None:
    """Raises `E_USAGE_KEYS` where others than this machine could reach a server without a key."""
    if settings.host not in LOOPBACK and not keys:
        raise UsageError(
            "E_USAGE_KEYS", f"on {settings.host} others can reach the server: give it keys", where="--keys"
        )


def open_app(models: Sequence[Place], settings: ServeSettings, keys: ApiKeys) -> FastAPI:
    """Returns the application of model folders and their indexes; raises where an index is of another model.

    The first is who answers where a request names no model.
    """
    metrics = Metrics()
    names = named(settings.model_name, [folder for folder, _ in models[1:]])
    first, *compared = [
        _opened(name, folder, index, settings, metrics) for name, (folder, index) in zip(names, models, strict=True)
    ]
    return create_app(settings, first.engine, first.index, compared=compared, keys=keys)


def _opened(name: str, folder: str | Path, index: str | None, settings: ServeSettings, metrics: Metrics) -> Served:
    embedder = Embedder.load(folder)
    opened = Index.open(index) if index else None
    if opened is not None:
        opened.check_identity(embedder.identity, str(folder))
    forward = Forward(embedder, max_batch_tokens=settings.queue.max_batch_tokens)
    return Served(name, Engine(forward, settings, metrics, name=name), opened)


def run(server: DrainingServer, sockets: list[socket.socket] | None = None) -> None:
    """Runs a server, on sockets that are bound or on its own, until it has stopped."""
    server.run(sockets)
    if not server.service.has_ended:
        # A pass that hangs would keep the process for ever.
        log.error("the model does not answer; ending without it")
        os._exit(1)


class DrainingServer(uvicorn.Server):
    """Uvicorn that stops in two steps.

    The first signal drains: `/readyz` and new requests get 503, those under way are answered, within `drain_seconds`;
    then what is left gets 503 too. A second signal ends the process at once, with code 1.
    """

    def __init__(self, app: FastAPI) -> None:
        self.service: Service = app.state.service
        settings = self.service.settings
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                # The one parser that bounds what it keeps of an unfinished head; our own answer comes first.
                http=protocol(settings.header_seconds, settings.deadline_seconds),
                h11_max_incomplete_event_size=4 * settings.limits.max_header_bytes,
                limit_concurrency=settings.max_connections + 1,  # Uvicorn refuses the one that reaches its number.
                # Longer than clients and proxies keep an idle connection, so that no request meets one that is closing.
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_LAST_WRITES_SECONDS,
                ws="none",
                access_log=False,
                server_header=False,
                proxy_headers=False,
            )
        )
        self._stop_at = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen, and says where: with a port of 0 nobody else knows."""
        await super().startup(sockets)
        if sockets and self.started:
            self._log_started_message(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Takes a signal: drain, then, when it comes again, end."""
        if self.service.is_draining:
            os._exit(1)
        self.service.is_draining = True
        self._stop_at = time.monotonic() + self.service.settings.drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Looks, ten times a second, whether all is answered."""
        if self.service.is_draining and not self.should_exit:
            if time.monotonic() > self._stop_at:
                log.warning("%d requests are not answered in time to stop", self.service.num_under_way)
                for served in self.service.models.values():
                    served.engine.passes.give_up(stopping())
                self.should_exit = True
            elif self.service.num_under_way == 0:
                self.should_exit = True
        return await super().on_tick(counter)


def protocol(header_seconds: float, deadline_seconds: float) -> type[asyncio.Protocol]:
    """Returns uvicorn's HTTP protocol that keeps no connection for a client that does not do its part.

    A connection is closed when the head of a request, or what is left of a body after its answer, takes longer than
    `header_seconds`, and when an answer is not read within `deadline_seconds`.
    """
    import h11

    class Patient(H11Protocol):
        _timer: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._timer = self.loop.call_later(header_seconds, transport.close)
            transport.set_write_buffer_limits(high=0)  # To be told of whatever is left to read.

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()  # Half of the next head may have come with the request before it.

        def pause_writing(self) -> None:
            super().pause_writing()
            # To close would be to wait until the client has read it all.
            self._unread = self.loop.call_later(deadline_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._forgive()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            self._forgive()
            super().connection_lost(exc)

        def _watch(self) -> None:
            is_idle = self.conn.their_state is h11.IDLE
            has_half_a_head = is_idle and bool(self.conn.trailing_data[0])
            # Refused before its body was read: the client may still send it, to read the answer, but not for ever.
            has_half_a_body = self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE
            if not has_half_a_head and not has_half_a_body:
                self._disarm()
            elif self._timer is None:
                self._timer = self.loop.call_later(header_seconds, self.transport.close)
            if is_idle and not has_half_a_head and self.timeout_keep_alive_task is None:
                # Uvicorn starts this clock with the answer, and stops it with what is left of the body.
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

        def _disarm(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _forgive(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

    return Patient
