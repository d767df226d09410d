"""Searches, documents and the index itself under load: bounded, in time, for those who wait, and in nobody's way."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from running import data_url, running, stub_app, until

from cocoa.serving.documents import document_key
from cocoa.serving.settings import QueueBounds


class HeldIndex:
    """An index that waits until it is let go, and notes what it was asked."""

    def __init__(self) -> None:
        self.columns = {"ground": "string"}
        self.go = threading.Event()
        self.asked: list[str] = []
        self.error: Exception | None = None

    def answer(self, what: str) -> None:
        self.asked.append(what)
        assert self.go.wait(60)
        if self.error is not None:
            raise self.error

    def get(self, ids):
        self.answer("get")
        return [SimpleNamespace(id=name, text="", image="", vector=np.ones(8, np.float32) / 8**0.5) for name in ids]

    def search_vectors(self, vectors, k, *, filter=None):  # noqa: A002
        self.answer("search")
        return [[] for _ in vectors]

    def count(self):
        self.answer("count")
        return len(self.asked)

    def facets(self, name, number):
        return {}


@pytest.fixture
def index():
    held = HeldIndex()
    yield held
    held.go.set()


LIKE = ("POST", "/v1/search", {"like": ["a"]})
WAYS = {
    "search": LIKE,
    "picture": ("GET", f"/v1/documents/{document_key('a')}/image", None),
    "explain": ("POST", "/v1/explain", {"like": ["a"], "id": "a"}),
}


def ask(here, method, path, body):
    return here.post(path, body) if method == "POST" else here.client.get(path)


@pytest.mark.parametrize("way", WAYS)
def test_one_more_than_there_may_be_is_told_to_come_again(index, way):
    with running(stub_app(index=index, queue=QueueBounds(max_searches=3))) as here, ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(ask, here, *LIKE) for _ in range(3)]
        until(lambda: here.service.searches.inside == 3)
        refused = ask(here, *WAYS[way])
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        index.go.set()
        assert [answer.result().status_code for answer in answers] == [200] * 3
        assert ask(here, *WAYS[way]).status_code != 429


@pytest.mark.parametrize("way", WAYS)
def test_what_would_come_too_late_is_503(index, way):
    with running(stub_app(index=index, deadline_seconds=0.3)) as here:
        answer = ask(here, *WAYS[way])
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "E_SERVER_DEADLINE")
        assert here.service.searches.inside == 0


@pytest.mark.parametrize("way", WAYS)
def test_what_nobody_waits_for_any_more_is_not_looked_for(index, way):
    method, path, body = WAYS[way]
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(content)}\r\n\r\n"
    with running(stub_app(index=index)) as here:
        first = [socket.create_connection(("127.0.0.1", here.port), timeout=20) for _ in range(4)]
        for connection in first:
            connection.sendall(head.encode() + content)
        until(lambda: here.service.searches.inside == 4)
        until(lambda: len(index.asked) == 2)
        for connection in first:
            connection.close()
        until(lambda: here.service.searches.inside == 0)
        index.go.set()
        assert ask(here, *LIKE).status_code == 200
    # The two that had been begun, and the last one's own.
    assert index.asked == ["get", "get", "get", "search"]


def test_embeddings_do_not_wait_for_searches(index, picture):
    with running(stub_app(index=index)) as here, ThreadPoolExecutor(4) as pool:
        searches = [pool.submit(ask, here, *LIKE) for _ in range(4)]
        until(lambda: here.service.searches.inside == 4)
        here.embed("a long text " * 1000, {"image": data_url(picture(30, 20))})
        index.go.set()
        assert [search.result().status_code for search in searches] == [200] * 4


def test_readiness_goes_ahead_of_searches_that_wait(index):
    with running(stub_app(index=index)) as here, ThreadPoolExecutor(9) as pool:
        searches = [pool.submit(ask, here, *LIKE) for _ in range(8)]
        until(lambda: here.service.searches.inside == 8 and len(index.asked) == 2)
        probe = pool.submit(here.client.get, "/readyz")
        until(lambda: len(here.service._looking._waiting) == 7)
        index.go.set()
        assert probe.result().status_code == 200
        assert [search.result().status_code for search in searches] == [200] * 8
    assert "search" in index.asked[2:4]


def test_all_who_ask_for_the_index_at_once_share_one_look(index):
    with running(stub_app(index=index)) as here, ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(here.client.get, "/v1/index") for _ in range(6)]
        until(lambda: here.service.num_under_way == 6)
        index.go.set()
        assert [answer.result().json()["count"] for answer in answers] == [1] * 6
        assert index.asked.count("count") == 1


def test_while_the_index_is_looked_at_anew_the_old_look_is_told(index):
    index.go.set()
    with running(stub_app(index=index)) as here:
        assert here.client.get("/v1/index").json()["count"] == 1
        [catalogue] = here.server.config.app.state.catalogues.values()
        index.go.clear()
        catalogue._until = 0.0
        assert [here.client.get("/v1/index").json()["count"] for _ in range(3)] == [1] * 3
        asked = len(index.asked)
        index.go.set()
        until(lambda: here.client.get("/v1/index").json()["count"] == asked)


def test_an_index_that_cannot_be_looked_at_any_more_is_told(index):
    index.go.set()
    with running(stub_app(index=index)) as here:
        assert here.client.get("/v1/index").status_code == 200
        [catalogue] = here.server.config.app.state.catalogues.values()
        catalogue._until, index.error = 0.0, OSError("block 7")
        until(lambda: here.client.get("/v1/index").status_code == 500)
        index.error = None
        assert here.client.get("/v1/index").status_code == 200
