"""What operators watch: counters and gauges in Prometheus' format, from a registry of the application's own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Scope

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass
class Outcome:
    """How a request ended: HTTP status (0: the client went away) and error code (empty: none)."""

    status: int = 0
    code: str = ""


class Metrics:
    """The application's own registry; two applications in one process do not share it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

        self.requests = counter(
            "cocoa_requests", "Requests by route, status and error code.", "route", "status", "code"
        )
        self.seconds = histogram("cocoa_request_seconds", "Seconds from arrival to answer.", _SECONDS, "route")
        self.items = counter("cocoa_items", "Items by what became of them: done, or an error code.", "code")
        self.tokens = counter("cocoa_tokens", "Tokens embedded, padding not counted.")
        self.batch_items = histogram("cocoa_batch_items", "Items of a forward pass.", _SIZES)
        self.forward_seconds = histogram("cocoa_forward_seconds", "Seconds of a forward pass.", _SECONDS)
        self.waiting_seconds = histogram("cocoa_waiting_seconds", "Seconds an item waits for its pass.", _SECONDS)
        self.held = Gauge("cocoa_held", "Under way from admission to answer.", ["what"], registry=self.registry)
        self.ready = Gauge("cocoa_ready", "1 if the last probe of /readyz was good.", registry=self.registry)
        self.cache = counter("cocoa_cache", "Look-ups in the cache of vectors.", "result")

    @contextmanager
    def request(self, scope: Scope) -> Iterator[Outcome]:
        """Times and counts one request; the outcome is filled in by whoever answers it."""
        outcome = Outcome()
        start = time.perf_counter()
        try:
            yield outcome
        finally:
            # The route's pattern, not the path: a client must not be able to make labels without end.
            route = getattr(scope.get("route"), "path", "none")
            self.requests.labels(route, str(outcome.status), outcome.code).inc()
            self.seconds.labels(route).observe(time.perf_counter() - start)

    def text(self) -> bytes:
        """Returns everything, as Prometheus reads it."""
        return generate_latest(self.registry)
