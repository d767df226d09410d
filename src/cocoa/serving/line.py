"""The line before the model: bounded, fair between requests, and rid at once of whom nobody waits for."""

from __future__ import annotations

import time
from asyncio import Future
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from cocoa.serving.problems import busy
from cocoa.serving.settings import QueueBounds

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request takes up while it is under way."""

    items: int
    tokens: int
    pixels: int = 0


@dataclass(slots=True, eq=False)
class Job(Generic[T]):
    """One item, ready for the model: `num_tokens` is its length, `deadline` a time of `time.monotonic`."""

    content: T
    num_tokens: int
    deadline: float
    vector: Future[NDArray[np.float32]]
    since: float = field(default_factory=time.monotonic)


class Line(Generic[T]):
    """Jobs in waiting. Requests take turns with one item each, so that a long request cannot hold up a short one."""

    def __init__(self, bounds: QueueBounds) -> None:
        self.bounds = bounds
        self.held = Cost(0, 0)
        self._waiting: OrderedDict[int, deque[Job[T]]] = OrderedDict()
        self._next = 0

    @property
    def is_full(self) -> bool:
        """Whether there is no room for even one item more: a short text, which has no pixels."""
        return self.held.items >= self.bounds.max_items or self.held.tokens >= self.bounds.max_tokens

    def admit(self, cost: Cost) -> None:
        """Takes up room from now until `release`. Raises `E_SERVER_BUSY` where there is none."""
        for what in ("items", "tokens", "pixels"):
            held, more = getattr(self.held, what), getattr(cost, what)
            # A request that is larger than the whole line may still go through it alone.
            if held and more and held + more > getattr(self.bounds, f"max_{what}"):
                raise busy(what)
        self._hold(cost, 1)

    def release(self, cost: Cost) -> None:
        """Gives room back."""
        self._hold(cost, -1)

    def put(self, jobs: Sequence[Job[T]], *, ahead: bool = False) -> None:
        """Adds the jobs of one request, behind or `ahead` of all others."""
        if jobs:
            self._waiting[self._next] = deque(jobs)
            if ahead:
                self._waiting.move_to_end(self._next, last=False)
            self._next += 1

    def take(self) -> list[Job[T]]:
        """Returns the jobs of the next forward pass: at least one if any waits; who has gone or is late is dropped."""
        taken: list[Job[T]] = []
        longest = 0
        while self._waiting and len(taken) < self.bounds.max_batch_items:
            request, jobs = next(iter(self._waiting.items()))
            job = jobs[0]
            wanted = not job.vector.done() and not self._is_late(job)
            longest = max(longest, job.num_tokens)
            if wanted and taken and (len(taken) + 1) * longest > self.bounds.max_batch_tokens:
                break
            jobs.popleft()
            if wanted:
                taken.append(job)
            self._waiting.move_to_end(request)
            if not jobs:
                del self._waiting[request]
        return taken

    def clear(self) -> list[Job[T]]:
        """Returns all that wait, and none do any more."""
        left = [job for jobs in self._waiting.values() for job in jobs]
        self._waiting.clear()
        return left

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._waiting.values())

    def _is_late(self, job: Job[T]) -> bool:
        # Whoever waits for it sees the same clock and has its own timeout; here it only must not cost a pass.
        return time.monotonic() > job.deadline

    def _hold(self, cost: Cost, sign: int) -> None:
        held = self.held
        self.held = Cost(
            held.items + sign * cost.items, held.tokens + sign * cost.tokens, held.pixels + sign * cost.pixels
        )
