"""An index in a Milvus server: the same rows, for those who outgrow one machine.

The card stands in the collection's description. Beside each kept column stands a flag that its value is missing, which
servers before 2.5 could not say. Once an index is built rows are only upserted: an insert of a known id would make a
second row.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cocoa.corpus.filters import Filter, OneOf
from cocoa.corpus.hits import MAX_CANDIDATES
from cocoa.corpus.stores import connecting
from cocoa.corpus.stores.expressions import missing, to_milvus
from cocoa.corpus.stores.rows import (
    FIXED,
    MAX_ID_BYTES,
    Card,
    check_repeats,
    check_seals,
    numbered,
    row_schema,
    seals,
    table_vectors,
)
from cocoa.corpus.stores.store import Verification
from cocoa.errors import IndexingError, UsageError

SCHEME = "milvus://"
_URI = re.compile(
    r"milvus://(?P<host>[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})/(?P<name>[A-Za-z_]\w{0,63})", re.ASCII
)
_PATIENCE = 30  # seconds for the first answer
_TEXT_BYTES = 65_535
_CHUNK = 1000
_EMPTY = {"string": "", "int": 0, "float": 0.0, "bool": False}
_BUILD = {"M": 16, "efConstruction": 200}
_EF = 200
_LONGEST_BUILD = 24 * 3600  # seconds
_TRIES = 20


class MilvusStore:
    """A collection of a server, opened: a search sees all that this client wrote, other questions what anybody did."""

    notice: str | None = None

    def __init__(self, uri: str, client: Any, name: str, card: Card) -> None:
        self.uri = uri
        self.card = card
        self._client, self._name = client, name
        self.approximate: dict[str, Any] | None = {"kind": "HNSW", "build": _BUILD, "looks_at": _EF}
        # Versions look like `v2.3.5-lite`.
        found = re.match(r"v?(\d+)\.(\d+)", client.get_server_version())
        self._can_contain = found is not None and (int(found[1]), int(found[2])) >= (2, 5)

    @classmethod
    def open(cls, uri: str) -> MilvusStore:
        """Returns the store of `milvus://host:port/name`.

        Raises `E_USAGE_URI`, `E_INDEX_SERVER` if the server does not answer, `E_INDEX_FILE` if it has no such index.
        """
        name = _parts(uri)["name"]
        client = _connected(uri)
        try:
            with _told(uri):
                _restore(client, name)
                if not client.has_collection(name):
                    raise IndexingError("E_INDEX_FILE", f"the server has no index {name!r}", where=uri)
                card = _card(client.describe_collection(name)["description"], uri)
                client.load_collection(name)
                return cls(uri, client, name, card)
        except BaseException:
            client.close()
            raise

    @classmethod
    def create(cls, uri: str, card: Card, batches: Iterator[pa.RecordBatch], *, replace: bool = False) -> None:
        """Makes a collection of given rows: under a name of its own until all of them are there.

        Raises `E_INDEX_EXISTS` if there is one that is not to be replaced, or has been when all is written.
        """
        name = _parts(uri)["name"]
        client = _connected(uri)
        draft = _beside(name, f"draft_{int(time.time())}_{secrets.token_hex(4)}")
        try:
            with _told(uri):
                _restore(client, name)
                if client.has_collection(name) and not replace:
                    raise IndexingError("E_INDEX_EXISTS", "an index is there; --replace builds it anew", where=uri)
                _sweep(client, name)
                _create(client, draft, card)
                store, seen = cls(uri, client, draft, card), set[int]()
                for batch in batches:
                    for known in batch.column("id").to_pylist():
                        if (mark := hash(known)) in seen:
                            what = f"id {known!r} stands twice in what is to be indexed"
                            raise IndexingError("E_INDEX_ID", what)
                        seen.add(mark)
                    # Every id is new here, which spares the server a search for rows to replace.
                    store._write(numbered(batch, card, {}, time.time_ns())[0], client.insert)
                client.flush(draft)
                _take_place(client, draft, name, uri, replace=replace)
        except BaseException:
            with suppress(connecting.milvus().exceptions.MilvusException):
                client.drop_collection(draft)
            raise
        finally:
            client.close()

    def count(self, condition: Filter | None) -> int:
        """Returns how many rows pass."""
        with _told(self.uri):
            answer = self._client.query(self._name, filter=self._said(condition), output_fields=["count(*)"])
        return int(answer[0]["count(*)"])

    def nearest(self, queries: NDArray[np.float32], limit: int, condition: Filter | None) -> list[pa.Table]:
        """Returns for each query about the `limit` nearest rows that pass, at most 16 384."""
        with _told(self.uri):
            answers = self._client.search(
                self._name,
                data=list(np.ascontiguousarray(queries, np.float32)),
                limit=min(limit, MAX_CANDIDATES),
                filter=self._said(condition),
                output_fields=self._outputs(),
                # Sees what this client has written. To see what every other wrote a moment ago, which counts and
                # checks do, costs 0.4 s a question: the server waits for its next tick.
                consistency_level="Session",
                search_params={"metric_type": "IP", "params": {"ef": min(32_768, max(_EF, limit))}},
            )
        return [self._table([hit["entity"] for hit in answer]) for answer in answers]

    def take(self, ids: Sequence[str]) -> pa.Table:
        """Returns the rows of these ids."""
        rows: list[dict[str, Any]] = []
        with _told(self.uri):
            for start in range(0, len(ids), _CHUNK):
                said = self._said(OneOf("id", "string", tuple(ids[start : start + _CHUNK])))
                rows += self._client.query(self._name, filter=said, output_fields=self._outputs(), limit=_CHUNK)
        return self._table(rows)

    def scan(self, fields: Sequence[str], condition: Filter | None = None) -> Iterator[pa.RecordBatch]:
        """Yields the fields of all rows that pass."""
        wanted = [*fields, *(missing(name) for name in fields if name not in FIXED)]
        with _told(self.uri):
            pages = self._client.query_iterator(
                self._name, batch_size=_CHUNK, filter=self._said(condition), output_fields=wanted
            )
        try:
            while True:
                with _told(self.uri):
                    page = pages.next()
                if not page:
                    break
                yield from self._columns(list(page), fields).to_batches()
        finally:
            pages.close()

    def put(self, batch: pa.RecordBatch, *, replace: bool) -> None:
        """Writes given rows; the server has logged them when this returns."""
        names = batch.column("id").to_pylist()
        check_repeats(names)
        held: dict[str, int] = {}
        for start in range(0, len(names), _CHUNK):
            said = self._said(OneOf("id", "string", tuple(names[start : start + _CHUNK])))
            with _told(self.uri):
                rows = self._client.query(self._name, filter=said, output_fields=["id", "place"], limit=_CHUNK)
            held |= {row["id"]: row["place"] for row in rows}
        if held and not replace:
            what = f"id {next(iter(held))!r} is in the index already ({len(held)} of these are); --upsert replaces"
            raise IndexingError("E_INDEX_ID", what, where=self.uri)
        # Several clients may write at once and none counts for the others: the clock gives later rows later places.
        self._write(numbered(batch, self.card, held, time.time_ns())[0], self._client.upsert)

    def delete(self, ids: Sequence[str]) -> int:
        """Removes rows and returns how many there were."""
        held = self.take(ids)["id"].to_pylist()
        if held:
            with _told(self.uri):
                self._client.delete(self._name, ids=held)
        return len(held)

    def verify(self) -> Verification:
        """Reads every row and says which are not what was written."""
        checked, damages = 0, []
        for batch in self.scan(["id", "vector", "seal"]):
            table = pa.Table.from_batches([batch])
            names, kept = table["id"].to_pylist(), table["seal"].to_pylist()
            found = seals(names, table_vectors(table))
            wrong = [name for name, one, other in zip(names, found, kept, strict=True) if one != other]
            damages += [f"row {name!r}: not what was written" for name in wrong]
            checked += len(names)
        return Verification(checked, damages)

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def _said(self, condition: Filter | None) -> str:
        return "" if condition is None else to_milvus(condition, self.card.fields, can_contain=self._can_contain)

    def _outputs(self) -> list[str]:
        names = row_schema(self.card).names
        return [*names, *(missing(name) for name in names if name not in FIXED)]

    def _write(self, rows: pa.Table, write: Callable[[str, list[dict[str, Any]]], Any]) -> None:
        for start in range(0, len(rows), _CHUNK):
            part = rows.slice(start, _CHUNK)
            values = {name: part[name].to_pylist() for name in part.schema.names if name != "vector"}
            for name in ("text", "image"):
                for row, text in zip(values["id"], values[name], strict=True):
                    _check_text(text, name, row)
            for name, kind in zip(part.schema.names[len(FIXED) :], self.card.columns.values(), strict=True):
                values[missing(name)] = [value is None for value in values[name]]
                values[name] = [_EMPTY[kind] if value is None else value for value in values[name]]
                if kind == "string":
                    for row, text in zip(values["id"], values[name], strict=True):
                        _check_text(text, name, row)
            listed = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
            for row, vector in zip(listed, table_vectors(part), strict=True):
                row["vector"] = vector
            with _told(self.uri):
                write(self._name, listed)

    def _table(self, rows: list[dict[str, Any]]) -> pa.Table:
        table = self._columns(rows, row_schema(self.card).names)
        check_seals(table, self.uri)
        return table

    def _columns(self, rows: list[dict[str, Any]], fields: Sequence[str]) -> pa.Table:
        schema = pa.schema([row_schema(self.card).field(name) for name in fields])
        arrays = []
        for name in fields:
            if name == "vector":
                flat = np.asarray([row["vector"] for row in rows], np.float32).ravel()
                arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), type=schema.field("vector").type))
            elif name in FIXED:
                arrays.append(pa.array([row[name] for row in rows], schema.field(name).type))
            else:
                values = [None if row[missing(name)] else row[name] for row in rows]
                arrays.append(pa.array(values, schema.field(name).type))
        return pa.Table.from_arrays(arrays, schema=schema)


def _beside(name: str, what: str) -> str:
    """A collection's name beside an index, longer than any that a URI can ask for."""
    return f"{name}_{what}".ljust(65, "_")


