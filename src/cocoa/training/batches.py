"""Pairs, encoded, a step ahead of the one that trains."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from cocoa.backbones import Backbone, Encoded
from cocoa.data.mixing import Mixture
from cocoa.sample import Pair


@dataclass(frozen=True)
class EncodedPairs:
    """The pairs of one step: queries, then targets, then all hard negatives; `content` [targets + negatives] int64 is
    equal for candidates of equal content; `seconds` is how long the step waited for them."""

    queries: list[Encoded]
    targets: list[Encoded]
    negatives: list[Encoded]
    content: Tensor
    seconds: float = 0.0


def encode_pairs(backbone: Backbone, pairs: list[Pair]) -> EncodedPairs:
    """Returns the pairs as the backbone reads them."""
    negatives = [negative for pair in pairs for negative in pair.negatives]
    keys = [sample.key for sample in [*(pair.target for pair in pairs), *negatives]]
    # 63 bits of the digest: a tensor has no room for more, and a clash would only lose one negative.
    content = torch.tensor([int(key[:16], 16) >> 1 for key in keys])
    return EncodedPairs(
        [backbone.encode(pair.query) for pair in pairs],
        [backbone.encode(pair.target) for pair in pairs],
        [backbone.encode(negative) for negative in negatives],
        content,
    )


def prefetched(backbone: Backbone, mixture: Mixture, *, steps: int, batch_size: int) -> Iterator[EncodedPairs]:
    """Yields the batches of steps 0 to `steps` - 1; one thread decodes the next while this one trains.

    An error in a row is raised here, at its step.
    """

    def make(step: int) -> EncodedPairs:
        return encode_pairs(backbone, mixture.batch(step, batch_size))

    with ThreadPoolExecutor(1, thread_name_prefix="cocoa-data") as pool:
        upcoming = pool.submit(make, 0)
        for step in range(steps):
            began = time.perf_counter()
            ready = upcoming.result()
            waited = time.perf_counter() - began
            if step + 1 < steps:
                upcoming = pool.submit(make, step + 1)
            yield EncodedPairs(ready.queries, ready.targets, ready.negatives, ready.content, waited)
