"""The rows of a source, read as training reads them, every picture opened; what cannot be used is kept with its row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from cocoa.checking.pictures import Gallery, Look
from cocoa.checking.texts import plain
from cocoa.data.bad_rows import BadRow, BadRows
from cocoa.data.mmeb_folders import FolderError
from cocoa.data.sources import Grouped, Pairs, Source
from cocoa.errors import CocoaError
from cocoa.sample import Pair, Sample

Progress = Callable[[str, int, int], None]
"""Is told what is being done, and how much of how much."""

_WINDOW = 2048

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen:
    """A sample as it is compared: its plain text, and its pictures."""

    text: str
    looks: tuple[Look, ...] = ()

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for samples of equal content."""
        return (self.text, *(look.pixels.hex() for look in self.looks))

    @property
    def pixels(self) -> tuple[bytes, ...]:
        """Equal for samples of equal pictures; empty without any."""
        return tuple(look.pixels for look in self.looks)


@dataclass(frozen=True, slots=True)
class SeenPair:
    """A pair as it is compared; `number` is its place in its source."""

    number: int
    where: str
    query: Seen
    target: Seen
    negatives: tuple[Seen, ...]

    @property
    def parts(self) -> Iterator[tuple[str, int, Seen]]:
        """Its samples, each with the name and the number of its part."""
        yield "query", 0, self.query
        yield "target", 0, self.target
        for number, negative in enumerate(self.negatives):
            yield "negative", number, negative


@dataclass(frozen=True)
class ReadSource:
    """A source as it was found: `rows` are those looked at, `bad` those of them that cannot be used.

    `refused` are rows that no pair could be made of, `broken` says why there is nothing at all. `tables` are its tables
    in their order with their pairs. Of the pairs `num_read` were looked at. Of `bad`, `bad_targets` have a picture as
    their target.
    """

    source: Source
    pairs: Pairs
    tables: tuple[tuple[str, int], ...]
    rows: tuple[SeenPair, ...]
    bad: tuple[BadRow, ...]
    refused: tuple[BadRow, ...] = ()
    broken: tuple[BadRow, ...] = ()
    num_read: int = 0
    bad_targets: tuple[BadRow, ...] = ()

    def text_targets(self) -> ReadSource:
        """Returns the source as a stage sees it that rebuilds words of targets: rows with a picture there are no part
        of it, and whether their pictures open does not matter."""
        rows = tuple(row for row in self.rows if not row.target.looks)
        return replace(self, rows=rows, bad=tuple(row for row in self.bad if row not in self.bad_targets))


def read_source(
    source: Source, name: str, gallery: Gallery, *, sample: int | None, workers: int, on_progress: Progress
) -> ReadSource:
    """Returns a source with all of its rows looked at, or `sample` of them spread evenly."""
    refused = BadRows(1.0)
    try:
        pairs = source.build(refused.note)
    except CocoaError as error:
        problems = error.problems if isinstance(error, FolderError) else (error,)
        broken = tuple(BadRow.of(each, each.where or name) for each in problems)
        return ReadSource(source, (), (), (), (), tuple(refused.rows), broken)
    size = len(pairs)
    wanted = size if sample is None else min(sample, size)
    numbers = [place * size // wanted for place in range(wanted)]

    def look_at(number: int) -> SeenPair | tuple[BadRow, bool]:
        pair = None
        try:
            pair = pairs[number]
            return see_pair(pair, number, gallery)
        except CocoaError as error:
            row = BadRow.of(error, error.where or (pair.query.where if pair else name))
            return row, pair is not None and bool(pair.target.images)

    found = list(in_threads(look_at, numbers, workers, lambda done: on_progress(f"reading {name}", done, wanted)))
    rows = tuple(each for each in found if isinstance(each, SeenPair))
    bad = [each for each in found if not isinstance(each, SeenPair)]
    return ReadSource(
        source,
        pairs,
        _tables(pairs, name),
        rows,
        tuple(row for row, _ in bad),
        tuple(refused.rows),
        num_read=wanted,
        bad_targets=tuple(row for row, is_picture in bad if is_picture),
    )


def see_pair(pair: Pair, number: int, gallery: Gallery) -> SeenPair:
    """Returns a pair as it is compared. Raises CocoaError for a picture that does not open."""
    query, target, *negatives = (see(sample, gallery) for sample in (pair.query, pair.target, *pair.negatives))
    return SeenPair(number, pair.query.where, query, target, tuple(negatives))


def see(sample: Sample, gallery: Gallery) -> Seen:
    """Returns a sample as it is compared. Raises ImageError for a picture that does not open."""
    return Seen(plain(sample.text), tuple(gallery.look(picture, sample.where) for picture in sample.images))


def in_threads(
    work: Callable[[int], T], numbers: Sequence[int], workers: int, on_done: Callable[[int], None]
) -> Iterator[T]:
    """Yields what `work` makes of the numbers, in their order."""
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="cocoa-check") as pool:
        for start in range(0, len(numbers), _WINDOW):
            window = numbers[start : start + _WINDOW]
            yield from pool.map(work, window)
            on_done(start + len(window))


def part_of(pairs: Pairs, number: int, part: str, place: int) -> Sample:
    """Returns a sample of a source by its pair's number and its own part."""
    pair = pairs[number]
    return {"query": pair.query, "target": pair.target}[part] if part != "negative" else pair.negatives[place]


def _tables(pairs: Pairs, name: str) -> tuple[tuple[str, int], ...]:
    """The tables of a source by the places of their first pairs, in the groups in which training mixes them."""
    if not isinstance(pairs, Grouped):
        return ((name, len(pairs)),)
    named, start = [], 0
    for size in pairs.groups:
        where = pairs[start].query.where if size else name
        named.append((where.rpartition(":")[0] or name, size))
        start += size
    return tuple(named)
