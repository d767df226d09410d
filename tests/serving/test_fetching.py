"""Fetching goes to public addresses of allowed hosts only; a listener on this machine hears nothing."""

from __future__ import annotations

import gzip
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from listener import Listener, code_of, listeners, reply, says

from cocoa.images import ImageLimits
from cocoa.serving.fetching import Fetcher, FetchSettings
from picture_files import NOISE, encode

listen = pytest.fixture(name="listen")(listeners)
PICTURE = encode(NOISE, "PNG")


def fetcher(listener: Listener, **settings: object) -> Fetcher:
    """A fetcher to whom every name is the listener's machine, and loopback as good as public."""
    allowed = {"hosts": ("*",), "allow_http": True, "ports": (listener.port,), **settings}
    return Fetcher(FetchSettings(**allowed), resolve=lambda *_: ["127.0.0.1"], public=lambda _: True)  # type: ignore[arg-type]


def test_a_data_url_of_50_megabytes_costs_nothing() -> None:
    fetches = Fetcher(FetchSettings(hosts=("*",)))
    url = "data:image/png;base64," + "A" * 50_000_000
    tracemalloc.start()
    assert code_of(lambda: fetches.fetch(url)) == "E_IMAGE_URL"
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_nothing_is_fetched_unless_it_is_allowed(listen: Callable[..., Listener]) -> None:
    listener = listen(says(reply(PICTURE)))
    url = f"http://images.example.org:{listener.port}/a.png"
    for settings in (
        {"hosts": ()},
        {"hosts": ("example.org", "other.org", "mages.example.org", ".images.example.org")},
        {"allow_http": False},
        {"ports": (80, 443)},
    ):
        assert code_of(lambda settings=settings: fetcher(listener, **settings).fetch(url)) == "E_IMAGE_URL"
    assert listener.num_connections == 0
    assert code_of(lambda: Fetcher(FetchSettings()).fetch("https://example.org/a.png")) == "E_IMAGE_URL"
    for hosts in (("images.example.org",), ("Images.Example.ORG",), (".example.org",), (".Example.org",), ("*",)):
        assert fetcher(listener, hosts=hosts).fetch(url) == PICTURE


def test_where_one_address_of_a_host_does_not_answer_another_is_asked(
    listen: Callable[..., Listener],
) -> None:
    listener = listen(says(reply(PICTURE)))
    settings = FetchSettings(hosts=("*",), allow_http=True, ports=(listener.port,), seconds=2)
    url = f"http://images.example.org:{listener.port}/a.png"
    with socket.create_server(("127.0.0.3", listener.port), backlog=0) as deaf, socket.socket() as only:
        only.connect(deaf.getsockname())  # Whoever comes after this one is not let in, and not refused.
        # The first refuses, the second does not say anything.
        addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.1"]
        fetches = Fetcher(settings, resolve=lambda *_: addresses, public=lambda _: True)
        assert fetches.fetch(url) == PICTURE
        assert listener.num_connections == 1
        one_is_private = Fetcher(settings, resolve=lambda *_: addresses, public=lambda address: address != "127.0.0.3")
        assert code_of(lambda: one_is_private.fetch(url)) == "E_IMAGE_FETCH"
        assert listener.num_connections == 1
        del addresses[2:]
        assert code_of(lambda: fetches.fetch(url)) == "E_IMAGE_TIMEOUT"


def test_a_request_says_little(listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch) -> None:
    listener = listen(says(reply(PICTURE)))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    fetcher(listener).fetch(f"HTTP://Images.Example.org:{listener.port}/a%20b.png?size=1#part")
    (request,) = listener.requests
    lines = request.lower().split("\r\n")
    assert lines[0] == "get /a%20b.png?size=1 http/1.1"
    assert f"host: images.example.org:{listener.port}" in lines
    assert "accept-encoding: identity" in lines
    assert not any(line.startswith(("cookie", "authorization", "referer")) for line in lines)


