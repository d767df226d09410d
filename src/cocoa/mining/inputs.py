"""What is mined: the rows that can be read, and the distinct samples in them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from cocoa.data.bad_rows import BadRows
from cocoa.errors import CocoaError
from cocoa.files import sha256
from cocoa.mining.rows import Row, Table
from cocoa.mining.vectors import content_digests
from cocoa.sample import Sample


@dataclass(frozen=True, slots=True)
class Entry:
    """A row, and the places of its samples among the distinct ones."""

    row: Row
    query: int
    target: int
    negatives: tuple[int, ...]

    @property
    def places(self) -> tuple[int, ...]:
        """All of its samples."""
        return (self.query, self.target, *self.negatives)


@dataclass(frozen=True)
class Inputs:
    """The rows of each table whose files can be read, and their distinct samples with their contents."""

    tables: list[tuple[Table, list[Entry]]]
    samples: list[Sample]
    contents: list[str]
    total: int

    @classmethod
    def of(cls, tables: Sequence[Table], keep: bool, bad: BadRows) -> Inputs:
        """Returns what tables show; rows that cannot be read are noted, with `keep` their negatives are read too."""
        total = sum(len(table.rows) for table in tables) + len(bad.rows)
        bad.check(total)
        rows = [row for table in tables for row in table.rows]
        sides = [(row.pair.query, row.pair.target, *(row.pair.negatives if keep else ())) for row in rows]
        digests = iter(content_digests([sample for side in sides for sample in side]))
        places: dict[str, int] = {}
        samples: list[Sample] = []
        entries: dict[int, Entry] = {}
        for number, (row, side) in enumerate(zip(rows, sides, strict=True)):
            found = [next(digests) for _ in side]
            if problem := next((one for one in found if isinstance(one, CocoaError)), None):
                bad.note(problem.at(row.pair.query.where))
                continue
            for content, sample in zip(found, side, strict=True):
                if content not in places:
                    places[str(content)] = len(samples)
                    samples.append(sample)
            query, target, *negatives = (places[str(content)] for content in found)
            entries[number] = Entry(row, query, target, tuple(negatives))
        bad.check(total)
        ends = list(accumulate(len(table.rows) for table in tables))
        made = [
            (table, [entries[number] for number in range(end - len(table.rows), end) if number in entries])
            for table, end in zip(tables, ends, strict=True)
        ]
        return cls(made, samples, list(places), total)

    def digests(self) -> dict[str, str]:
        """Returns a digest of each table: of its files, and of what its rows show."""
        return {table.name: self._digest(table, entries) for table, entries in self.tables}

    def _digest(self, table: Table, entries: Sequence[Entry]) -> str:
        digest = hashlib.sha256("\n".join(sha256(path) for path in table.paths).encode())
        for entry in entries:
            contents = [self.contents[place] for place in entry.places]
            digest.update(f"\n{entry.row.number} {' '.join(contents)}".encode())
        return digest.hexdigest()
