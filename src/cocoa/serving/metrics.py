"""What operators watch: counters and gauges in Prometheus' format, from a registry of the application's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Scope

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass
class Outcome:
    """How a request ended: HTTP status (0: the client went away) and error code (empty: none).

    `route` is where it would have gone, if it was stopped before that was looked up; not a path as the client wrote it.
    """

    status: int = 0
    code: str = ""
    route: str = ""


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
        self.tokens = counter("cocoa_tokens", "Tokens embedded, padding not counted.", "model")
        self.batch_items = histogram("cocoa_batch_items", "Items of a forward pass.", _SIZES, "model")
        self.forward_seconds = histogram("cocoa_forward_seconds", "Seconds of a forward pass.", _SECONDS, "model")
        self.waiting_seconds = histogram(
            "cocoa_waiting_seconds", "Seconds an item waits for its pass.", _SECONDS, "model"
        )
        self.held = Gauge(
            "cocoa_held", "Under way from admission to answer.", ["model", "what"], registry=self.registry
        )
        self.cache = counter("cocoa_cache", "Look-ups in the cache of vectors.", "model", "result")
        self.pictures = counter(
            "cocoa_pictures", "Pictures decoded, by result: good, or the code of what was wrong.", "result"
        )
        self.notes = counter("cocoa_picture_notes", "What a decoder had to mend, leave out or assume.", "note")
        self.ready = Gauge("cocoa_ready", "1 if the last probe of /readyz was good.", registry=self.registry)

    def of(self, model: str) -> ModelMetrics:
        """Returns what is counted of one model."""
        return ModelMetrics(self, model)

    @contextmanager
    def request(self, scope: Scope) -> Iterator[Outcome]:
        """Times and counts one request; the outcome is filled in by whoever answers it."""
        outcome = Outcome()
        start = time.perf_counter()
        try:
            yield outcome
        finally:
            # The route's pattern, not the path: a client must not be able to make labels without end.
            route = getattr(scope.get("route"), "path", outcome.route or "none")
            self.requests.labels(route, str(outcome.status), outcome.code).inc()
            self.seconds.labels(route).observe(time.perf_counter() - start)

    def text(self) -> bytes:
        """Returns everything, as Prometheus reads it."""
        return generate_latest(self.registry)


class ModelMetrics:
    """What is counted of one model: the application's counters with its name on them."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self.tokens = metrics.tokens.labels(model)
        self.batch_items = metrics.batch_items.labels(model)
        self.forward_seconds = metrics.forward_seconds.labels(model)
        self.waiting_seconds = metrics.waiting_seconds.labels(model)
        self.pictures = metrics.pictures
        self.notes = metrics.notes
        self._held = metrics.held
        self._cache = metrics.cache
        self._model = model

    def hold(self, what: str, number: Callable[[], int]) -> None:
        """Makes `number` what is told of so many items, tokens or pixels under way."""
        self._held.labels(self._model, what).set_function(number)

    def looked_up(self, result: str) -> None:
        """Counts a look into the cache: `hit` or `miss`."""
        self._cache.labels(self._model, result).inc()
