"""One evaluation from folders to files, by one process or several that share the work."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cocoa.crew import crew, leave_with_parent, take_device
from cocoa.data.held_out import HeldOut, chosen_tasks
from cocoa.data.mmeb_folders import find_data, hub_revision
from cocoa.errors import CocoaError, UsageError
from cocoa.evaluation.exports import EXPORTS, write_exports
from cocoa.evaluation.runner import Evaluation, evaluate
from cocoa.evaluation.vectors import SHARD_SIZE, Progress, embed_tasks
from cocoa.files import write_file
from cocoa.model import EmbeddingModel, fingerprint, local_folder
from cocoa.report.evaluation_page import evaluation_page
from cocoa.sample import Task


@dataclass(frozen=True)
class Job:
    """What is evaluated: a model folder, on the tasks of a folder (all of them, or `only` some), or on what is held out
    of its training tables."""

    model: Path
    tasks: Path
    only: tuple[str, ...] | None
    held_out: HeldOut | None
    cache: Path | None
    workers: int
    shard_size: int

    def read(self) -> list[Task]:
        """Returns the tasks."""
        return chosen_tasks(self.tasks, self.only, self.held_out)


def run_job(
    model: str | Path,
    tasks: str | Path,
    out: Path | None = None,
    *,
    only: Sequence[str] | None = None,
    held_out: HeldOut | None = None,
    cache: Path | None = None,
    processes: int = 1,
    workers: int = 4,
    shard_size: int = SHARD_SIZE,
    on_pictures: Callable[[int, int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Evaluation | None:
    """Returns the evaluation of a model folder, after writing it to `out`; None in a rank that only helped.

    In `out`: `results.json`, `receipt.json`, `report.html`, the exports, and `cache/`, from which a run that was killed
    goes on. Under `torchrun` every rank takes part, and the first writes.

    Args:
        model: model folder, or `OWNER/NAME` on the hub.
        tasks: a folder, a hub id, or the short name of one.
        out: where results go; None: nowhere.
        only: names of the tasks to score; a part of the tasks has no mean.
        held_out: score what is held out of the folder's training tables instead, see `held_out_tasks`.
        cache: where vectors are kept, for other runs too; default is in `out`.
        processes: how many share the work, this one included.
        workers: threads of each process that read and decode pictures.
        shard_size: the most samples whose vectors are written together.
        on_pictures: told how many picture files of how many have been looked at.
        on_progress: told how far the embedding is.

    Raises:
        UsageError: E_USAGE_WORKERS for several processes without a folder that they share.
        CocoaError: for tasks, pictures or a model that cannot be used.
    """
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if processes < 1 or workers < 1 or (processes > 1 and ranks > 1):
        raise UsageError("E_USAGE_WORKERS", "workers are 1 or more, and 1 under torchrun, whose ranks are the workers")
    cache = cache or (out / "cache" if out is not None else None)
    if cache is None and max(processes, ranks) > 1:
        raise UsageError("E_USAGE_WORKERS", "several processes share their work in a folder: give --out or --cache")
    data, names = find_data(tasks), tuple(only) if only is not None else None
    # Before any process is started: what is wrong with the tasks is said once.
    found = chosen_tasks(data, names, held_out)
    folder = local_folder(model)
    job = Job(folder, data, names, held_out, cache, workers, shard_size)
    if ranks > 1:
        take_device(int(os.environ.get("LOCAL_RANK", rank)))
    with crew(_help, job, processes=processes):
        opened = EmbeddingModel.load(folder)
        if rank > 0:
            assert cache is not None
            embed_tasks(opened, found, cache, fingerprint=fingerprint(folder), workers=workers, shard_size=shard_size)
            return None
        result = evaluate(
            opened,
            found,
            name=str(model),
            complete=only is None,
            cache=cache,
            fingerprint=fingerprint(folder),
            workers=workers,
            shard_size=shard_size,
            examples=out is not None,
            revision=hub_revision(data),
            on_pictures=on_pictures,
            on_progress=on_progress,
        )
    if out is not None:
        page = evaluation_page(result.to_dict(), result.examples)
        # Files of two evaluations never stand together, whenever this is killed: those of the one before go first, and
        # who finds `results.json` finds all that belongs to it.
        for name in ("results.json", "receipt.json", "report.html", *EXPORTS):
            (out / name).unlink(missing_ok=True)
        write_exports(result, opened, out)
        write_file(out / "report.html", page)
        result.write(out)
    return result


def _help(job: Job) -> None:
    """Takes part in a job until nothing is left to do, or until the process that started it is gone."""
    assert job.cache is not None
    try:
        embed_tasks(
            EmbeddingModel.load(job.model),
            job.read(),
            job.cache,
            fingerprint=fingerprint(job.model),
            workers=job.workers,
            shard_size=job.shard_size,
            on_progress=lambda _: leave_with_parent(),
        )
    except CocoaError:
        # The first process takes over what is left, meets the same and says it.
        sys.exit(1)
