"""An embedding job: any number of processes fill a folder from an input, and go on from wherever others stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from cocoa.claims import Claims
from cocoa.corpus.embeddings import BAD_ROWS, CARD, PLAN, SHARDS, Embeddings, ShardEntry, write_card
from cocoa.corpus.filling import Progress, too_many_bad
from cocoa.corpus.inputs import Input
from cocoa.corpus.plan import LISTING, Plan, plan_job
from cocoa.corpus.ray_engine import fill_with_ray
from cocoa.corpus.shards import read_entry
from cocoa.corpus.work import Work, fill_shards, take_part
from cocoa.crew import crew
from cocoa.embedder import Embedder
from cocoa.errors import CocoaError, DataError, UsageError
from cocoa.files import check_name, sweep, write_file

SHARD_ROWS = 1024
_WRITTEN = (LISTING, PLAN, BAD_ROWS, CARD)
Engine = Literal["local", "ray"]


def embed_corpus(
    model: str | Path | Embedder,
    source: str | Path,
    out: Path,
    *,
    engine: Engine = "local",
    workers: int = 1,
    threads: int = 2,
    shard_rows: int = SHARD_ROWS,
    max_bad_rate: float | None = 1.0,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Embeddings:
    """Returns the embeddings of an input, after writing them to a folder; what is there of this job already is kept.

    Processes that are given the same input, model and folder share the work, and so does a run with one that was
    killed before: each shard is there whole or not at all, and which are missing is all that a run needs to know.

    Args:
        model: model folder, `OWNER/NAME` on the hub, or an embedder.
        source: a .jsonl, .parquet or .tar file, a folder of such, or a folder of pictures.
        out: folder of the embeddings.
        engine: "local" or "ray": who runs the processes.
        workers: how many processes share the work, this one included (with Ray: how many actors).
        threads: threads of each process that read and decode.
        shard_rows: rows of a shard; the same each time.
        max_bad_rate: the share of bad rows that is allowed, in [0, 1]; None: the first is an error.
        on_progress: told how far the job is.

    Raises:
        UsageError: E_USAGE_* for impossible settings, and E_USAGE_OUT for a folder of another job or of something else.
        ModelError: E_MODEL_OTHER for a folder of another model, E_MODEL_* for a model that cannot be used.
        DataError: E_SHARD_CHANGED for an input that has changed, E_DATA_BAD_ROWS for too many bad rows, E_DATA_EMPTY if
            no row is good, E_DATA_WRITE where the folder cannot be written, E_DATA_* for an input that cannot be read.
    """
    if workers < 1 or threads < 1 or shard_rows < 1:
        raise UsageError("E_USAGE_WORKERS", "workers, threads and shard rows are 1 or more")
    if max_bad_rate is not None and not 0 <= max_bad_rate <= 1:
        raise UsageError("E_USAGE_BAD_RATE", f"a rate of bad rows is from 0 to 1, not {max_bad_rate}")
    check_name(out)
    if out.exists() and not out.is_dir():
        raise UsageError("E_USAGE_OUT", "is a file, not a folder", where=str(out))
    found = Input.find(source)
    embedder = model if isinstance(model, Embedder) else Embedder.load(model)
    # An actor of a cluster stands in a folder of its own.
    work = Work(embedder.address, out.absolute(), threads, max_bad_rate)
    with _writing(out), ExitStack() as stack:
        claims = stack.enter_context(Claims(out))
        with _alone(claims):
            plan = plan_job(embedder, found, out, shard_rows)
        if not (out / CARD).is_file():
            if engine == "ray":
                fill_with_ray(plan, work, workers, on_progress)
            with crew(_help, work, processes=workers if engine == "local" else 1):
                fill_shards(embedder, plan, work, claims, on_progress)
        with _alone(claims):
            # Not before the plan says that the folder is of this job, and nothing but what jobs write.
            sweep(out, _WRITTEN)
            _finish(plan, work, embedder.dimensions)
    return Embeddings.open(out)


def _help(work: Work) -> None:
    try:
        take_part(work, Embedder.load(work.model))
    except (CocoaError, OSError):
        # The first process takes over what is left, meets the same and says it.
        sys.exit(1)


@contextmanager
def _alone(claims: Claims) -> Iterator[None]:
    """Lets one process at a time write the files that are the job's and no shard's."""
    claims.take(PLAN, wait=True)
    try:
        yield
    finally:
        claims.release(PLAN)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Says in words that a folder cannot be written to: full, read-only, over a quota."""
    try:
        yield
    except OSError as error:
        if isinstance(error, CocoaError):
            raise
        what = f"cannot be written or read: {error.strerror or error}; run the same command again to go on"
        raise DataError("E_DATA_WRITE", what, where=str(error.filename or out)) from error


def _finish(plan: Plan, work: Work, dimensions: int) -> None:
    """Writes what binds the shards, unless it is there. Raises where the bad rows are too many."""
    entries = [read_entry(work.out, shard.name) for shard in plan.shards]
    for shard, entry in zip(plan.shards, entries, strict=True):
        if entry.rows + entry.bad_rows != shard.part.rows:
            what = f"the shard has {entry.rows} good and {entry.bad_rows} bad rows of {shard.part.rows}"
            raise DataError("E_DATA_INCOMPLETE", what, where=str(work.out / SHARDS / shard.name))
    bad = sum(entry.bad_rows for entry in entries)
    if bad:
        _judge(plan, work, entries, bad)
    if (work.out / CARD).is_file():
        return
    write_file(work.out / BAD_ROWS, _bad_rows(work.out, entries))
    write_card(
        work.out,
        identity=plan.identity,
        model=plan.model,
        dimensions=dimensions,
        columns=plan.columns,
        source={"path": str(plan.input.path), "kind": plan.input.kind, "rows": plan.rows, "notes": list(plan.notes)},
        shards=entries,
    )


def _judge(plan: Plan, work: Work, entries: list[ShardEntry], bad: int) -> None:
    first = json.loads(next(iter(_bad_rows(work.out, entries))))
    example = f"{first['where']}: {first['message']} [{first['code']}]"
    if bad == plan.rows:
        raise DataError("E_DATA_EMPTY", f"no row can be embedded; the first problem: {example}", where=str(work.out))
    if work.max_bad_rate is None:
        raise DataError(first["code"], first["message"], where=first["where"])
    if bad / plan.rows > work.max_bad_rate:
        raise too_many_bad(bad, plan.rows, work.max_bad_rate, example)


def _bad_rows(out: Path, entries: list[ShardEntry]) -> Iterator[bytes]:
    for entry in entries:
        if entry.bad_rows:
            with (out / SHARDS / entry.name / BAD_ROWS).open("rb") as stream:
                yield from stream