def _restore(client: Any, name: str) -> None:
    """Finishes what a killed replacement left: the collection before has its name again if no newer one has it."""
    previous = _beside(name, "previous")
    if not client.has_collection(previous):
        return
    if client.has_collection(name):
        client.drop_collection(previous)
    else:
        client.rename_collection(previous, name)


def _sweep(client: Any, name: str) -> None:
    """Drops what builds of an index left that were killed a day ago or more; of a younger one nobody can tell."""
    own = re.compile(re.escape(name) + r"_draft_(\d+)_[0-9a-f]{8}_*")
    for found in filter(None, map(own.fullmatch, client.list_collections())):
        if time.time() - int(found[1]) > _LONGEST_BUILD:
            client.drop_collection(found[0])


def _take_place(client: Any, draft: str, name: str, uri: str, *, replace: bool) -> None:
    """Gives a complete collection the name of the index. Raises `E_INDEX_EXISTS` where it is not to `replace` another.

    Nothing is dropped before the new collection has the name: from what is left of who is killed it is restored.
    """
    previous = _beside(name, "previous")
    for _ in range(_TRIES):
        if client.has_collection(name):
            if not replace:
                raise IndexingError("E_INDEX_EXISTS", "somebody else filled the place meanwhile", where=uri)
            client.drop_collection(previous)
            client.rename_collection(name, previous)
        try:
            client.rename_collection(draft, name)
            break
        except connecting.milvus().exceptions.MilvusException:
            # Another build has the name meanwhile, or a reader took this one for dead and gave the name back.
            if not client.has_collection(name):
                raise
    else:
        raise IndexingError("E_INDEX_SERVER", "others take the name of the index all the time", where=uri)
    client.drop_collection(previous)


