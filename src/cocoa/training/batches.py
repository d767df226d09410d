"""This rank's pairs of each step, encoded ahead of the step that trains on them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cocoa.backbones import Backbone, Encoded
from cocoa.chunks import Chunk, packed_chunks, padded_chunks
from cocoa.data.bad_rows import BadRow
from cocoa.data.mixing import Mixture
from cocoa.errors import CocoaError
from cocoa.recipe import MachineOptions
from cocoa.sample import Pair, Sample
from cocoa.training.ranks import Ranks

STEPS_AHEAD = 2
"""Steps that are read while one trains: enough to hide a slow row, few enough to hold in memory.

A training run holds one more beside the one that trains, with its batches made already (see `training.ahead`)."""


@dataclass(frozen=True)
class EncodedPairs:
    """The pairs of one step: queries, then targets, then all hard negatives.

    `content` [targets + negatives] int64 is equal for candidates of equal content; `numbers` are the pairs' positions
    in the stage's order; `bad` are the rows that could not be read and are left out; `num_cut` texts will be cut to
    fit; `seconds` is how long the step waited.
    """

    queries: list[Encoded]
    targets: list[Encoded]
    negatives: list[Encoded]
    content: Tensor
    numbers: list[int]
    bad: list[BadRow] = field(default_factory=list)
    num_cut: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class EncodedPair:
    """One pair as the backbone reads it, with the content keys of its target and negatives."""

    query: Encoded
    target: Encoded
    negatives: tuple[Encoded, ...]
    keys: tuple[int, ...]


Fit = Callable[[EncodedPair], int]
"""Returns how many texts of a pair must be cut to fit its rows; raises `E_DATA_TOO_LONG` where pictures do not fit."""


def encode_pair(backbone: Backbone, pair: Pair) -> EncodedPair:
    """Returns a pair as the backbone reads it. Raises `CocoaError` naming its row."""
    target, *negatives = (backbone.encode(sample) for sample in (pair.target, *pair.negatives))
    return EncodedPair(
        backbone.encode(pair.query),
        target,
        tuple(negatives),
        tuple(content_key(sample) for sample in (target, *negatives)),
    )


def content_key(sample: Encoded) -> int:
    """Returns a number that is equal for samples that look the same to the model, wherever they come from."""
    # 63 bits: a tensor has no room for more, and a clash would only lose one negative.
    return int(sample.content_key[:16], 16) >> 1


def join(pairs: list[EncodedPair], numbers: list[int]) -> EncodedPairs:
    """Returns encoded pairs as one step's."""
    keys = [*(pair.keys[0] for pair in pairs), *(key for pair in pairs for key in pair.keys[1:])]
    return EncodedPairs(
        [pair.query for pair in pairs],
        [pair.target for pair in pairs],
        [negative for pair in pairs for negative in pair.negatives],
        torch.tensor(keys, dtype=torch.int64),
        numbers,
    )


def encode_pairs(backbone: Backbone, pairs: list[Pair]) -> EncodedPairs:
    """Returns pairs, numbered from 0, as one step's."""
    return join([encode_pair(backbone, pair) for pair in pairs], list(range(len(pairs))))


def idle_pairs(backbone: Backbone) -> EncodedPairs:
    """Returns a pair that nobody learns from: what a rank without pairs computes while others need it to take part."""
    return encode_pairs(backbone, [Pair(Sample("-"), Sample("-"))])


def cut(lengths: Sequence[int], machine: MachineOptions, device: torch.device | None = None) -> list[Chunk]:
    """Returns the forward passes for rows of these lengths, padded or packed, as the recipe's `machine` says.

    `device` is where they will be computed; None: on a CPU.
    """
    kind = "cpu" if device is None else device.type
    if machine.pack_tokens is None:
        return padded_chunks(lengths, machine.chunk_tokens, kind)
    return packed_chunks(lengths, machine.chunk_tokens, line_tokens=machine.pack_tokens, device=kind)


def prefetched(
    backbone: Backbone,
    mixture: Mixture,
    ranks: Ranks,
    *,
    steps: range,
    batch_size: int,
    workers: int,
    fit: Fit,
    skip_bad: bool,
) -> Generator[EncodedPairs, None, None]:
    """Yields this rank's pairs of each step; `workers` threads read ahead, pair by pair (0: nothing is read ahead).

    Which pairs a step has is a pure function of the mixture and the step, whatever the ranks and workers. A row that
    cannot be read is left out and listed in `bad` if `skip_bad`, and else raised at its step. When this ends or is
    closed, pairs that no thread has begun to read are left.
    """

    def read(number: int) -> tuple[EncodedPair, int] | CocoaError:
        try:
            pair = encode_pair(backbone, mixture.pair(number))
            return pair, fit(pair)
        except CocoaError as error:
            return error

    share = ranks.share(batch_size)
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="cocoa-data") as pool:
        upcoming: deque[tuple[list[int], list[Future[tuple[EncodedPair, int] | CocoaError]]]] = deque()

        def begin(step: int) -> None:
            numbers = [step * batch_size + place for place in share]
            upcoming.append((numbers, [pool.submit(read, number) for number in numbers] if workers else []))

        try:
            for step in steps:
                while len(upcoming) < (STEPS_AHEAD + 1 if workers else 1) and step + len(upcoming) < steps.stop:
                    begin(step + len(upcoming))
                began = time.perf_counter()
                numbers, futures = upcoming.popleft()
                found = [future.result() for future in futures] if workers else [read(number) for number in numbers]
                waited = time.perf_counter() - began
                yield _sorted_out(numbers, found, skip_bad, waited)
        finally:
            # Else whoever ends a run waits for all that was to be read ahead.
            pool.shutdown(cancel_futures=True)


def _sorted_out(
    numbers: list[int], found: list[tuple[EncodedPair, int] | CocoaError], skip_bad: bool, seconds: float
) -> EncodedPairs:
    good, kept, bad, num_cut = [], [], [], 0
    for number, one in zip(numbers, found, strict=True):
        if isinstance(one, tuple):
            good.append(one[0])
            num_cut += one[1]
            kept.append(number)
        elif skip_bad:
            bad.append(BadRow.of(one, one.where))
        else:
            raise one
    return replace(join(good, kept), bad=bad, num_cut=num_cut, seconds=seconds)
