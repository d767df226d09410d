"""The index: documents by what they mean, bound to the model whose vectors it holds and to no other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cocoa.corpus.embeddings import Embeddings
from cocoa.corpus.examples import combined
from cocoa.corpus.filters import BUILT_IN, Every, Filter, Not, OneOf, parse_filter
from cocoa.corpus.given import BATCH, Rows, RowSource, checked
from cocoa.corpus.hits import MAX_K, SLACK, Hit, best_hits
from cocoa.corpus.stores.approximate import EXACT_ROWS
from cocoa.corpus.stores.building import build_index
from cocoa.corpus.stores.exact import ExactStore
from cocoa.corpus.stores.lance import LanceStore
from cocoa.corpus.stores.milvus import SCHEME, MilvusStore
from cocoa.corpus.stores.rows import Card, finite, is_id, short, shown, table_vectors
from cocoa.corpus.stores.store import Store, Verification
from cocoa.corpus.stores.truth import compare
from cocoa.corpus.where import read_where
from cocoa.embedder import Embedder, Item, identity_difference
from cocoa.errors import DataError, IndexingError, ModelError, UsageError
from cocoa.files import check_name

__all__ = ["FilterLike", "Hit", "Index", "Row", "RowSource", "Rows"]

FilterLike = Filter | Mapping[str, Any] | str | None
"""A filter as its types, as its JSON, as a person types it (`price < 3`, see `read_where`), or none."""
MAX_VALUES = 100_000
"""Different values of a column that are counted."""


@dataclass(frozen=True, slots=True)
class Row:
    """A document of the index: what a hit has, and its vector float32 [D]."""

    id: str
    text: str
    image: str
    columns: dict[str, Any]
    vector: NDArray[np.float32]


class Index:
    """Documents that can be searched: in a folder of embeddings, in a LanceDB folder, or in a Milvus server."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @classmethod
    def open(cls, uri: str | Path) -> Index:
        """Returns the index at a folder that `cocoa embed` or `cocoa index` wrote, or at `milvus://host:port/name`.

        Raises `IndexingError` if there is none or it is damaged, `E_USAGE_EXTRA` if the store's package is missing.
        """
        if str(uri).startswith(SCHEME):
            return cls(MilvusStore.open(str(uri)))
        folder = _folder(uri)
        if LanceStore.is_one(folder):
            return cls(LanceStore.open(folder))
        try:
            return cls(ExactStore(Embeddings.open(folder)))
        except DataError as error:
            if error.code != "E_DATA_FILE":
                raise
            what = "neither an index nor a folder of embeddings"
            raise IndexingError("E_INDEX_FILE", what, where=str(folder)) from error

    @classmethod
    def build(
        cls,
        embeddings: Embeddings,
        uri: str | Path,
        *,
        replace: bool = False,
        exact_rows: int = EXACT_ROWS,
        say: Callable[[str], None] = lambda _: None,
    ) -> Index:
        """Returns a new index of embeddings; all of it is there, or nothing.

        Above `exact_rows` rows an approximate index is made and its recall measured (LanceDB; Milvus always has one).
        Raises `E_INDEX_EXISTS` for a place that is taken, or has been when all is written, unless it is an index and is
        to be replaced; `E_INDEX_WRITE` for a full disk.
        """
        card = Card(embeddings.identity, embeddings.model, embeddings.columns)
        return cls._make(card, embeddings, uri, replace=replace, exact_rows=exact_rows, say=say)

    @classmethod
    def create(
        cls, uri: str | Path, identity: Mapping[str, Any], columns: Mapping[str, str], *, model: str = ""
    ) -> Index:
        """Returns a new, empty index for vectors of an identity; `columns` are those kept, each with its type."""
        card = Card(dict(identity), model, dict(columns))
        return cls._make(card, None, uri)

    @classmethod
    def _make(cls, card: Card, rows: RowSource | None, uri: str | Path, *, replace: bool = False, **how: Any) -> Index:
        batches = iter(()) if rows is None else checked(rows, card)
        if str(uri).startswith(SCHEME):
            MilvusStore.create(str(uri), card, batches, replace=replace)
            return cls.open(uri)
        folder = _folder(uri)
        if folder.exists() and (folder.is_file() or any(folder.iterdir())):
            if not LanceStore.is_one(folder):
                raise IndexingError("E_INDEX_EXISTS", "something else is there, and not an index", where=str(folder))
            if not replace:
                raise IndexingError("E_INDEX_EXISTS", "an index is there; --replace builds it anew", where=str(folder))
        build_index(folder, card, batches, replace=replace, **how)
        return cls.open(folder)

    @property
    def uri(self) -> str:
        """Where it is."""
        return self._store.uri

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of the embedder whose vectors it holds."""
        return self._store.card.identity

    @property
    def model(self) -> str:
        """Where that embedder's model folder was."""
        return self._store.card.model

    @property
    def dimensions(self) -> int:
        """Length D of a vector."""
        return self._store.card.dimensions

    @property
    def columns(self) -> dict[str, str]:
        """The kept columns, each with its type: string, int, float or bool."""
        return dict(self._store.card.columns)

    @property
    def approximate(self) -> dict[str, Any] | None:
        """How it searches, with the measured recall@10; None if it looks at every row."""
        return self._store.approximate

    @property
    def is_embedded(self) -> bool:
        """Whether it is a LanceDB folder, which is looked after by `optimize` and `repair`."""
        return isinstance(self._store, LanceStore)

    @property
    def notice(self) -> str | None:
        """What people must know of the version that is open, such as that a newer one is damaged."""
        return self._store.notice

    def __len__(self) -> int:
        return self.count()

    def close(self) -> None:
        """Gives back what is held open."""
        self._store.close()

    def count(self, filter: FilterLike = None) -> int:  # noqa: A002
        """Returns how many documents there are, or pass."""
        return self._store.count(self._read(filter))

    def search(
        self,
        embedder: Embedder,
        queries: Sequence[Item],
        k: int = 10,
        *,
        filter: FilterLike = None,  # noqa: A002
    ) -> list[list[Hit]]:
        """Returns for each query the `k` nearest documents, best first; equal scores keep the documents' order.

        Raises `E_MODEL_OTHER` for an embedder of another model, saying what differs.
        """
        self.check_identity(embedder.identity, str(embedder.folder))
        return self.search_vectors(embedder.encode_query(queries), k, filter=filter)

    def search_vectors(
        self,
        vectors: NDArray[np.float32],
        k: int = 10,
        *,
        filter: FilterLike = None,  # noqa: A002
    ) -> list[list[Hit]]:
        """Returns for each vector of a query (Q, D) the `k` nearest documents, best first.

        Raises `E_USAGE_K` for a k outside 1 to 10 000, `E_INDEX_VECTOR` for vectors of another length or not finite.
        """
        if not 1 <= k <= MAX_K:
            raise UsageError("E_USAGE_K", f"k is {k}; use 1 to {MAX_K:,}")
        queries = np.ascontiguousarray(vectors, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dimensions:
            what = f"queries have the shape {list(queries.shape)}, the index has {self.dimensions} dimensions"
            raise IndexingError("E_INDEX_VECTOR", what, where=self.uri)
        if not np.isfinite(queries).all():
            raise IndexingError("E_INDEX_VECTOR", "a query's vector is not finite", where=self.uri)
        condition, store = self._read(filter), self._store
        found = store.nearest(queries, k + SLACK, condition) if len(queries) else []

        def more_of(query: NDArray[np.float32]) -> Callable[[int], pa.Table]:
            return lambda limit: store.nearest(query[None], limit, condition)[0]

        return [
            best_hits(query, k, store.card, rows, more_of(query)) for query, rows in zip(queries, found, strict=True)
        ]

    def search_examples(
        self,
        k: int = 10,
        *,
        vectors: NDArray[np.float32] | None = None,
        like: Sequence[str] = (),
        unlike: Sequence[str] = (),
        weight: float = 0.5,
        filter: FilterLike = None,  # noqa: A002
    ) -> list[Hit]:
        """Returns the `k` documents nearest to all that is wanted and away from what is not, the examples left out.

        Wanted are `vectors` (N, D), such as that of a text, and the documents `like`; the mean of the documents
        `unlike` is taken off with `weight`. Raises `E_INDEX_ID` for an unknown id, `E_USAGE_EXAMPLES` if nothing is
        wanted or all cancels out.
        """
        wanted = self._vectors(like)
        if vectors is not None:
            wanted = np.concatenate([vectors, wanted])
        query = combined(wanted, self._vectors(unlike), weight=weight)
        condition = self._read(filter)
        if examples := (*like, *unlike):
            others = Not(OneOf("id", "string", tuple(examples)))
            condition = others if condition is None else Every((condition, others))
        return self.search_vectors(query[None], k, filter=condition)[0]

    def get(self, ids: Sequence[str]) -> list[Row]:
        """Returns documents in the order of their ids. Raises `E_INDEX_ID` for an unknown one."""
        held = self.known(ids)
        if missing := [name for name in ids if name not in held]:
            raise IndexingError("E_INDEX_ID", f"no document {short(missing[0])}", where=self.uri)
        return [held[name] for name in ids]

    def known(self, ids: Sequence[str]) -> dict[str, Row]:
        """Returns those of these documents that there are, by their ids."""
        _check_ids(ids, self.uri)
        rows = self._store.take(list(dict.fromkeys(ids)))
        vectors = table_vectors(rows)
        held = {}
        for number, row in enumerate(shown(rows, self._store.card)):
            columns = {name: value for name, value in row.items() if name not in BUILT_IN}
            held[row["id"]] = Row(row["id"], row["text"], row["image"], columns, vectors[number])
        return held

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Returns those of the ids that no document has, each once, in their order."""
        _check_ids(ids, self.uri)
        wanted = list(dict.fromkeys(ids))
        held = set(self._store.take(wanted)["id"].to_pylist())
        return [name for name in wanted if name not in held]

    def facets(self, column: str, limit: int = 20) -> dict[Any, int]:
        """Returns the commonest values of a column with their counts, commonest first; missing values are left out.

        Of a column of captions or names, where nearly every value is another, the first 100 000 are counted.
        """
        counts: Counter[Any] = Counter()
        for values in self._values(column):
            for each in pc.value_counts(values.drop_null()).to_pylist():
                # A value is let in where it first stands, so the counts that are told are of all rows.
                if each["values"] in counts or len(counts) < MAX_VALUES:
                    counts[each["values"]] += each["counts"]
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit])

    def range(self, column: str) -> tuple[Any, Any] | None:
        """Returns the least and the greatest value of a column; None if it has no values."""
        low = high = None
        for values in self._values(column):
            ends = pc.min_max(values).as_py()
            if ends["min"] is not None:
                low = ends["min"] if low is None else min(low, ends["min"])
                high = ends["max"] if high is None else max(high, ends["max"])
        return None if low is None else (low, high)

    def add(self, rows: RowSource) -> int:
        """Returns how many rows were written; each batch of 8192 is durable before the next.

        Raises `E_INDEX_ID` for an id that the index has, `E_MODEL_OTHER` for vectors of another model, `E_INDEX_VECTOR`
        for those of another length or not of unit norm; the message names the row. Nothing of that batch is written.
        """
        return self._write(rows, replace=False)

    def upsert(self, rows: RowSource) -> int:
        """Returns how many rows were written; as `add`, but an id that the index has is given its new content."""
        return self._write(rows, replace=True)

    def delete(self, ids: Sequence[str]) -> int:
        """Returns how many of these documents there were; they are durably gone.

        Raises `E_INDEX_ID` for what no document can be called.
        """
        _check_ids(ids, self.uri)
        return sum(self._store.delete(ids[start : start + BATCH]) for start in range(0, len(ids), BATCH))

    def optimize(self, *, exact_rows: int = EXACT_ROWS, say: Callable[[str], None] = lambda _: None) -> None:
        """Rewrites an embedded index without what is dead; makes its approximate index and measures it again.

        Raises `E_USAGE_OPTIMIZE` for an index that is none: a folder of embeddings is only read, Milvus does it itself.
        """
        if not isinstance(self._store, LanceStore):
            raise UsageError("E_USAGE_OPTIMIZE", "only an embedded index can be optimized", where=self.uri)
        self._store.optimize(exact_rows=exact_rows, say=say)

    def verify(self, against: Embeddings | None = None) -> Verification:
        """Returns what is not as it was written; `against` embeddings: also ids and vectors that differ from theirs."""
        found = self._store.verify()
        if against is not None and found.ok:
            self.check_identity(against.identity, str(against.folder))
            found = compare(self._store, against)
        return found

    def repair(self) -> str:
        """Takes an embedded index back to its newest whole commit; returns in words what was given up."""
        if not isinstance(self._store, LanceStore):
            raise UsageError("E_USAGE_REPAIR", "only an embedded index can be repaired: build it again", where=self.uri)
        return self._store.repair()

    def check_identity(self, identity: Mapping[str, Any], whose: str) -> None:
        """Raises `E_MODEL_OTHER`, saying what differs, if vectors of this identity do not belong here."""
        if difference := identity_difference(self.identity, identity):
            made = f"the index was made by {self.model or 'another model'}, not by {whose}: {difference}"
            raise ModelError("E_MODEL_OTHER", made, where=self.uri)

    def _write(self, rows: RowSource, *, replace: bool) -> int:
        self.check_identity(rows.identity, "the model of these rows")
        written = 0
        for batch in checked(rows, self._store.card):
            self._store.put(batch, replace=replace)
            written += len(batch)
        return written

    def _vectors(self, ids: Sequence[str]) -> NDArray[np.float32]:
        rows = [row.vector for row in self.get(ids)] if ids else []
        return np.stack(rows) if rows else np.zeros((0, self.dimensions), np.float32)

    def _values(self, column: str) -> Iterator[pa.Array]:
        if column not in self._store.card.fields:
            known = ", ".join(sorted(self._store.card.fields))
            raise UsageError("E_USAGE_COLUMN", f"no column {column!r}; known: {known}", where=self.uri)
        for batch in self._store.scan([self._store.card.fields[column]]):
            yield finite(batch.column(0))

    def _read(self, given: FilterLike) -> Filter | None:
        if given is None or isinstance(given, Filter):
            return given
        if isinstance(given, str):
            try:
                given = read_where(given)
            except UsageError as error:
                raise error.at("filter") from None
        return parse_filter(given, self._store.card.columns)


def _check_ids(ids: Sequence[str], where: str) -> None:
    for name in ids:
        if not is_id(name):
            raise IndexingError("E_INDEX_ID", f"no document can be called {short(name)}", where=where)


def _folder(uri: str | Path) -> Path:
    if "://" in str(uri):
        raise UsageError("E_USAGE_URI", "give a folder, or milvus://host:port/name", where=str(uri))
    check_name(uri)
    return Path(uri)