def _create(client: Any, name: str, card: Card) -> None:
    types = connecting.milvus().DataType
    kinds = {"string": types.VARCHAR, "int": types.INT64, "float": types.DOUBLE, "bool": types.BOOL}
    schema = client.create_schema(
        auto_id=False, enable_dynamic_field=False, description=json.dumps({"cocoa": 1, **asdict(card)})
    )
    schema.add_field("id", types.VARCHAR, is_primary=True, max_length=MAX_ID_BYTES)
    schema.add_field("place", types.INT64)
    schema.add_field("vector", types.FLOAT_VECTOR, dim=card.dimensions)
    schema.add_field("text", types.VARCHAR, max_length=_TEXT_BYTES)
    schema.add_field("image", types.VARCHAR, max_length=_TEXT_BYTES)
    schema.add_field("seal", types.INT64)
    for column, kind in card.columns.items():
        field = card.fields[column]
        schema.add_field(field, kinds[kind], **({"max_length": _TEXT_BYTES} if kind == "string" else {}))
        schema.add_field(missing(field), types.BOOL)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="HNSW", metric_type="IP", params=_BUILD)
    client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")


def _card(description: str, uri: str) -> Card:
    try:
        kept = json.loads(description)
        _ = kept["cocoa"]
        return Card.read(kept)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IndexingError("E_INDEX_FILE", "the collection was not made by cocoa", where=uri) from error


def _check_text(text: str, name: str, row: str) -> None:
    if len(text.encode()) > _TEXT_BYTES:
        raise IndexingError(
            "E_INDEX_ROWS", f"{name} is longer than the {_TEXT_BYTES} bytes that Milvus takes", where=row
        )


def _parts(uri: str) -> dict[str, str]:
    found = _URI.fullmatch(uri)
    if found is None or int(found["port"]) > 65_535:
        raise UsageError("E_USAGE_URI", "give milvus://host:port/name (name: letters, digits, _)", where=uri)
    return found.groupdict()


def _connected(uri: str) -> Any:
    parts = _parts(uri)
    package = connecting.milvus()
    with _told(uri):
        return package.MilvusClient(f"http://{parts['host']}:{parts['port']}", timeout=_PATIENCE)


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Turns what the client raises into an error with a code."""
    try:
        yield
    except connecting.milvus().exceptions.MilvusException as error:
        raise IndexingError("E_INDEX_SERVER", f"the Milvus server: {error.message}", where=uri) from error
