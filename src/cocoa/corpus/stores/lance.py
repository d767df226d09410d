"""The embedded index: a LanceDB table in a folder, made durable and single-writer by the records of `commits`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cocoa.corpus.filters import Filter, OneOf
from cocoa.corpus.stores import connecting
from cocoa.corpus.stores.approximate import EXACT_ROWS, ask_graphs, build_approximate
from cocoa.corpus.stores.commits import CARD, COMMITS, Commit, Commits
from cocoa.corpus.stores.compaction import MAX_FILES, compact
from cocoa.corpus.stores.connecting import Table
from cocoa.corpus.stores.expressions import to_sql
from cocoa.corpus.stores.rows import Card, check_repeats, check_seals, numbered, row_schema
from cocoa.corpus.stores.store import Verification
from cocoa.embedder import identity_difference
from cocoa.errors import IndexingError
from cocoa.failpoints import failpoint
from cocoa.files import write_file

T = TypeVar("T")
FORMAT = 1
DAMAGE = "damage.json"
_TRIES = 20
_log = logging.getLogger(__name__)

_Version = tuple[int, int, str]
"""The inode and time of the card, which tell an index from one that has taken its place, and the newest commit."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """A commit and the table at it; never moved on to another, since somebody may be reading."""

    table: Table
    commit: Commit
    version: _Version


class LanceStore:
    """An index folder, opened; sees at each call the newest acknowledged version."""

    def __init__(self, root: Path, card: Card) -> None:
        self.root = root
        self.uri = str(root)
        self.card = card
        self.notice: str | None = None
        self._commits = Commits(root)
        self._lock = Lock()
        self._opened: _Opened | None = None
        # What a verification has found damaged is opened all the same, to be verified again or repaired.
        if not self._is_damaged():
            self._refreshed()

    @classmethod
    def open(cls, root: Path) -> LanceStore:
        """Returns the store of a folder.

        Raises `E_INDEX_FILE` if it is no index, `E_INDEX_DAMAGED` if no commit of it can be opened.
        """
        return cls(root, _read_card(root))

    @staticmethod
    def is_one(root: Path) -> bool:
        """Returns whether a folder is an index, whole or damaged."""
        return (root / CARD).is_file() or (root / COMMITS).is_dir()

    @property
    def approximate(self) -> dict[str, Any] | None:
        """The approximate index, its settings and its measured recall@10; None while search is exact."""
        return self._refreshed().commit.approximate

    def count(self, condition: Filter | None) -> int:
        """Returns how many rows pass."""
        return self._reading(lambda opened: int(opened.table.count_rows(self._sql(condition))))

    def nearest(self, queries: NDArray[np.float32], limit: int, condition: Filter | None) -> list[pa.Table]:
        """Returns for each query about the `limit` nearest rows that pass, by the approximate index if there is one."""
        where = self._sql(condition)

        def ask(opened: _Opened) -> list[pa.Table]:
            table, made = opened.table, opened.commit.approximate
            # Few rows that pass are looked at one by one: the approximate index would miss some of them.
            few = made is None or (where is not None and table.count_rows(where) <= EXACT_ROWS)
            return [self._ask(table, query, limit, where, None if few else made) for query in queries]

        found = self._reading(ask)
        for rows in found:
            check_seals(rows, self.uri)
        return found

    def take(self, ids: Sequence[str]) -> pa.Table:
        """Returns the rows of these ids."""
        if not ids:
            return row_schema(self.card).empty_table()
        where = to_sql(OneOf("id", "string", tuple(ids)), self.card.fields)
        rows = self._reading(lambda opened: opened.table.search(None).where(where).limit(len(ids)).to_arrow())
        check_seals(rows, self.uri)
        return rows

    def scan(self, fields: Sequence[str], condition: Filter | None = None) -> Iterator[pa.RecordBatch]:
        """Yields the fields of all rows that pass."""
        where = self._sql(condition)

        def read(opened: _Opened) -> pa.Table:
            query = opened.table.search(None).select(list(fields)).limit(max(1, opened.table.count_rows()))
            return (query.where(where) if where else query).to_arrow()

        yield from self._reading(read).to_batches(max_chunksize=8192)

    def put(self, batch: pa.RecordBatch, *, replace: bool) -> None:
        """Writes given rows in one commit; on return they are durable."""
        names = batch.column("id").to_pylist()
        check_repeats(names)
        with self._writing() as (table, commit):
            held = self._held(table, names)
            if held and not replace:
                what = f"id {next(iter(held))!r} is in the index already ({len(held)} of these are); --upsert replaces"
                raise IndexingError("E_INDEX_ID", what, where=self.uri)
            rows, next_place = numbered(batch, self.card, held, commit.next_place)
            if held:
                merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                merge.execute(rows)
            else:
                table.add(rows)
            failpoint("index-changed")
            self._acknowledge(table, commit, next_place=next_place)

    def delete(self, ids: Sequence[str]) -> int:
        """Removes rows in one commit and returns how many there were."""
        if not ids:
            return 0
        with self._writing() as (table, commit):
            before = commit.rows
            table.delete(to_sql(OneOf("id", "string", tuple(ids)), self.card.fields))
            failpoint("index-changed")
            return before - self._acknowledge(table, commit).rows

    def optimize(
        self, *, exact_rows: int = EXACT_ROWS, say: Callable[[str], None] = lambda _: None
    ) -> dict[str, Any] | None:
        """Rewrites the table without what is dead, and makes the approximate index anew if there are enough rows."""
        with self._writing() as (_, commit):
            self._compact(commit, exact_rows=exact_rows, say=say)
        return self.approximate

    def verify(self) -> Verification:
        """Reads every file and says what is not as it was written; until a good one the index answers nothing."""
        with self._commits.writing():
            checked, damages = self._commits.damages()
            if damages:
                write_file(self.root / DAMAGE, json.dumps({"damages": damages}, indent=1) + "\n")
            else:
                (self.root / DAMAGE).unlink(missing_ok=True)
        return Verification(checked, damages)

    def repair(self) -> str:
        """Goes back to the newest commit whose files are all as they were written, and says in words what that cost.

        Raises `E_INDEX_DAMAGED` if there is none.
        """
        with self._commits.writing():
            commit, skipped = self._commits.newest(thorough=True)
            if skipped:
                self._commits.set_aside(commit)
                self._commits.drop_newer(commit)
                self._commits.sweep(commit)
                self._commits.acknowledge(commit, repairs=commit.repairs + 1)
            (self.root / DAMAGE).unlink(missing_ok=True)
        if not skipped:
            return "nothing to repair"
        return f"went back to commit {commit.number} of {commit.rows:,} rows; given up: {'; '.join(skipped)}"

    def close(self) -> None:
        """Gives back the table."""
        self._opened = None

    def _sql(self, condition: Filter | None) -> str | None:
        return None if condition is None else to_sql(condition, self.card.fields)

    def _ask(
        self, table: Table, query: NDArray[np.float32], limit: int, where: str | None, made: dict[str, Any] | None
    ) -> pa.Table:
        fields = row_schema(self.card).names

        def ask() -> Any:
            asked = table.search(query, vector_column_name="vector").distance_type("dot").limit(limit)
            asked = asked.select([*fields, "_distance"])
            return asked if where is None else asked.where(where, prefilter=True)

        rows: pa.Table | None = None if made is None else ask_graphs(ask(), limit, made)
        if rows is None or len(rows) < limit:
            rows = ask().bypass_vector_index().to_arrow()
        return rows.select(fields)

    def _reading(self, read: Callable[[_Opened], T]) -> T:
        """Returns what `read` makes of the newest version; again if a writer took it away meanwhile."""
        for number in range(_TRIES):
            opened = self._refreshed()
            try:
                return read(opened)
            except (RuntimeError, OSError, ValueError) as error:
                if isinstance(error, IndexingError | UnicodeError):  # A text that cannot be asked for is no damage.
                    raise
                if number == _TRIES - 1 or self._newest() == opened.version:
                    what = f"the table cannot be read ({type(error).__name__}); run `cocoa index --verify`"
                    raise IndexingError("E_INDEX_DAMAGED", what, where=self.uri) from error
        raise AssertionError("unreachable")

    def _is_damaged(self) -> bool:
        return (self.root / DAMAGE).is_file()

    def _refreshed(self) -> _Opened:
        if self._is_damaged():
            what = "a verification found damage: `cocoa index --repair` goes back to a whole version, or build it again"
            raise IndexingError("E_INDEX_DAMAGED", what, where=self.uri)
        with self._lock:
            version = self._newest()
            if self._opened is not None and self._opened.version == version:
                return self._opened
            if self._opened is None or self._opened.version[:2] != version[:2]:
                self._check_card()
            commit, skipped = self._commits.newest()
            table, commit = self._table_of(commit)
            self._opened = _Opened(table, commit, version)
            self.notice = None
            if skipped:
                self.notice = f"fell back to commit {commit.number} of {commit.rows:,} rows: {'; '.join(skipped)}"
                _log.warning("%s: %s", self.uri, self.notice)
            return self._opened

    def _newest(self) -> _Version:
        try:
            status = (self.root / CARD).stat()
        except FileNotFoundError as error:
            raise _no_index(self.root) from error
        return status.st_ino, status.st_mtime_ns, self._commits.newest_name()

    def _check_card(self) -> None:
        """Raises `E_INDEX_REPLACED` if an index of another model or with other columns has taken the place."""
        card = _read_card(self.root)
        difference = identity_difference(self.card.identity, card.identity)
        if difference is None and list(self.card.columns.items()) != list(card.columns.items()):
            difference = "the columns differ"
        if difference:
            what = f"the index was replaced since it was opened, open it again: {difference}"
            raise IndexingError("E_INDEX_REPLACED", what, where=self.uri)

    def _table_of(self, commit: Commit) -> tuple[Table, Commit]:
        try:
            return self._at(commit), commit
        except (RuntimeError, OSError, ValueError):
            # Lance reads the newest manifest first: it may be half of a dead writer's, or damaged. Or a writer was
            # quicker, so the newest commit is asked for again, now that nobody writes.
            with self._commits.writing():
                commit, skipped = self._commits.newest()
                if skipped:
                    self._commits.set_aside(commit)
                else:
                    self._commits.sweep(commit)
                return self._at(commit), commit

    def _at(self, commit: Commit) -> Table:
        table = connecting.lance(self.root).open_table(commit.table)
        table.checkout(commit.version)
        return table

    def _held(self, table: Table, names: Sequence[str]) -> dict[str, int]:
        where = to_sql(OneOf("id", "string", tuple(names)), self.card.fields)
        rows = table.search(None).where(where).select(["id", "place"]).limit(len(names)).to_arrow()
        return dict(zip(rows["id"].to_pylist(), rows["place"].to_pylist(), strict=True))

    @contextmanager
    def _writing(self) -> Iterator[tuple[Table, Commit]]:
        """Gives the table at its newest commit, freed of what dead writers left, to the only writer."""
        with connecting.told(self.root), self._commits.writing():
            if self._is_damaged():
                raise IndexingError("E_INDEX_DAMAGED", "a verification found damage: repair it first", where=self.uri)
            self._check_card()
            commit, skipped = self._commits.newest()
            if skipped:
                what = f"a newer commit is damaged ({'; '.join(skipped)}); `cocoa index --repair` gives it up"
                raise IndexingError("E_INDEX_DAMAGED", what, where=self.uri)
            self._commits.sweep(commit)
            failpoint("index-begun")
            yield connecting.lance(self.root).open_table(commit.table), commit

    def _acknowledge(self, table: Table, commit: Commit, **facts: Any) -> Commit:
        after = self._commits.acknowledge(commit, version=table.version, rows=table.count_rows(), **facts)
        if len(after.files) > MAX_FILES:
            after = self._compact(after)
        return after

    def _compact(
        self, commit: Commit, *, exact_rows: int | None = None, say: Callable[[str], None] = lambda _: None
    ) -> Commit:
        name = compact(self.root, commit)
        table = connecting.lance(self.root).open_table(name)
        approximate = commit.approximate
        if exact_rows is not None:
            enough = commit.rows > exact_rows
            approximate = build_approximate(table, commit.rows, say=say) if enough else None
        return self._commits.acknowledge(commit, table=name, version=table.version, approximate=approximate)


def _read_card(root: Path) -> Card:
    try:
        card = json.loads((root / CARD).read_text())
        if card["format"] != FORMAT:
            what = f"an index of format {card['format']}, this version reads {FORMAT}: build it again"
            raise IndexingError("E_INDEX_FILE", what, where=str(root))
        return Card.read(card)
    except FileNotFoundError as error:
        raise _no_index(root) from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise IndexingError("E_INDEX_DAMAGED", f"{CARD} cannot be read: build it again", where=str(root)) from error


def _no_index(root: Path) -> IndexingError:
    return IndexingError("E_INDEX_FILE", f"not an index: no {CARD}", where=str(root))
