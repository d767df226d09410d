"""Forward passes over many rows: prepared ahead, on a CPU side by side, never more than a few in memory.

Shapes: M rows, D hidden.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock, Thread
from typing import TypeVar

import torch
from torch import Tensor

from cocoa.chunks import CPU_CHUNK_TOKENS, Chunk

CPU_VALUES = 131_072
"""Values of the states [N, S, D] of a pass on a CPU: more are no faster, and take more memory (docs/performance.md)."""
_FEWEST_TOKENS = 256
_MOST_ABREAST = 4
_MOST_READERS = 16
_SHARING = Lock()
"""Held while the number of threads that a new thread begins with is not what it should be."""

Ready = TypeVar("Ready")
Prepare = Callable[[Chunk], Ready]
Embed = Callable[[Ready], Tensor]


def pass_tokens(device: torch.device, hidden_size: int, at_most: int) -> int:
    """Returns the padded tokens of a pass on a device."""
    if device.type != "cpu":
        return at_most
    return min(at_most, max(_FEWEST_TOKENS, min(CPU_CHUNK_TOKENS, CPU_VALUES // hidden_size)))


def num_readers(device: torch.device) -> int:
    """Returns how many threads read the pictures of a pass: all cores for a GPU, one where the cores compute passes."""
    return 1 if device.type == "cpu" else min(_MOST_READERS, os.cpu_count() or 1)


def run_passes(
    chunks: Sequence[Chunk], prepare: Prepare[Ready], embed: Embed[Ready], device: torch.device
) -> Iterator[Tensor]:
    """Yields [M, D] for each chunk, in their order, without gradients; one thread prepares them ahead of the passes.

    Where a CPU computes with several threads, as many passes run side by side, each with its share of the threads: in
    one pass alone they would wait for one another at each step.
    """
    if len(chunks) == 1:
        with torch.inference_mode():
            only = embed(prepare(chunks[0]))
        yield only
        return
    with _SHARING:
        threads = torch.get_num_threads()
    abreast = min(threads, _MOST_ABREAST, len(chunks)) if device.type == "cpu" else 1
    # With two that prepare, passes wait for the interpreter more than for what is prepared.
    with ThreadPoolExecutor(1, thread_name_prefix="cocoa-prepare") as preparing:
        if abreast < 2:
            yield from _one_by_one(chunks, preparing, prepare, embed)
            return
        with ThreadPoolExecutor(abreast, "cocoa-pass", _take_share, (threads // abreast,)) as computing:
            yield from _side_by_side(chunks, preparing, computing, abreast, prepare, embed)


def _take_share(share: int) -> None:
    """Lets this thread, a new one, compute with so many threads, and leaves all others what they have."""
    with _SHARING:
        threads = torch.get_num_threads()
        torch.set_num_threads(share)
        # What a thread sets for itself is what all threads begin with that come after it. A thread that is set already
        # keeps what it has, so it is another that sets back what new ones begin with.
        restoring = Thread(target=torch.set_num_threads, args=(threads,))
        restoring.start()
        restoring.join()


def _one_by_one(
    chunks: Sequence[Chunk], preparing: ThreadPoolExecutor, prepare: Prepare[Ready], embed: Embed[Ready]
) -> Iterator[Tensor]:
    upcoming = deque(preparing.submit(prepare, chunk) for chunk in chunks[:1])
    for number in range(len(chunks)):
        ready = upcoming.popleft().result()
        upcoming.extend(preparing.submit(prepare, chunk) for chunk in chunks[number + 1 : number + 2])
        with torch.inference_mode():
            vectors = embed(ready)
        yield vectors


def _side_by_side(
    chunks: Sequence[Chunk],
    preparing: ThreadPoolExecutor,
    computing: ThreadPoolExecutor,
    abreast: int,
    prepare: Prepare[Ready],
    embed: Embed[Ready],
) -> Iterator[Tensor]:
    @torch.inference_mode()
    def work(ready: Future[Ready]) -> Tensor:
        return embed(ready.result())

    upcoming: deque[Future[Tensor]] = deque()
    try:
        for chunk in chunks:
            upcoming.append(computing.submit(work, preparing.submit(prepare, chunk)))
            if len(upcoming) > abreast:
                yield upcoming.popleft().result()
        while upcoming:
            yield upcoming.popleft().result()
    finally:
        for future in upcoming:
            future.cancel()
