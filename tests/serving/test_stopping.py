"""A server that is told to stop answers what it began, and then it is gone; told twice, it is gone at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx2
import psutil
import pytest
from apart import ask, num_under_way, starts
from PIL import Image
from running import StubForward, data_url, running, stub_app, until

from cocoa.serving.keys import ApiKeys
from cocoa.serving.server import DrainingServer

start = pytest.fixture(name="start")(starts)
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


def test_sigterm_answers_what_was_begun_and_exits_0(start):
    process, url = start(seconds=2.0, drain=30)
    with ThreadPoolExecutor(50) as pool:
        answers = [pool.submit(ask, url, f"text {n}") for n in range(50)]
        # One is in a pass, all others stand in line behind it.
        until(lambda: num_under_way(url) == 50)
        process.send_signal(signal.SIGTERM)
        assert [answer.result() for answer in answers] == [200] * 50
    assert process.wait(20) == 0
    with pytest.raises(httpx2.ConnectError):
        ask(url, "after")


def test_a_pass_that_hangs_is_not_waited_for_longer_than_it_was_said(start):
    process, url = start(seconds=10_000, drain=0.5)
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(ask, url, "held up"), pool.submit(ask, url, "behind it")]
        until(lambda: num_under_way(url) == 2)
        process.send_signal(signal.SIGTERM)
        assert [answer.result() for answer in answers] == [503, 503]
    assert process.wait(20) == 1
    assert not [child for child in psutil.Process().children() if child.pid == process.pid and child.is_running()]


def test_a_picture_that_is_still_being_decoded_is_not_waited_for_either():
    async def never(*_, **__):
        await asyncio.Event().wait()

    with running(stub_app(drain_seconds=0.1)) as here, ThreadPoolExecutor(1) as pool:
        here.service.engine._decoder.adecode = never
        body = {"model": "cocoa", "input": [{"image": data_url(Image.new("RGB", (8, 8)))}]}
        answer = pool.submit(here.post, "/v1/embeddings", body)
        until(lambda: here.service.engine.line.held.items == 1)
        here.server.handle_exit(signal.SIGTERM, None)
        told = answer.result()
    assert (told.status_code, told.headers["retry-after"]) == (503, "5")
    assert told.json()["error"]["code"] == "E_SERVER_STOPPING"


def test_a_second_signal_ends_it_at_once(start):
    process, url = start(seconds=10_000, drain=10_000)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, url, "held up")
        until(lambda: num_under_way(url) == 1)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 1
        assert isinstance(answer.exception(), httpx2.HTTPError)


def test_while_it_drains_it_is_not_ready_and_takes_nothing_new():
    body = b'{"model":"cocoa","input":"a"}'
    with running(stub_app()) as here, socket.create_connection(("127.0.0.1", here.port), timeout=20) as begun:
        # The model would answer at once; what keeps the server is a body that is still on its way.
        begun.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body[:-1])
        until(lambda: here.service.num_under_way == 1)
        assert here.client.get("/readyz").status_code == 200
        here.server.handle_exit(signal.SIGTERM, None)
        refused = here.post("/v1/embeddings", {"model": "cocoa", "input": "b"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert refused.json()["error"]["code"] == "E_SERVER_STOPPING"
        assert here.client.get("/readyz").status_code == 503
        assert here.client.get("/livez").status_code == 200
        begun.sendall(body[-1:])
        assert begun.recv(4096)[9:12] == b"200"


def test_a_head_that_does_not_end_and_a_body_that_does_not_come_are_given_up():
    with running(stub_app(header_seconds=0.3, limits={"max_body_seconds": 0.3})) as here:
        for start in (b"", b"POST /v1/embed", b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /li"):
            with socket.create_connection(("127.0.0.1", here.port), timeout=20) as slow:
                slow.sendall(start)
                while slow.recv(4096):
                    pass
        with socket.create_connection(("127.0.0.1", here.port), timeout=20) as slow:
            slow.sendall(HEAD + b"Content-Length: 9\r\n\r\n{")
            assert b"408" in slow.recv(4096)[:20]
        here.embed("an honest client")


@pytest.mark.parametrize(
    ("refused", "status"),
    [
        (HEAD + b"Content-Length: 1000000\r\n\r\n", b"401"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"401"),
        (HEAD + b"Authorization: Bearer right\r\nContent-Length: 100000000\r\n\r\n", b"413"),
        (HEAD + b"Authorization: Bearer right\r\nContent-Length: 1000000\r\n\r\n", b"408"),
        (b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n", b"200"),
    ],
)
def test_a_body_that_still_comes_after_its_answer_does_not_keep_the_connection(refused, status):
    limits = {"max_body_seconds": 0.3}
    with ExitStack() as stack:
        here = stack.enter_context(running(stub_app(keys=ApiKeys.of("right"), header_seconds=0.3, limits=limits)))
        client = stack.enter_context(socket.create_connection(("127.0.0.1", here.port), timeout=20))
        client.sendall(refused)
        assert client.recv(4096)[9:12] == status
        connections = here.server.server_state.connections
        end = time.monotonic() + 20
        while connections:
            assert time.monotonic() < end, "the connection is kept"
            with contextlib.suppress(OSError):
                client.sendall(b"1")
            time.sleep(0.05)


def test_a_connection_whose_body_came_after_its_answer_goes_on_and_is_closed_when_idle():
    with running(stub_app(keys=ApiKeys.of("right"), header_seconds=0.5)) as here:
        here.server.config.timeout_keep_alive = 1
        with socket.create_connection(("127.0.0.1", here.port), timeout=20) as client:
            for start, status in (
                (HEAD, b"401"),
                (b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"200"),
            ):
                client.sendall(start + b"Content-Length: 9\r\n\r\n")
                answer = b""
                while not answer.endswith(b"}"):
                    answer += client.recv(4096)
                assert answer[9:12] == status
                client.sendall(b"x" * 9)
                time.sleep(0.7)
            assert client.recv(4096) == b""


def test_a_client_that_does_not_read_its_answer_is_let_go():
    with running(stub_app(StubForward(1536), deadline_seconds=2)) as here:
        here.server.config.timeout_keep_alive = 1
        connections = here.server.server_state.connections
        texts = [f"text {n}" for n in range(256)]
        body = json.dumps({"model": "cocoa", "input": texts}).encode()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", here.port))
            # The second waits for the first to be read.
            client.sendall((HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body) * 2)
            until(lambda: connections)
            until(lambda: not connections, 20)
        assert here.service.num_under_way == 0
        here.embed("an honest client")


def test_hundreds_of_slow_clients_do_not_keep_out_an_honest_one():
    with running(stub_app(header_seconds=5.0)) as here:
        slow = [socket.create_connection(("127.0.0.1", here.port), timeout=20) for _ in range(200)]
        for connection in slow:
            connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: ")
        connections = here.server.server_state.connections
        until(lambda: len(connections) >= 200)
        here.embed("a"), here.embed("b")
        for connection in slow:
            connection.close()
        until(lambda: len(connections) <= 2)


@pytest.mark.parametrize("others", [1, 2, 3])
def test_one_connection_more_than_there_may_be_is_closed_with_503(others):
    with running(stub_app(max_connections=3)) as here, ExitStack() as idle:
        connections = here.server.server_state.connections
        for _ in range(others):
            idle.enter_context(socket.create_connection(("127.0.0.1", here.port), timeout=20))
        until(lambda: len(connections) == others)
        with socket.create_connection(("127.0.0.1", here.port), timeout=20) as last:
            last.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert last.recv(4096)[9:12] == (b"200" if others < 3 else b"503")
            if others == 3:
                while last.recv(4096):
                    pass


def test_an_idle_connection_is_kept_longer_than_clients_and_proxies_keep_it():
    """Otherwise a request can meet a connection that is just being closed: then it is lost, and nobody is at fault."""
    assert DrainingServer(stub_app()).config.timeout_keep_alive > 60
