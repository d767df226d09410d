"""The index in a real Milvus server: what the embedded one does, it does.

Slow, and only where `COCOA_MILVUS_SERVER` names a server (`http://host:port`) or the program that starts one
(`milvus-server` of the PyPI package `milvus`; `make milvus-test` installs it beside).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
from asking import PAYLOADS, filters
from hypothesis import HealthCheck, given, settings
from indexing import COLUMNS, embeddings, rows, unit, values
from pymilvus import MilvusClient

from cocoa import CocoaError
from cocoa.corpus.filters import matches, parse_filter
from cocoa.corpus.index import Index

pytestmark = pytest.mark.slow
NAMES = [f"r{number}" for number in range(60)]
ROWS = [{"id": name, "text": f"text of {name}", "image": "", **values(n)} for n, name in enumerate(NAMES)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address `host:port` of a Milvus server."""
    given = os.environ.get("COCOA_MILVUS_SERVER", "")
    if not given:
        pytest.skip("no Milvus server (COCOA_MILVUS_SERVER)")
    if "://" in given:
        yield given.partition("://")[2].strip("/")
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("milvus")
    # The log goes to a file of its own: nobody reads a pipe.
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [given, "--data", folder / "data", "--proxy-port", str(port)],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 300
        while not answers(port):
            assert process.poll() is None, said(folder)
            assert time.monotonic() < deadline, said(folder)
            time.sleep(1)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        # The server itself, which the program that starts it leaves behind, is known by its folder.
        for found in psutil.process_iter(["cmdline"]):
            if any(str(folder) in word for word in found.info["cmdline"] or ()):
                found.kill()


def said(folder: Path) -> str:
    """What the server left behind: often a port that is not free (it wants 2380, 2381 and 9092 for itself)."""
    logs = [folder / "log", *sorted((folder / "data" / "logs").glob("milvus-*.log"))]
    return "\n".join(f"{path.name}: {path.read_text(errors='replace')[:2000]}" for path in logs if path.is_file())


def answers(port: int) -> bool:
    """Returns whether the server answers questions yet."""
    try:
        Index.open(f"milvus://127.0.0.1:{port}/nobody")
    except CocoaError as error:
        return error.code == "E_INDEX_FILE"
    raise AssertionError("unreachable")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return embeddings(tmp_path_factory.mktemp("made") / "embeddings", rows(NAMES))


@pytest.fixture(scope="module")
def index(server, made):
    index = Index.build(made, f"milvus://{server}/tests", replace=True)
    yield index
    index.close()


@pytest.fixture
def fresh(server, made):
    index = Index.build(made, f"milvus://{server}/fresh", replace=True)
    yield index
    index.close()


def passing(condition):
    read = parse_filter(condition, COLUMNS)
    return {row["id"] for row in ROWS if matches(read, row)}


def test_it_answers_as_exact_search_does(index, made):
    exact = Index.open(made.folder)
    assert len(index) == len(NAMES)
    assert (index.identity, index.columns, index.model) == (exact.identity, exact.columns, exact.model)
    queries = unit(5, 4)
    for k in (1, 7, 100):
        assert index.search_vectors(queries, k) == exact.search_vectors(queries, k)
    assert index.facets("kind") == exact.facets("kind")
    for one, other in zip(index.get(["r5", "r3"]), exact.get(["r5", "r3"]), strict=True):
        assert (one.id, one.text, one.columns) == (other.id, other.text, other.columns)
        np.testing.assert_array_equal(one.vector, other.vector)
    hits = {"like": ["r1"], "unlike": ["r2"], "k": 9}
    assert index.search_examples(**hits) == exact.search_examples(**hits)


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda text: ascii(text)[:24])
def test_a_hostile_text_is_a_text_like_any_other(index, payload):
    for op in ("=", "!=", "<"):
        condition = {"or": [{"column": "kind", "op": op, "value": payload}, {"column": "id", "op": "=", "value": "r0"}]}
        assert {hit.id for hit in index.search_vectors(unit(1, 1), 60, filter=condition)[0]} == passing(condition)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(filters(contains=False))
def test_random_filters_pass_the_rows_that_the_reference_passes(index, condition):
    assert {hit.id for hit in index.search_vectors(unit(1, 1), 60, filter=condition)[0]} == passing(condition)
    assert index.count(condition) == len(passing(condition))


def test_contains_is_right_or_refused(index):
    condition = {"column": "kind", "op": "contains", "value": 'a "b" \\'}
    try:
        assert index.count(condition) == len(passing(condition))
    except CocoaError as error:
        assert error.code == "E_INDEX_FILTER"
        assert "2.5" in str(error)


def test_rows_are_added_replaced_and_removed_and_none_is_doubled(fresh, made):
    with pytest.raises(CocoaError, match="in the index already"):
        fresh.add(rows(["new", "r1"], 5))
    assert len(fresh) == 60
    fresh.add(rows(["new"], 5))
    for seed in range(4):
        fresh.upsert(rows(["r1", "new", "newer"], seed))
    names = [name for batch in fresh._store.scan(["id"]) for name in batch.column("id").to_pylist()]
    assert len(names) == len(set(names)) == len(fresh) == 62
    [row] = fresh.get(["r1"])
    np.testing.assert_array_equal(row.vector, unit(3, 3)[0])
    assert fresh.delete(["r2", "nobody"]) == 1
    assert fresh.verify().ok
    assert fresh.verify(made).damages == [
        "'r2': not in the index",
        "'r1': another vector in the index",
        "'new': not in the embeddings",
        "'newer': not in the embeddings",
    ]


