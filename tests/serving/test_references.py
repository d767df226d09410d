"""Pictures that a request names, by file or URL, come through the whole server; no other is read or asked for."""

from __future__ import annotations

import base64
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import numpy as np
import pytest
from listener import listeners, reply, says
from running import StubForward, data_url, running, stub_app, until

from cocoa.serving.fetching import Fetcher, FetchSettings
from cocoa.serving.settings import QueueBounds, RequestLimits
from picture_files import NOISE, encode

listen = pytest.fixture(name="listen")(listeners)
PICTURE = encode(NOISE, "PNG")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    (folder / "a b.png").write_bytes(PICTURE)
    (folder / "notes.txt").write_text("no picture")
    (folder.parent / "secret.png").write_bytes(PICTURE)
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    return folder


def fetching(here, listener, **changes):
    """Makes every name the listener's machine, and loopback as good as public."""
    settings = {"hosts": ("pictures.example.org",), "allow_http": True, "ports": (listener.port,)} | changes
    here.service.sources.fetcher = Fetcher(
        FetchSettings(**settings), resolve=lambda *_: ["127.0.0.1"], public=lambda _: True
    )


def told(answer):
    """Status and code of a refusal, which says nothing of the machine."""
    for word in ("127.0.0.1", "secret", "Errno", "root", "/tmp", "httpcore"):
        assert word not in answer.text
    return answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["param"]


def test_a_file_inside_a_root_is_embedded_in_every_shape(serve, embedder, root):
    expected = embedder.encode([{"image": root / "a b.png"}])[0]
    with serve(None, roots=(root,)) as here:
        for url in (f"file://{root}/a%20b.png", "file:a%20b.png", f"file:{root}/a b.png"):
            bodies = {
                "/v1/embeddings": {"model": "cocoa", "input": [{"image": url}]},
                "/v2/embed": {"model": "cocoa", "images": [url]},
                "/v1/multimodalembeddings": {
                    "model": "cocoa",
                    "inputs": [{"content": [{"type": "image_url", "image_url": url}]}],
                },
            }
            for path, body in bodies.items():
                answer = here.post(path, body).json()
                vector = answer["embeddings"]["float"][0] if path == "/v2/embed" else answer["data"][0]["embedding"]
                np.testing.assert_allclose(vector, expected, atol=1e-5)


LETTERS = base64.b64encode(PICTURE + b"\0" * (3 - len(PICTURE) % 3 - 1)).decode()  # With padding.


@pytest.mark.parametrize(
    "image",
    [
        f"data:image/png;base64,{LETTERS}",
        f"DATA:image/png;charset=utf-8; BASE64 ,{LETTERS}",
        f"data:;base64,{LETTERS.rstrip('=')}",
        f"data:image/png;base64,{quote(LETTERS, safe='')}",
        f"data:image/png;base64,{LETTERS[:8]}\f\r\n {LETTERS[8:]}",
        LETTERS.rstrip("="),
        LETTERS.replace("+", "-").replace("/", "_"),
    ],
)
def test_a_data_url_is_read_in_every_spelling_that_the_library_reads(image):
    assert LETTERS.endswith("=")
    with running(stub_app()) as here:
        expected = here.embed({"image": data_url(NOISE)})
        np.testing.assert_array_equal(here.embed({"image": image}), expected)


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (f"data:image/png,{LETTERS}", "E_REQUEST_IMAGE"),
        ("data:image/png;base64", "E_REQUEST_IMAGE"),
        ("data:image/png;base64,****", "E_REQUEST_IMAGE"),
        ("****", "E_REQUEST_IMAGE"),
        (f"data:text/html;base64,{LETTERS}", "E_IMAGE_FORMAT"),
    ],
)
def test_a_data_url_that_the_library_refuses_is_refused(image, code):
    with running(stub_app()) as here:
        answer = here.post("/v1/embeddings", {"model": "cocoa", "input": ["a", {"image": image}]})
        assert told(answer) == (422, code, "input[1]")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("gone.png", "E_IMAGE_MISSING"),
        ("../secret.png", "E_IMAGE_MISSING"),
        ("%2e%2e/secret.png", "E_IMAGE_MISSING"),
        ("link.png", "E_IMAGE_MISSING"),
        ("", "E_IMAGE_MISSING"),
        ("notes.txt", "E_IMAGE_OPEN"),
    ],
)
def test_no_other_file_is(root, name, code):
    with running(stub_app(roots=(root,))) as here:
        answer = here.post("/v1/embeddings", {"model": "cocoa", "input": ["a", {"image": f"file:{name}"}]})
        assert told(answer) == (422, code, "input[1]")


