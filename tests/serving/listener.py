"""A server on a loopback address that says what a test wants, byte by byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from cocoa.errors import ImageError


class Listener:
    """A server on a loopback address that gives every connection to `answer`, and keeps what was asked."""

    def __init__(self, answer: Callable[[socket.socket, str], None], address: str = "127.0.0.1", port: int = 0) -> None:
        self._answer = answer
        self.requests: list[str] = []
        self.num_connections = 0
        self._server = socket.create_server((address, port))
        self.port: int = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.num_connections += 1
            with connection:
                connection.settimeout(10)
                try:
                    request = connection.recv(65536).decode("latin-1")
                    self.requests.append(request)
                    self._answer(connection, request)
                except OSError:
                    continue  # The client went away, as it is meant to.

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()


def reply(body: bytes, status: str = "200 OK", kind: str = "image/png", **headers: str) -> bytes:
    """Returns an HTTP answer; a header that is empty is left out."""
    lines = {"Content_Type": kind, "Content_Length": str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items() if value)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body


def says(whole: bytes) -> Callable[[socket.socket, str], None]:
    """Returns what gives the same answer to everybody."""
    return lambda connection, _: connection.sendall(whole)


def code_of(call: Callable[[], object]) -> str:
    """Returns the code that a call is refused with, whose message says nothing of the network."""
    with pytest.raises(ImageError) as caught:
        call()
    for word in ("127.0.0.1", "secret", "Errno", "httpcore", "0x"):
        assert word not in str(caught.value)
    return caught.value.code


def listeners() -> Iterator[Callable[..., Listener]]:
    """A fixture that starts listeners, `listen(answer)`, and ends them after the test."""
    started: list[Listener] = []

    def start(answer: Callable[[socket.socket, str], None], *, address: str = "127.0.0.1", port: int = 0) -> Listener:
        started.append(Listener(answer, address, port))
        return started[-1]

    yield start
    for listener in started:
        listener.close()
