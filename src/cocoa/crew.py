"""Processes of one machine that help the one that was started, and go when it goes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def crew(help_out: Callable[..., None], *arguments: Any, processes: int) -> Iterator[None]:
    """Runs `help_out(*arguments)` in `processes` - 1 other processes while the block lasts.

    When the block ends well they may finish by themselves; else they are ended. Threads are shared out evenly.
    """
    if processes == 1:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(_share(processes))
    context = multiprocessing.get_context("forkserver")
    # One server imports torch once and has computed nothing when the helpers are forked from it.
    context.set_forkserver_preload([help_out.__module__])
    started = [
        context.Process(target=_join, args=(help_out, arguments, number, processes)) for number in range(1, processes)
    ]
    for process in started:
        process.daemon = True
        process.start()
    try:
        yield
        for process in started:
            process.join(5)  # All is done, so they are about to see it.
    finally:
        torch.set_num_threads(threads)
        for process in started:
            process.terminate()
            process.join()


def leave_with_parent() -> None:
    """Ends this process if the one that started it is gone; for helpers to call now and then."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        sys.exit(1)


def take_device(number: int) -> None:
    """Makes one of the GPUs, if there are any, that of this process."""
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def _join(help_out: Callable[..., None], arguments: tuple[Any, ...], number: int, processes: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(_share(processes))
    take_device(number)
    help_out(*arguments)


def _share(processes: int) -> int:
    return max(1, (os.cpu_count() or 1) // processes)
