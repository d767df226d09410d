"""The line before the model: bounded, fair, and no item pays for another."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from running import DecodeHere, StubForward, data_url, of_text, running, stub_app, until

from cocoa.sample import Sample
from cocoa.serving.app import create_app
from cocoa.serving.engine import Engine
from cocoa.serving.forward import Forward
from cocoa.serving.metrics import Metrics
from cocoa.serving.settings import QueueBounds, RequestLimits, ServeSettings


@pytest.fixture
def held():
    """A server whose model waits until it is let go, with room for ten items."""
    forward = StubForward()
    forward.go.clear()
    with running(stub_app(forward, queue=QueueBounds(max_items=10), ready_seconds=0.2)) as here:
        try:
            yield here
        finally:
            forward.go.set()


def waiting(here) -> int:
    return here.service.engine.line.held.items


def later(here, pool, *texts):
    """The answer to texts, in a thread of its own."""
    return pool.submit(here.post, "/v1/embeddings", {"model": "cocoa", "input": list(texts)})


def test_what_comes_while_a_pass_runs_shares_the_next_one(held):
    forward = held.service.engine.forward
    with ThreadPoolExecutor(9) as pool:
        first = later(held, pool, "first")
        until(lambda: len(held.service.engine.passes._inside) == 1)
        others = [later(held, pool, f"text {n}") for n in range(8)]
        until(lambda: waiting(held) == 9)
        forward.go.set()
        assert first.result().status_code == 200
        for n, answer in enumerate(others):
            got = answer.result().json()["data"][0]["embedding"]
            np.testing.assert_array_equal(np.array(got, np.float32), of_text(f"text {n}"))
    assert [len(texts) for texts in forward.passes] == [1, 8]


def test_a_full_line_refuses_at_once_and_says_when_to_come_again(held):
    with ThreadPoolExecutor(10) as pool:
        answers = [later(held, pool, f"text {n}") for n in range(10)]
        until(lambda: waiting(held) == 10)
        seconds = []
        for _ in range(20):
            start = time.perf_counter()
            refused = held.post("/v1/embeddings", {"model": "cocoa", "input": "one more"})
            seconds.append(time.perf_counter() - start)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert refused.json()["error"] | {"message": ""} == {
                "message": "", "type": "rate_limit_error", "code": "E_SERVER_BUSY", "param": None,
            }  # fmt: skip
        # The quickest says what the server takes; the others also what else this machine does.
        assert min(seconds) < 0.05
        assert waiting(held) == 10
        held.service.engine.forward.go.set()
        assert [answer.result().status_code for answer in answers] == [200] * 10
    until(lambda: waiting(held) == 0)
    assert held.metric('cocoa_requests_total{code="E_SERVER_BUSY",route="/v1/embeddings",status="429"}') == 20


@pytest.mark.parametrize(
    ("bound", "fits", "more"),
    [
        ({"max_tokens": 30}, "x" * 60, "x" * 60),
        ({"max_pixels": 3000}, None, None),
    ],
)
def test_the_line_is_bounded_in_tokens_and_pixels_too(bound, fits, more, picture):
    item = fits or {"image": data_url(picture(50, 40))}
    forward = StubForward()
    forward.go.clear()
    with running(stub_app(forward, queue=QueueBounds(**bound))) as here, ThreadPoolExecutor(1) as pool:
        first = later(here, pool, item)
        until(lambda: waiting(here) == 1)
        assert here.post("/v1/embeddings", {"model": "cocoa", "input": [item]}).status_code == 429
        forward.go.set()
        assert first.result().status_code == 200
        # Alone, even what is more than the bound goes through.
        assert here.post("/v1/embeddings", {"model": "cocoa", "input": [item, item, item]}).status_code == 200


def test_bodies_under_way_have_no_more_bytes_than_they_may():
    def body(num_bytes: int) -> bytes:
        asked = b'{"model": "cocoa", "input": "a"}'
        return asked + b" " * (num_bytes - len(asked))

    forward = StubForward()
    forward.go.clear()
    with running(stub_app(forward, queue=QueueBounds(max_body_bytes=1000))) as here, ThreadPoolExecutor(2) as pool:
        first = pool.submit(here.post, "/v1/embeddings", body(600))
        until(lambda: waiting(here) == 1)
        refused = here.post("/v1/embeddings", body(401))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "E_SERVER_BUSY")
        second = pool.submit(here.post, "/v1/embeddings", body(400))
        until(lambda: waiting(here) == 2)
        assert here.post("/v1/embeddings", body(50)).status_code == 429
        forward.go.set()
        assert (first.result().status_code, second.result().status_code) == (200, 200)
        # All is given back, that of the refused ones too.
        assert [here.post("/v1/embeddings", body(n)).status_code for n in (999, 1000, 1001)] == [200, 200, 429]


def test_a_long_request_does_not_hold_up_a_short_one():
    forward = StubForward()
    forward.go.clear()
    bounds = QueueBounds(max_batch_items=4)
    with running(stub_app(forward, queue=bounds)) as here, ThreadPoolExecutor(3) as pool:
        first = later(here, pool, "first")
        until(lambda: len(here.service.engine.passes._inside) == 1)
        long = later(here, pool, *(f"long {n}" for n in range(32)))
        until(lambda: len(here.service.engine.line) == 32)
        short = later(here, pool, "short")
        until(lambda: len(here.service.engine.line) == 33)
        forward.go.set()
        assert {first.result().status_code, long.result().status_code, short.result().status_code} == {200}
        assert "short" in forward.passes[1]
        assert [len(texts) for texts in forward.passes] == [1, *[4] * 8, 1]


def test_a_pass_has_no_more_tokens_than_it_may():
    forward = StubForward()
    with running(stub_app(forward, queue=QueueBounds(max_batch_tokens=40))) as here:
        here.embed(*("x" * n for n in (9, 9, 9, 9, 9, 19, 39, 60)))
        for texts in forward.passes:
            assert len(texts) == 1 or len(texts) * (max(map(len, texts)) + 1) <= 40
        assert max(map(len, forward.passes)) == 4


@pytest.mark.parametrize("how", ["raise", "nan", "long", "zero"])
def test_a_bad_item_fails_alone_and_its_mates_get_the_vectors_of_a_clean_run(held, how):
    forward = held.service.engine.forward
    forward.spoiled = {"bad": how}
    with ThreadPoolExecutor(10) as pool:
        first = later(held, pool, "first")
        until(lambda: len(held.service.engine.passes._inside) == 1)
        answers = {text: later(held, pool, text) for text in (*(f"mate {n}" for n in range(7)), "bad")}
        until(lambda: len(held.service.engine.line) == 8)
        forward.go.set()
        assert first.result().status_code == 200
        assert answers.pop("bad").result().json()["error"]["code"] == "E_SERVER_FAILED"
        for text, answer in answers.items():
            got = answer.result().json()["data"][0]["embedding"]
            np.testing.assert_array_equal(np.array(got, np.float32), of_text(text))
    # Last of all, its mates went through together, as if it had never been there.
    assert len(forward.passes[-1]) == (7 if how == "raise" else 8)
    np.testing.assert_array_equal(held.embed("after"), of_text("after")[None])
    assert held.client.get("/readyz").status_code == 200


def test_with_a_real_model_mates_of_a_bad_item_are_bit_equal_to_a_clean_run(server, monkeypatch):
    engine = server.service.engine
    mates, bad = [f"mate number {n} of a cat" for n in range(9)], "what breaks the kernel, " * 9
    clean = server.embed(*mates)
    real, length = Forward.embed, engine.forward.ready(Sample(bad), None).num_tokens

    def fragile(self, items):
        if any(item.num_tokens == length for item in items):
            raise RuntimeError("out of memory")
        return real(self, items)

    monkeypatch.setattr(Forward, "embed", fragile)
    gate, begun = threading.Event(), threading.Event()
    loop = engine.passes._running.get_loop()
    blocker = asyncio.run_coroutine_threadsafe(engine.compute(lambda: (begun.set(), gate.wait(30))), loop)
    assert begun.wait(30)
    with ThreadPoolExecutor(3) as pool:
        # The model is busy until both stand in line, so that they share a pass.
        opener = later(server, pool, "opener")
        until(lambda: len(engine.passes._inside) == 1)
        good, spoiled = later(server, pool, *mates), later(server, pool, bad)
        until(lambda: len(engine.line) == len(mates) + 1)
        gate.set()
        assert (opener.result().status_code, spoiled.result().status_code) == (200, 500)
        got = [row["embedding"] for row in good.result().json()["data"]]
    blocker.result(30)
    np.testing.assert_array_equal(np.array(got, np.float32), clean)


def test_what_nobody_waits_for_any_more_is_not_computed(held):
    forward = held.service.engine.forward
    with ThreadPoolExecutor(2) as pool:
        first = later(held, pool, "first")
        until(lambda: len(held.service.engine.passes._inside) == 1)
        body = json.dumps({"model": "cocoa", "input": ["gone", "gone too"]}).encode()
        head = "POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", held.port)) as connection:
            connection.sendall(head.encode() + body)
            until(lambda: waiting(held) == 3)
        until(lambda: waiting(held) == 1)
        forward.go.set()
        assert first.result().status_code == 200
        held.embed("after")
    assert forward.passes == [["first"], ["after"]]
    assert held.metric('cocoa_requests_total{code="E_REQUEST_GONE",route="/v1/embeddings",status="499"}') == 1


def test_an_answer_that_would_come_too_late_is_503_and_is_not_computed():
    forward = StubForward()
    forward.go.clear()
    with running(stub_app(forward, deadline_seconds=0.2)) as here, ThreadPoolExecutor(2) as pool:
        first = later(here, pool, "first")
        # The model is busy before the second comes, so that the two cannot share a pass.
        until(lambda: len(here.service.engine.passes._inside) == 1)
        second = later(here, pool, "second")
        for answer in (first.result(), second.result()):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "E_SERVER_DEADLINE")
            assert answer.headers["retry-after"] == "1"
        forward.go.set()
        here.embed("after")
    assert forward.passes == [["first"], ["after"]]


def test_vectors_are_kept_where_that_is_asked_for(picture):
    forward = StubForward()
    with running(stub_app(forward, cache_items=2)) as here:
        one, other = data_url(picture(20, 30, 1)), data_url(picture(20, 30, 2))
        here.embed("a"), here.embed("a", "b"), here.embed("a", input_type="query")
        assert forward.passes == [["a"], ["b"], ["a"]]
        here.embed({"image": one}), here.embed({"image": other}), here.embed({"image": one})
        assert len(forward.passes) == 5
        assert here.metric('cocoa_cache_total{model="cocoa",result="hit"}') == 2


def test_a_vector_of_a_text_cut_short_is_no_answer_to_who_wants_the_whole(embedder):
    settings = ServeSettings(port=0, cache_items=4)
    engine = Engine(Forward(embedder, max_batch_tokens=2048), settings, Metrics(), DecodeHere())
    with running(create_app(settings, engine)) as here:
        body = {"model": "cocoa", "input": "a long text " * 1000}
        for _ in range(2):
            assert here.post("/v1/embeddings", body | {"truncate": True}).status_code == 200
            refused = here.post("/v1/embeddings", body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (422, "E_DATA_TOO_LONG")
        assert here.metric('cocoa_cache_total{model="cocoa",result="hit"}') == 1


def test_readiness_is_a_real_pass(held):
    forward = held.service.engine.forward
    # Held up: nothing comes back in time.
    assert held.client.get("/readyz").status_code == 503
    assert held.client.get("/livez").status_code == 200
    assert held.metric("cocoa_ready") == 0
    forward.go.set()
    until(lambda: held.client.get("/readyz").status_code == 200)
    forward.spoiled = {"ready?": "nan"}
    until(lambda: held.client.get("/readyz").status_code == 503)
    forward.spoiled = {}
    until(lambda: held.client.get("/readyz").status_code == 200)
    assert held.metric("cocoa_ready") == 1
    passes = len(forward.passes)
    for _ in range(50):
        held.client.get("/readyz")
    # Who asks often does not make work.
    assert len(forward.passes) - passes < 25


def test_limits_of_a_request_are_the_line_s_own():
    assert RequestLimits().max_items <= QueueBounds().max_items
    assert RequestLimits().max_request_pixels <= QueueBounds().max_pixels
