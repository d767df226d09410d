"""The same shards on Ray Data: each is a row, actors embed and commit it as a process of this machine would."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cocoa.corpus.filling import Progress
from cocoa.corpus.plan import Plan
from cocoa.corpus.work import Work, take_part
from cocoa.embedder import Embedder
from cocoa.errors import CocoaError, UsageError

_log = logging.getLogger(__name__)
_CPUS = 0.5
"""What an actor asks of a node beside its threads; Ray's own readers need the rest."""


class ShardMaker:
    """An actor: a model that is loaded once, and shards made with it."""

    def __init__(self, work: Work) -> None:
        torch.set_num_threads(1)
        self._work = work
        self._embedder = Embedder.load(work.model)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Returns the numbers of the shards that it was given, and why they are not committed now ('': they are)."""
        why = ""
        try:
            take_part(self._work, self._embedder, batch["shard"].tolist())
        except CocoaError as error:
            why = str(error)
        return {"shard": batch["shard"], "why": np.array([why] * len(batch["shard"]))}


def fill_with_ray(plan: Plan, work: Work, workers: int, on_progress: Callable[[Progress], None]) -> None:
    """Returns when `workers` actors of the cluster, or of one started here, have committed the shards of a plan.

    An actor that dies is started again, and its shard with it. Returns early where a shard cannot be made: who makes it
    next says why. Raises `E_USAGE_EXTRA` without Ray.
    """
    try:
        import ray
    except ImportError as error:
        what = "--engine ray needs Ray: pip install 'cocoa-embeddings[ray]'"
        raise UsageError("E_USAGE_EXTRA", what) from error
    with _cluster(ray, workers):
        numbers = ray.data.from_items([{"shard": number} for number in range(len(plan.shards))])
        # A block a shard, so that an actor that dies takes one shard with it and no more.
        made = numbers.repartition(len(plan.shards)).map_batches(
            ShardMaker,
            fn_constructor_args=(work,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=_CPUS,
        )
        start, done = time.perf_counter(), 0
        for batch in made.iter_batches(batch_size=1):
            if why := max(batch["why"].tolist()):
                # This process meets the same and says it, unless only the cluster's nodes have it.
                _log.warning("Ray's actors cannot go on, this process does: %s", why)
                break
            done += sum(plan.shards[number].part.rows for number in batch["shard"].tolist())
            on_progress(Progress(plan.rows, done, 0, 0, time.perf_counter() - start))


@contextmanager
def _cluster(ray: Any, workers: int) -> Iterator[None]:
    """Uses the cluster that this process is connected to or that RAY_ADDRESS names, else one of its own."""
    if ray.is_initialized():
        yield
        return
    # A short path: sockets lie in it, and their names may have a hundred letters.
    with tempfile.TemporaryDirectory(prefix="cr-", ignore_cleanup_errors=True) as folder:
        own = {"num_cpus": max(2, workers), "include_dashboard": False, "_temp_dir": folder}
        ray.init(log_to_driver=False, **({} if os.environ.get("RAY_ADDRESS") else own))
        try:
            yield
        finally:
            ray.shutdown()