def test_a_name_that_changes_its_address_is_looked_up_once(listen: Callable[..., Listener]) -> None:
    """Rebinding: the first answer passes the check, the second is this machine."""
    secret = listen(says(reply(PICTURE)), address="127.0.0.1")
    good = listen(says(reply(PICTURE)), address="127.0.0.2", port=secret.port)
    answers = iter([["127.0.0.2"], ["127.0.0.1"]])
    settings = FetchSettings(hosts=("*",), allow_http=True, ports=(secret.port,))
    fetches = Fetcher(settings, resolve=lambda *_: next(answers), public=lambda address: address == "127.0.0.2")
    url = f"http://rebinding.example.org:{secret.port}/"
    assert fetches.fetch(url) == PICTURE
    assert code_of(lambda: fetches.fetch(url)) == "E_IMAGE_FETCH"
    assert (good.num_connections, secret.num_connections) == (1, 0)


def test_redirects_are_followed_and_judged(listen: Callable[..., Listener]) -> None:
    def answer(connection: socket.socket, request: str) -> None:
        path = request.split()[1]
        step = int(path.strip("/")) if path.strip("/").isdecimal() else 0
        if step:
            connection.sendall(reply(b"", "302 Found", Location=f"/{step - 1}"))
        elif path == "/0":
            connection.sendall(reply(PICTURE))
        else:
            connection.sendall(reply(b"", "301 Moved", Location=path[1:]))

    listener = listen(answer)
    fetches = fetcher(listener, hosts=("images.example.org",))
    base = f"http://images.example.org:{listener.port}"
    assert [fetches.fetch(f"{base}/{step}") == PICTURE for step in (0, 1, 3)] == [True] * 3
    assert code_of(lambda: fetches.fetch(f"{base}/4")) == "E_IMAGE_URL"
    before = listener.num_connections
    for place in (
        "http://other.org/a.png",
        "file:///etc/passwd",
        "//other.org/",
        "http://[::1",
        "ftp://images.example.org/",
    ):
        assert code_of(lambda place=place: fetches.fetch(f"{base}/{place}")) == "E_IMAGE_URL"
    assert listener.num_connections == before + 5


def test_a_redirect_to_this_machine_is_not_followed(listen: Callable[..., Listener]) -> None:
    secret = listen(says(reply(PICTURE)), address="127.0.0.1")
    outside = listen(
        says(reply(b"", "302 Found", Location=f"http://127.0.0.1:{secret.port}/")),
        address="127.0.0.2",
        port=secret.port,
    )
    settings = FetchSettings(hosts=("*",), allow_http=True, ports=(secret.port,))
    fetches = Fetcher(settings, resolve=lambda host, _: [host], public=lambda address: address == "127.0.0.2")
    assert code_of(lambda: fetches.fetch(f"http://127.0.0.2:{secret.port}/")) == "E_IMAGE_FETCH"
    assert (outside.num_connections, secret.num_connections) == (1, 0)


