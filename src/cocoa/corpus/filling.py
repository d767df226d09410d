"""Fills a folder with the shards of its plan: each is read, embedded and committed by one process of any number."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cocoa.claims import Claims
from cocoa.corpus.documents import BadDocument, Document, Reading
from cocoa.corpus.embeddings import SHARDS
from cocoa.corpus.plan import LISTING, Plan, PlannedShard
from cocoa.corpus.shards import Shard
from cocoa.corpus.sources.parquet import ParquetReader
from cocoa.corpus.windows import Window, Windows
from cocoa.errors import DataError
from cocoa.failpoints import failpoint
from cocoa.files import MANIFEST

_PATIENCE = 0.2
"""Seconds between two looks at what others have done."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is: of `rows` rows `done` are embedded or bad, `kept` of them were when this process began.

    `bad` are the bad rows that this process has met; `seconds` is how long it has worked.
    """

    rows: int
    done: int
    kept: int
    bad: int
    seconds: float

    @property
    def rate(self) -> float:
        """Rows a second, of all processes."""
        return (self.done - self.kept) / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """The time that is left at this speed; None before anything is known."""
        return (self.rows - self.done) / self.rate if self.rate else None


class BadRowPolicy:
    """How many bad rows a job may have: a share of all its rows in [0, 1]; None: not one."""

    def __init__(self, max_rate: float | None, rows: int) -> None:
        self.max_rate = max_rate
        self._rows = rows
        self.count = 0

    def meet(self, bad: list[BadDocument]) -> None:
        """Raises the error of a bad row where none is allowed, `E_DATA_BAD_ROWS` when there are too many."""
        if not bad:
            return
        if self.max_rate is None:
            raise bad[0].error
        self.count += len(bad)
        if self.count / self._rows > self.max_rate:
            raise too_many_bad(self.count, self._rows, self.max_rate, str(bad[-1].error))


def too_many_bad(count: int, rows: int, max_rate: float, example: str) -> DataError:
    """Returns the error of a job with too many bad rows."""
    what = f"{count} of {rows} rows are bad, more than the {max_rate:.3%} that are allowed; for example {example}"
    return DataError("E_DATA_BAD_ROWS", what)


class Filling:
    """The part of one process in a job."""

    def __init__(
        self, plan: Plan, out: Path, windows: Windows, reader: ParquetReader, claims: Claims, policy: BadRowPolicy
    ) -> None:
        self.plan = plan
        self._out = out
        self._windows = windows
        self._claims = claims
        self._policy = policy
        self._sources = plan.input.sources(out / LISTING, reader, frozenset(plan.columns))
        finder = plan.input.finder()
        self._readings = [
            Reading(plan.named, plan.input.prefix(number), plan.columns, finder) for number in range(len(self._sources))
        ]

    def is_committed(self, shard: PlannedShard) -> bool:
        """Returns whether a shard is there, whoever made it."""
        return (self._out / SHARDS / shard.name / MANIFEST).is_file()

    def rows(self, shard: PlannedShard) -> Iterator[Document | BadDocument]:
        """Yields the rows of a shard, read and looked over but not decoded."""
        part, reading = shard.part, self._readings[shard.part.file]
        count = 0
        for raw in self._sources[part.file].read(part):
            yield reading.document(raw, shard.repeats.get(count))
            count += 1
        if count != part.rows:
            what = f"{count} rows are there where there were {part.rows} when this job was begun"
            raise DataError("E_SHARD_CHANGED", what, where=str(self.plan.input.files[part.file]))

    def fill(self, shards: Sequence[PlannedShard], on_progress: Callable[[Progress], None] = lambda _: None) -> None:
        """Returns when all these shards are committed, after doing what no other process does."""
        counter, made = _Counter(self._out / SHARDS, self.plan), Shard()
        with (
            closing(self._steps(shards)) as steps,
            ThreadPoolExecutor(1, thread_name_prefix="cocoa-read") as pool,
        ):
            for step in _ahead(steps, pool):
                if step is not None:
                    shard, window = step
                    if window is not None:
                        documents, vectors, bad = self._windows.embed(window)
                        made.add(documents, vectors, bad, window.cut_texts)
                        self._policy.meet(bad)
                        counter.embedded(len(documents) + len(bad))
                    else:
                        self._commit(shard, made)
                        made = Shard()
                        counter.committed(shard)
                on_progress(counter.now(self._policy.count))

    def _commit(self, shard: PlannedShard, made: Shard) -> None:
        failpoint("shard-embedded")
        # Tables look at themselves as they are read, which is before their pictures are.
        self.plan.input.check_archive(self._out / LISTING)
        made.commit(self._out, shard.name, self._windows.embedder.dimensions, self.plan.columns)
        failpoint("shard-committed")
        self._claims.release(shard.name)

    def _steps(self, shards: Sequence[PlannedShard]) -> Generator[tuple[PlannedShard, Window | None] | None]:
        """The windows of one claimed shard after the other, each shard's end (no window), and None for each wait."""
        waiting = deque(shards)
        while waiting:
            shard = self._claimed(waiting)
            if shard is None:
                if waiting:
                    time.sleep(_PATIENCE)
                    yield None
                continue
            failpoint("shard-claimed")
            for window in self._windows.decoded(self.rows(shard)):
                yield shard, window
            yield shard, None

    def _claimed(self, waiting: deque[PlannedShard]) -> PlannedShard | None:
        """The next shard that nobody has made or makes, claimed; None if others make all that is left."""
        for _ in range(len(waiting)):
            shard = waiting.popleft()
            if self.is_committed(shard):
                continue
            if not self._claims.take(shard.name):
                waiting.append(shard)
                continue
            # Whoever had it may have committed it since the last look.
            if self.is_committed(shard):
                self._claims.release(shard.name)
                continue
            for draft in (self._out / SHARDS).glob(f".{shard.name}.*"):
                shutil.rmtree(draft)
            return shard
        return None


T = TypeVar("T")


def _ahead(steps: Iterator[T], pool: ThreadPoolExecutor) -> Iterator[T]:
    """Yields the steps while the pool's thread already makes the next."""
    end = object()
    upcoming = pool.submit(next, steps, end)
    while (step := upcoming.result()) is not end:
        upcoming = pool.submit(next, steps, end)
        yield step  # type: ignore[misc]


class _Counter:
    """Counts the rows of committed shards, by whichever process, and those that this one works on."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._folder = folder
        self._total = plan.rows
        self._left = {shard.name: shard.part.rows for shard in plan.shards}
        self._done = 0
        self._working = 0
        self._start = time.perf_counter()
        self._look()
        self._kept = self._done

    def _look(self) -> None:
        self._looked = time.perf_counter()
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                self._done += self._left.pop(path.name, 0)

    def embedded(self, rows: int) -> None:
        self._working += rows

    def committed(self, shard: PlannedShard) -> None:
        self._working = 0
        self._done += self._left.pop(shard.name, 0)

    def now(self, bad: int) -> Progress:
        if time.perf_counter() - self._looked > 1:
            self._look()
        seconds = time.perf_counter() - self._start
        return Progress(self._total, self._done + self._working, self._kept, bad, seconds)
