"""The same application in several processes, behind Ray Serve: a replica that dies is replaced, others answer on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve

from cocoa.errors import UsageError
from cocoa.serving.keys import ApiKeys
from cocoa.serving.logs import show_log
from cocoa.serving.server import Place, check_reach, open_app
from cocoa.serving.settings import ServeSettings

NAME = "cocoa"
_CHECK_SECONDS = 5
_OF_THE_SOCKET = ("header_seconds", "max_connections")
"""Settings of whoever listens, which is Ray's proxy here."""


def serve_replicas(models: Sequence[Place], settings: ServeSettings, num_replicas: int) -> None:
    """Serves model folders with several replicas until SIGTERM or SIGINT, which drain them.

    Raises `E_USAGE_KEYS` where others than this machine could reach it without a key.
    """
    start_replicas(models, settings, num_replicas)
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    stopped.wait()
    stop_replicas()


def start_replicas(models: Sequence[Place], settings: ServeSettings, num_replicas: int) -> None:
    """Starts Ray, if it does not run yet, and returns when all replicas are ready.

    Raises `E_USAGE_SETTING` for a setting that Ray's proxy has not.
    """
    for name in _OF_THE_SOCKET:
        if name in settings.model_fields_set:
            raise UsageError("E_USAGE_SETTING", "with --engine ray it has no effect: Ray's proxy listens", where=name)
    keys = ApiKeys.load(settings.key_file)
    check_reach(settings, keys)
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": settings.host, "port": settings.port, "request_timeout_s": None})
    told = settings.model_dump_json()
    replica: Any = _Replica
    deployed = replica.options(
        num_replicas=num_replicas,
        max_ongoing_requests=settings.queue.max_items,
        graceful_shutdown_timeout_s=settings.drain_seconds,
    ).bind([(_anywhere(model), index) for model, index in models], told, keys)
    serve.run(deployed, name=NAME, route_prefix="/")


def _anywhere(model: str | Path) -> str:
    """A model's name in processes that work in another folder."""
    return str(Path(model).resolve()) if Path(model).is_dir() else str(model)


def stop_replicas() -> None:
    """Drains the replicas and ends Ray."""
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


@serve.deployment(
    name=NAME, health_check_period_s=_CHECK_SECONDS, health_check_timeout_s=30, ray_actor_options={"num_cpus": 0}
)
@serve.ingress()
class _Replica:
    """One process with the models: what `cocoa serve` is without Ray, but for the socket."""

    def __init__(self, models: Sequence[Place], told: str, keys: ApiKeys) -> None:
        show_log()
        self._app = open_app(models, ServeSettings.model_validate_json(told), keys)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    async def check_health(self) -> None:
        """Raises where a vector does not come back through the line; Ray then replaces the replica."""
        if not await self._app.state.service.readiness.is_ready():
            raise RuntimeError("not ready")
