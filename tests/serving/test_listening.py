"""Where a server listens is known before its model is loaded, and there is room for the connections that it takes."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import textwrap
import threading

import httpx2
import pytest
from running import stub_app, until

from cocoa.errors import UsageError
from cocoa.serving import server
from cocoa.serving.keys import ENVIRONMENT
from cocoa.serving.listening import bound
from cocoa.serving.server import serve
from cocoa.serving.settings import ServeSettings


@pytest.fixture(autouse=True)
def _no_model(monkeypatch):
    def fail(*_):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(server, "open_app", fail)
    monkeypatch.setenv(ENVIRONMENT, "a key")


def refusal(host, port):
    with pytest.raises(UsageError) as caught:
        serve([("model", None)], ServeSettings(host=host, port=port))
    return caught.value


def test_a_port_that_is_taken_is_told_before_a_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = refusal("127.0.0.1", port)
    assert (error.code, error.exit_code) == ("E_USAGE_ADDRESS", 2)
    assert str(port) in error.message


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", "a" * 70])
def test_an_address_that_is_not_of_this_machine_is_told_before_a_model_is_loaded(host):
    error = refusal(host, 0)
    assert error.code == "E_USAGE_ADDRESS"
    assert host in error.message


def test_every_address_of_a_host_is_listened_to(monkeypatch):
    addresses = ["127.0.0.1", "127.0.0.2"]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in [*addresses, addresses[0]]]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with bound("both", 0) as sockets:
        assert [one.getsockname()[0] for one in sockets] == addresses


def test_a_kind_of_address_that_this_machine_has_not_is_left_out(monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("192.0.2.1", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with bound("both", 0) as sockets:
        assert [one.getsockname()[0] for one in sockets] == ["127.0.0.1"]


def test_a_server_answers_on_what_it_has_bound_and_says_where(monkeypatch, capsys):
    started = []

    def opened(*_):
        app = stub_app()
        started.append(app.state.service)
        return app

    def run(one, sockets):
        started.append((one, sockets[0].getsockname()[1]))
        one.run(sockets)

    monkeypatch.setattr(server, "open_app", opened)
    monkeypatch.setattr(server, "run", run)
    monkeypatch.delenv(ENVIRONMENT)
    thread = threading.Thread(target=serve, args=([("model", None)], ServeSettings(port=0)))
    thread.start()
    until(lambda: len(started) == 2 and started[1][0].started)
    draining, port = started[1]
    try:
        assert httpx2.get(f"http://127.0.0.1:{port}/livez", trust_env=False).status_code == 200
    finally:
        draining.should_exit = True
        thread.join(30)
    assert f"http://127.0.0.1:{port}" in capsys.readouterr().err


def test_as_many_files_may_be_open_as_connections_want():
    program = """
        import resource
        from cocoa.serving.listening import allow_connections
        hard = {hard}
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
        allow_connections(300)
        print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        allow_connections(10)
        print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    """
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for hard, allowed in ((most, 556), (400, 400)):
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program.format(hard=hard))], capture_output=True, text=True
        )
        assert run.stdout.split() == [str(allowed)] * 2, run.stderr
        assert ("allows 400 open files" in run.stderr) == (hard == 400)


def test_of_two_that_begin_at_once_the_second_to_listen_says_that_the_port_is_taken(monkeypatch):
    """Both may be bound while neither listens."""
    monkeypatch.delenv(ENVIRONMENT)
    with bound("127.0.0.1", 0) as [held]:
        port = held.getsockname()[1]

        def opened(*_):
            held.listen()
            return stub_app()

        monkeypatch.setattr(server, "open_app", opened)
        error = refusal("127.0.0.1", port)
    assert (error.code, error.exit_code) == ("E_USAGE_ADDRESS", 2)
    assert str(port) in error.message