ANSWERS: dict[str, tuple[bytes, str]] = {
    "html": (reply(b"<html>secret</html>", kind="text/html"), "E_IMAGE_FORMAT"),
    "html-that-says-image": (reply(b"<html>secret" + bytes(100)), "E_IMAGE_FORMAT"),
    "svg": (reply(b"<svg/>" + bytes(100), kind="image/svg+xml"), "E_IMAGE_FORMAT"),
    "empty": (reply(b""), "E_IMAGE_FORMAT"),
    "packed": (reply(gzip.compress(bytes(10_000_000)), Content_Encoding="gzip"), "E_IMAGE_FORMAT"),
    "not-found": (reply(PICTURE, "404 Not Found"), "E_IMAGE_FETCH"),
    "no-content": (reply(b"", "204 No Content"), "E_IMAGE_FETCH"),
    "part": (reply(PICTURE, "206 Partial Content"), "E_IMAGE_FETCH"),
    "redirect-without-place": (reply(b"", "302 Found"), "E_IMAGE_FETCH"),
    "no-http": (b"220 secret mail server\r\n", "E_IMAGE_FETCH"),
    "nothing": (b"", "E_IMAGE_FETCH"),
    "cut-short": (reply(PICTURE, Content_Length="100000"), "E_IMAGE_FETCH"),
    "endless-header": (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000_000, "E_IMAGE_FETCH"),
    "declared-too-large": (reply(PICTURE, Content_Length="9999999999999"), "E_IMAGE_TOO_LARGE"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_bad_answers_have_their_codes(listen: Callable[..., Listener], case: str) -> None:
    whole, code = ANSWERS[case]
    listener = listen(says(whole))
    assert code_of(lambda: fetcher(listener).fetch(f"http://example.org:{listener.port}/")) == code


@pytest.mark.parametrize("declared", [True, False])
def test_the_limit_of_bytes_holds_at_the_edge(listen: Callable[..., Listener], declared: bool) -> None:
    limits = ImageLimits(max_bytes=100_000)

    def answer(connection: socket.socket, request: str) -> None:
        body = PICTURE.ljust(int(request.split()[1][1:]), b"\0")
        connection.sendall(reply(body, **({} if declared else {"Content_Length": "", "Connection": "close"})))

    listener = listen(answer)
    fetches = fetcher(listener, limits=limits)
    for size in (99_999, 100_000):
        assert len(fetches.fetch(f"http://example.org:{listener.port}/{size}")) == size
    assert code_of(lambda: fetches.fetch(f"http://example.org:{listener.port}/100001")) == "E_IMAGE_TOO_LARGE"


def test_20_megabytes_are_the_limit_unless_told() -> None:
    assert FetchSettings().limits.max_bytes == 20_000_000
    assert (FetchSettings().seconds, FetchSettings().max_redirects, FetchSettings().hosts) == (10.0, 3, ())


def test_an_endless_body_ends_at_the_limit(listen: Callable[..., Listener]) -> None:
    def answer(connection: socket.socket, request: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = PICTURE
        while True:
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))

    listener = listen(answer)
    fetches = fetcher(listener, limits=ImageLimits(max_bytes=1_000_000))
    assert code_of(lambda: fetches.fetch(f"http://example.org:{listener.port}/")) == "E_IMAGE_TOO_LARGE"


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_slow_drip_ends_with_the_time(listen: Callable[..., Listener], part: str) -> None:
    def answer(connection: socket.socket, request: str) -> None:
        whole = reply(PICTURE)
        start = whole.index(b"\r\n\r\n") + 4 if part == "body" else 0
        connection.sendall(whole[:start])
        for byte in whole[start:]:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)

    listener = listen(answer)
    start = time.monotonic()
    fetches = fetcher(listener, seconds=0.5)
    assert code_of(lambda: fetches.fetch(f"http://example.org:{listener.port}/")) == "E_IMAGE_TIMEOUT"
    assert time.monotonic() - start < 10.0


def test_a_name_that_is_never_found_ends_with_the_time() -> None:
    settings = FetchSettings(hosts=("*",), seconds=0.2)
    stop = threading.Event()
    fetches = Fetcher(settings, resolve=lambda *_: [str(stop.wait(20))])
    assert code_of(lambda: fetches.fetch("https://example.org/a.png")) == "E_IMAGE_TIMEOUT"
    stop.set()


def test_https_asks_for_the_name_and_checks_it(listen: Callable[..., Listener], tmp_path: Path) -> None:
    try:
        request = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=images.example.org"
        more = "-addext subjectAltName=DNS:images.example.org -keyout key.pem -out certificate.pem"
        command = ["openssl", *request.split(), *more.split()]
        made = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("openssl is not here to make a certificate")
    assert made.returncode == 0
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]

    def run() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                try:
                    with context.wrap_socket(connection, server_side=True) as wrapped:
                        wrapped.recv(65536)
                        wrapped.sendall(reply(PICTURE))
                except OSError:
                    continue

    thread = threading.Thread(target=run)
    thread.start()
    try:
        trusting = ssl.create_default_context(cafile=str(tmp_path / "certificate.pem"))
        settings = FetchSettings(hosts=("*",), ports=(port,))
        options = {"resolve": lambda *_: ["127.0.0.1"], "public": lambda _: True}
        assert Fetcher(settings, tls=trusting, **options).fetch(f"https://images.example.org:{port}/") == PICTURE
        assert names == ["images.example.org"]
        for host, tls in (("other.example.org", trusting), ("images.example.org", None)):
            strict = Fetcher(settings, tls=tls, **options)
            assert code_of(lambda host=host, strict=strict: strict.fetch(f"https://{host}:{port}/")) == "E_IMAGE_FETCH"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()
