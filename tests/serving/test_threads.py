"""Threads that take work in turn: what goes ahead, what is cancelled, what becomes of it when they stop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from cocoa.serving.threads import Threads


@pytest.fixture
def busy() -> Iterator[tuple[Threads, threading.Event]]:
    """One thread that does nothing else until it is let go."""
    threads, go, begun = Threads(1, "test"), threading.Event(), threading.Event()
    threads.submit(lambda: (begun.set(), go.wait(60)))
    assert begun.wait(60)
    yield threads, go
    go.set()
    threads.finish()


def test_work_is_done_in_turn_and_what_goes_ahead_before_all_that_waits(busy) -> None:
    threads, go = busy
    done: list[int] = []
    waiting = [threads.submit(lambda n=n: done.append(n)) for n in range(3)]
    waiting.append(threads.submit(lambda: done.append(7), ahead=True))
    go.set()
    for future in waiting:
        future.result(60)
    assert done == [7, 0, 1, 2]


def test_what_is_cancelled_is_not_begun_and_an_error_is_told_to_who_waits(busy) -> None:
    threads, go = busy
    done: list[int] = []
    cancelled, failing = threads.submit(lambda: done.append(0)), threads.submit(lambda: 1 // 0)
    last = threads.submit(lambda: 3)
    assert cancelled.cancel()
    go.set()
    assert isinstance(failing.exception(60), ZeroDivisionError)
    assert last.result(60) == 3
    assert done == []


def test_when_they_stop_what_waits_is_cancelled_and_no_more_is_taken(busy) -> None:
    threads, _ = busy
    waiting = threads.submit(lambda: 3)
    threads.stop()
    with pytest.raises(CancelledError):
        waiting.result(60)
    with pytest.raises(RuntimeError):
        threads.submit(lambda: 3)
