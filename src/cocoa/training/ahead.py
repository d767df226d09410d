"""Each step's passes, prepared while the step before runs: a GPU need not wait for the CPU's part of a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

from cocoa.training.batches import EncodedPairs
from cocoa.training.passes import Passes

Steps = Generator[tuple[EncodedPairs, Passes], None, None]


def prepared(
    batches: Generator[EncodedPairs, None, None], prepare: Callable[[EncodedPairs], Passes], *, ahead: bool
) -> Steps:
    """Yields the pairs of each step with what `prepare` makes of them; closes `batches` when it ends or is closed.

    With `ahead` one thread reads and prepares the next step while the caller uses the present one, so that two steps'
    passes are held, and `seconds` is how long the caller waited for both. An error of reading or preparing a step is
    raised where that step is asked for. No thread is left when this ends or is closed.
    """
    with closing(batches):
        if not ahead:
            for pairs in batches:
                yield pairs, prepare(pairs)
            return

        def make() -> tuple[EncodedPairs, Passes] | None:
            pairs = next(batches, None)
            return None if pairs is None else (pairs, prepare(pairs))

        with ThreadPoolExecutor(1, thread_name_prefix="cocoa-passes") as thread:
            upcoming = thread.submit(make)
            while True:
                began = time.perf_counter()
                ready = upcoming.result()
                if ready is None:
                    return
                waited = time.perf_counter() - began
                upcoming = thread.submit(make)
                yield replace(ready[0], seconds=waited), ready[1]