def test_files_that_a_request_names_are_held_to_a_limit_together(root):
    limits = RequestLimits(max_request_bytes=3 * len(PICTURE))
    with running(stub_app(roots=(root,), limits=limits)) as here:
        for number, status in ((2, 200), (3, 200), (4, 413)):
            body = {"model": "cocoa", "input": [{"images": ["file:a b.png"] * number}]}
            answer = here.post("/v1/embeddings", body)
            assert answer.status_code == status, answer.text
        assert told(answer)[1:] == ("E_LIMIT_BYTES", "input[0]")
        brought = {"images": [data_url(NOISE)] * 4}
        assert here.post("/v1/embeddings", {"model": "cocoa", "input": [brought]}).status_code == 200
        assert here.service.room.held == 0


def test_files_that_requests_name_take_the_room_of_bodies_until_they_are_embedded(root):
    forward = StubForward()
    forward.go.clear()
    body = {"model": "cocoa", "input": [{"image": "file:a b.png"}]}
    bounds = QueueBounds(max_body_bytes=2 * len(PICTURE))
    with running(stub_app(forward, roots=(root,), queue=bounds)) as here, ThreadPoolExecutor(1) as pool:
        first = pool.submit(here.post, "/v1/embeddings", body)
        until(lambda: len(here.service.engine.passes._inside) == 1)
        assert here.service.room.held == len(PICTURE) + len(json.dumps(body))
        refused = here.post("/v1/embeddings", body)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["code"] == "E_SERVER_BUSY"
        forward.go.set()
        assert first.result().status_code == 200
        assert here.post("/v1/embeddings", body).status_code == 200
        assert here.service.room.held == 0


def test_after_one_that_cannot_be_had_no_other_is_read(root, monkeypatch):
    with running(stub_app(roots=(root,))) as here:
        real, read = here.service.sources.roots.read, []

        def slow(reference, *rest):
            read.append(reference)
            time.sleep(0.05)
            return real(reference, *rest)

        monkeypatch.setattr(here.service.sources.roots, "read", slow)
        body = {"model": "cocoa", "input": [{"images": ["file:gone.png", *["file:a b.png"] * 40]}]}
        assert here.post("/v1/embeddings", body).status_code == 422
        here.post("/v1/embeddings", {"model": "cocoa", "input": [{"image": "file:a b.png"}]})
        assert len(read) < 10


def test_without_roots_and_hosts_nothing_is_read_and_nobody_is_asked(listen, root):
    listener = listen(says(reply(PICTURE)))
    with running(stub_app()) as here:
        for image, code in (
            (f"file:{root}/a b.png", "E_IMAGE_MISSING"),
            (f"http://127.0.0.1:{listener.port}/a.png", "E_REQUEST_IMAGE"),
        ):
            answer = here.post("/v1/embeddings", {"model": "cocoa", "input": [{"image": image}]})
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, code)
    assert listener.num_connections == 0


