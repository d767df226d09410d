"""A new embedded index: written beside its place, whole, before it takes the name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from cocoa.corpus.stores import connecting
from cocoa.corpus.stores.approximate import EXACT_ROWS, build_approximate
from cocoa.corpus.stores.commits import CARD, COMMITS, Commit, Commits
from cocoa.corpus.stores.lance import FORMAT, LanceStore
from cocoa.corpus.stores.rows import Card, laid_out, row_schema
from cocoa.errors import IndexingError
from cocoa.files import write_file, write_folder

_FIRST_TABLE = "rows-0000000001"


def build_index(
    root: Path,
    card: Card,
    batches: Iterator[pa.RecordBatch],
    *,
    replace: bool = False,
    exact_rows: int = EXACT_ROWS,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Writes an index folder of given rows, all of it or nothing; what stands there stays unless it is to `replace`.

    Raises `E_INDEX_EXISTS` if it is not and another has been built there meanwhile, `E_INDEX_WRITE` for a full disk.
    """
    stream = _Stream(card, batches)
    try:
        with (
            connecting.told(root),
            ExitStack() as held,
            write_folder(root, manifest=False, replace=replace) as draft,
        ):
            _fill(draft, card, stream, exact_rows=exact_rows, say=say)
            if replace and LanceStore.is_one(root):
                # Held until the old index is gone: its writer is not disturbed, and the next one finds the new.
                held.enter_context(Commits(root).writing())
    except FileExistsError as error:
        raise IndexingError("E_INDEX_EXISTS", "somebody else filled the place meanwhile", where=str(root)) from error
    except (RuntimeError, IndexingError):
        # Lance wraps what the rows themselves raised.
        if stream.error is not None:
            raise stream.error from None
        raise


def _fill(draft: Path, card: Card, stream: _Stream, *, exact_rows: int, say: Callable[[str], None]) -> None:
    (draft / COMMITS).mkdir()
    write_file(draft / CARD, json.dumps({"format": FORMAT, **asdict(card)}, indent=1) + "\n")
    table = connecting.lance(draft).create_table(_FIRST_TABLE, schema=row_schema(card))
    table.set_unenforced_primary_key(["id"])
    table.add(pa.RecordBatchReader.from_batches(row_schema(card), stream))
    approximate = None
    if stream.rows > exact_rows:
        approximate = build_approximate(table, stream.rows, say=say)
    Commits(draft).acknowledge(
        Commit(0, _FIRST_TABLE),
        version=table.version,
        rows=stream.rows,
        next_place=stream.rows,
        approximate=approximate,
    )


class _Stream:
    """Given rows on their way into a new table: checked, numbered, counted; an id that comes twice is refused."""

    def __init__(self, card: Card, batches: Iterator[pa.RecordBatch]) -> None:
        self._card, self._batches = card, batches
        self._seen: set[int] = set()
        self.rows = 0
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._laid_out()
        except Exception as error:
            self.error = error
            raise

    def _laid_out(self) -> Iterator[pa.RecordBatch]:
        for batch in self._batches:
            for name in batch.column("id").to_pylist():
                if (mark := hash(name)) in self._seen:
                    raise IndexingError("E_INDEX_ID", f"id {name!r} stands twice in what is to be indexed")
                self._seen.add(mark)
            places = np.arange(self.rows, self.rows + len(batch))
            self.rows += len(batch)
            yield from laid_out(batch, self._card, places).to_batches()