@pytest.mark.parametrize("moment", ["between the two names", "before the old one is dropped"])
def test_a_replacement_that_is_killed_leaves_the_old_index_or_the_new(server, made, tmp_path, monkeypatch, moment):
    uri = f"milvus://{server}/replaced"
    Index.build(made, uri, replace=True).close()
    fewer = embeddings(tmp_path / "fewer", rows(NAMES[:20]))
    real, calls = MilvusClient.rename_collection, []

    def rename(client, old, new, **how):
        calls.append(new)
        if moment == "between the two names" and len(calls) == 2:
            raise KeyboardInterrupt
        real(client, old, new, **how)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(MilvusClient, "rename_collection", rename)
    with pytest.raises(KeyboardInterrupt):
        Index.build(fewer, uri, replace=True)
    monkeypatch.undo()
    with closing(Index.open(uri)) as found:
        assert found.verify(made if moment == "between the two names" else fewer).ok
    with closing(Index.build(fewer, uri, replace=True)) as found:
        assert found.verify(fewer).ok
        names = found._store._client.list_collections()
    assert [name for name in names if name.startswith("replaced")] == ["replaced"]


class Interrupted:
    """Embeddings between whose two batches something else happens."""

    def __init__(self, source, between):
        self.identity, self.model, self.columns = source.identity, source.model, source.columns
        self._source, self._between = source, between

    def batches(self, size):
        half = len(NAMES) // 2
        for number, batch in enumerate(self._source.batches(half)):
            if number:
                self._between()
            yield batch


@pytest.mark.parametrize("replace", [False, True])
def test_of_two_who_build_under_one_name_neither_gets_rows_of_the_other(server, made, tmp_path, replace):
    uri = f"milvus://{server}/twice"
    Index.build(made, uri, replace=True).close()
    client = MilvusClient(f"http://{server}")
    if not replace:
        client.drop_collection("twice")
    others = embeddings(tmp_path / "others", rows([f"other {number}" for number in range(20)]))
    source = Interrupted(made, lambda: Index.build(others, uri, replace=replace).close())
    if replace:
        Index.build(source, uri, replace=True).close()
    else:
        with pytest.raises(CocoaError) as caught:
            Index.build(source, uri)
        assert caught.value.code == "E_INDEX_EXISTS"
    with closing(Index.open(uri)) as found:
        assert found.verify(made if replace else others).ok
    assert [name for name in client.list_collections() if name.startswith("twice")] == ["twice"]
    client.close()


def test_a_reader_who_comes_between_the_two_names_of_a_replacement_does_not_end_it(server, made, tmp_path, monkeypatch):
    uri = f"milvus://{server}/read"
    Index.build(made, uri, replace=True).close()
    fewer = embeddings(tmp_path / "fewer", rows(NAMES[:20]))
    real, came = MilvusClient.rename_collection, []

    def rename(client, old, new, **how):
        real(client, old, new, **how)
        if not came:
            came.append(new)
            with closing(Index.open(uri)) as found:
                assert len(found) == len(NAMES)

    monkeypatch.setattr(MilvusClient, "rename_collection", rename)
    with closing(Index.build(fewer, uri, replace=True)) as found:
        assert found.verify(fewer).ok


def test_what_a_killed_build_left_is_dropped_a_day_later(server, made):
    client = MilvusClient(f"http://{server}")
    ages = {"old": 25 * 3600, "new": 23 * 3600}
    drafts = {age: f"swept_draft_{int(time.time()) - ages[age]}_0123abcd".ljust(65, "_") for age in ages}
    for name in client.list_collections():
        if name.startswith("swept"):
            client.drop_collection(name)
    for name in (*drafts.values(), "swept_draft"):
        client.create_collection(name, dimension=4)
    Index.build(made, f"milvus://{server}/swept", replace=True).close()
    assert {name for name in client.list_collections() if "swept" in name} == {"swept", "swept_draft", drafts["new"]}
    client.close()


def test_another_model_and_another_length_are_refused(fresh):
    with pytest.raises(CocoaError, match="differ in prompts"):
        fresh.upsert(rows(["x"], prompts="other"))
    with pytest.raises(CocoaError) as caught:
        fresh.search_vectors(unit(1, 1, 9))
    assert caught.value.code == "E_INDEX_VECTOR"


def test_a_name_that_is_taken_is_not_built_over_and_a_foreign_collection_not_opened(fresh, made, server):
    with pytest.raises(CocoaError) as caught:
        Index.build(made, fresh.uri)
    assert caught.value.code == "E_INDEX_EXISTS"
    client = fresh._store._client
    if not client.has_collection("foreign"):
        client.create_collection("foreign", dimension=4)
    with pytest.raises(CocoaError, match="not made by cocoa"):
        Index.open(f"milvus://{server}/foreign")


def test_a_name_that_is_no_index_is_told(server):
    with pytest.raises(CocoaError, match="no index 'nobody'"):
        Index.open(f"milvus://{server}/nobody")