def test_a_url_is_fetched_and_embedded(serve, embedder, listen):
    listener = listen(says(reply(PICTURE)))
    with serve(None, fetch_hosts=("pictures.example.org",)) as here:
        fetching(here, listener)
        vectors = here.embed({"image": f"http://pictures.example.org:{listener.port}/a.png"}, "a text")
    np.testing.assert_allclose(vectors, embedder.encode([{"image": NOISE}, "a text"]), atol=1e-5)
    assert listener.num_connections == 1


def test_a_host_that_is_allowed_and_turns_out_to_be_this_machine_is_not_asked(listen):
    listener = listen(says(reply(PICTURE)))
    with running(stub_app(fetch_hosts=("localhost",))) as here:
        assert here.service.sources.fetcher._settings.hosts == ("localhost",), "the setting reaches the fetcher"
        here.service.sources.fetcher = Fetcher(
            FetchSettings(hosts=("localhost",), allow_http=True, ports=(listener.port,))
        )
        url = f"http://localhost:{listener.port}/secret.png"
        answer = here.post("/v1/embeddings", {"model": "cocoa", "input": [{"image": url}]})
        assert told(answer) == (422, "E_IMAGE_FETCH", "input[0]")
    assert listener.num_connections == 0


@pytest.mark.parametrize(
    ("whole", "code"),
    [
        (reply(b"", "404 Not Found"), "E_IMAGE_FETCH"),
        (reply(b"<html>secret</html>", kind="text/html"), "E_IMAGE_FORMAT"),
        (reply(b"secret" * 20), "E_IMAGE_FORMAT"),
        (reply(PICTURE[:50]), "E_IMAGE_TRUNCATED"),
        (b"secret", "E_IMAGE_FETCH"),
    ],
    ids=["missing", "html", "text", "cut short", "no HTTP"],
)
def test_what_comes_back_and_is_no_picture_is_told_by_its_code(listen, whole, code):
    listener = listen(says(whole))
    with running(stub_app(fetch_hosts=("pictures.example.org",))) as here:
        fetching(here, listener)
        url = f"http://pictures.example.org:{listener.port}/a.png"
        answer = here.post("/v1/embeddings", {"model": "cocoa", "input": [{"image": url}]})
        assert told(answer) == (422, code, "input[0]")


def test_a_slow_host_is_in_nobody_s_way(listen):
    """One request waits for a host that does not answer; others are answered meanwhile, pictures too."""
    go = threading.Event()

    def wait(connection, _):
        assert go.wait(60)
        connection.sendall(reply(PICTURE))

    listener, answers = listen(wait), []
    with running(stub_app(fetch_hosts=("pictures.example.org",))) as here:
        fetching(here, listener, seconds=60.0)
        url = f"http://pictures.example.org:{listener.port}/a.png"
        body = {"model": "cocoa", "input": [{"image": url}]}
        slow = threading.Thread(target=lambda: answers.append(here.post("/v1/embeddings", body).status_code))
        slow.start()
        while not listener.requests:
            time.sleep(0.005)
        for _ in range(20):
            here.embed("a text", {"image": "data:image/png;base64," + base64.b64encode(PICTURE).decode()})
        assert answers == []
        go.set()
        slow.join()
    assert answers == [200]


def test_a_request_of_many_urls_does_not_keep_another_s_picture_waiting():
    go, slow = threading.Event(), []

    class Fetching:
        def fetch(self, url, where):
            if "slow" in url:
                slow.append(url)
                go.wait(60)
            return PICTURE

    many = {"model": "cocoa", "input": [{"images": [f"https://pictures.example.org/slow-{n}" for n in range(64)]}]}
    with running(stub_app(fetch_hosts=("pictures.example.org",))) as here, ThreadPoolExecutor(1) as pool:
        here.service.sources.fetcher = Fetching()
        first = pool.submit(here.post, "/v1/embeddings", many)
        try:
            until(lambda: len(slow) >= 2)
            here.embed({"image": "https://pictures.example.org/quick"})
            assert len(slow) == 2
        finally:
            go.set()
        assert first.result().status_code == 200
        assert len(slow) == 64
