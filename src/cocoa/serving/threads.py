"""Threads that take work in turn, and before all that waits what must not."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """So many threads. Work that is cancelled before it has begun is left out."""

    def __init__(self, number: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(number, thread_name_prefix=name)
        self._waiting: deque[tuple[Callable[[], Any], Future[Any]]] = deque()

    def submit(self, work: Callable[[], T], *, ahead: bool = False) -> Future[T]:
        """Returns what `work` returns, once it has; `ahead` of all that waits if need be."""
        future: Future[T] = Future()
        (self._waiting.appendleft if ahead else self._waiting.append)((work, future))
        # A turn, not this work: whoever has it takes what stands first by then.
        self._threads.submit(self._turn)
        return future

    async def run(self, work: Callable[[], T], *, ahead: bool = False) -> T:
        """Returns what `work` returns, as `submit` does it; the event loop goes on meanwhile."""
        return await asyncio.wrap_future(self.submit(work, ahead=ahead))

    def finish(self) -> None:
        """Returns when all work is done; takes no more."""
        self._threads.shutdown()

    def stop(self) -> None:
        """Takes no more work and cancels what waits; does not wait for what has begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        while self._waiting:
            _, future = self._waiting.popleft()
            future.cancel()

    def _turn(self) -> None:
        try:
            work, future = self._waiting.popleft()
        except IndexError:  # Stopped just now.
            return
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as error:  # It is told to whoever waits, whatever it is.
            future.set_exception(error)
        finally:
            del work, future  # An error holds its frames, and they what stands in them.
