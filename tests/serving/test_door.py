"""Nothing but the two probes answers without a key, whatever a request looks like; no answer tells of the inside."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import re
import socket

import pytest
from fastapi.routing import iter_route_contexts
from running import running, stub_app

from cocoa.errors import IndexingError, UsageError
from cocoa.serving import server
from cocoa.serving.door import PROBES, Door
from cocoa.serving.keys import ENVIRONMENT, ApiKey, ApiKeys
from cocoa.serving.logs import log
from cocoa.serving.server import check_reach, serve
from cocoa.serving.settings import ServeSettings

KEY = "right-" + "k" * 40
ROUTES = [
    (method, re.sub(r"\{[^}]*\}", "x", route.path))
    for route in iter_route_contexts(stub_app().routes)
    for method in sorted(route.methods or ())
]


def known(name: str, scope: str, plain: str) -> ApiKey:
    return ApiKey(name, frozenset({scope}), hashlib.sha256(plain.encode()).digest())


@pytest.fixture(scope="module")
def locked():
    """A server with a key for everything, one that may embed and one that may search."""
    keys = [known("all", "admin", KEY), known("one", "embed", "embed-only"), known("two", "search", "search-only")]
    with running(stub_app(keys=ApiKeys(keys))) as here:
        yield here


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=lambda part: str(part))
def test_every_route_wants_the_right_key(locked, method, path):
    wrong = [{}, bearer("wrong"), bearer(KEY + "x"), bearer(KEY[:-1]), {"authorization": KEY}]
    wrong += [{"authorization": "Basic " + base64.b64encode(b"x:wrong").decode()}, {"authorization": "Basic %%"}]
    for headers in wrong:
        status = locked.client.request(method, path, headers=headers).status_code
        assert status == (200 if path in PROBES else 401)
    basic = {"authorization": "Basic " + base64.b64encode(f"me:{KEY}".encode()).decode()}
    for headers in (bearer(KEY), basic):
        assert locked.client.request(method, path, headers=headers).status_code not in (401, 403)


def test_every_route_but_the_probes_wants_a_scope(locked):
    opened = {"embed-only": set(), "search-only": set(), KEY: set()}
    for key, paths in opened.items():
        for method, path in ROUTES:
            if locked.client.request(method, path, headers=bearer(key)).status_code != 403:
                paths.add(path)
    everything = {path for _, path in ROUTES}
    assert opened[KEY] == everything
    embeds = {"/v1/embeddings", "/v2/embed", "/v1/multimodalembeddings", "/docs"}
    shared = {"/v1/models", "/v1/models/x", "/openapi.json", *PROBES}
    assert opened["embed-only"] == embeds | shared
    assert opened["search-only"] == everything - embeds - {"/metrics"}
    assert "/v1/search" in opened["search-only"]


def exchange(port: int, raw: bytes) -> bytes:
    """What comes back for bytes, sent as they are."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(raw)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


ODD_PATHS = [
    b"//v1/models", b"/v1//models", b"/V1/MODELS", b"/v1/models/", b"/v1/models?x=/livez", b"/livez/../v1/models",
    b"/livez/%2e%2e/v1/models", b"/%2fv1/models", b"/v1%2fmodels", b"/livez%2f..%2fv1/models", b"/v1/models;/livez",
    b"/v1/models%00/livez", b"/livez;/v1/models", b"/livez/v1/models", b"/./v1/models", b"http://127.0.0.1/v1/models",
    b"http://127.0.0.1/livez", b"/livez%20", b"/LIVEZ", b"//livez", b"/metrics", b"*", b"/v1/models#/livez",
]  # fmt: skip
ODD_HOSTS = [
    b"127.0.0.1/livez?", b"127.0.0.1/v1/models?", b"x/livez#", b"evil.example", b"127.0.0.1@evil.example", b"", b"[::1",
    b"127.0.0.1:port", b"127.0.0.1:80:80", b"localhost\t", b"livez", b"127.0.0.1, evil.example", b"\xff\xfe",
    b"a" * 300,
]  # fmt: skip


@pytest.mark.parametrize("path", ODD_PATHS, ids=repr)
def test_no_odd_path_opens_the_door(locked, path):
    head = b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    assert exchange(locked.port, head + b"\r\n")[9:12] in (b"401", b"400", b"404")
    # With the key nothing that is odd is taken for a route, and nothing fails inside.
    assert exchange(locked.port, head + b"Authorization: Bearer " + KEY.encode() + b"\r\n\r\n")[9:12] < b"500"


@pytest.mark.parametrize("host", ODD_HOSTS, ids=repr)
def test_no_odd_host_opens_the_door(locked, host):
    head = b"GET /v1/models HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n"
    assert exchange(locked.port, head + b"\r\n")[9:12] in (b"401", b"400", b"421")
    with_key = exchange(locked.port, head + b"Authorization: Bearer " + KEY.encode() + b"\r\n\r\n")
    expected = (b"200",) if host == b"localhost\t" else (b"400", b"421")
    assert with_key[9:12] in expected


def test_a_name_that_the_server_is_given_opens_the_door_in_any_letters():
    app = stub_app(host="MyBox", allowed_hosts=("Search.Example.org",))
    door = next(one for one in app.user_middleware if one.cls is Door)
    names = Door(app, **door.kwargs).hosts
    assert {"mybox", "search.example.org", "localhost"} <= names


def test_two_host_headers_or_two_keys_are_none(locked):
    head = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    key = b"Authorization: Bearer " + KEY.encode() + b"\r\n"
    assert exchange(locked.port, head + key + b"\r\n")[9:12] == b"200"
    assert exchange(locked.port, head + key + key + b"\r\n")[9:12] == b"401"
    assert exchange(locked.port, head + b"Host: localhost\r\n" + key + b"\r\n")[9:12] in (b"400", b"421")


def test_a_web_page_of_another_site_cannot_post(stub):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = stub.post("/v1/embeddings", {"model": "cocoa", "input": "a"}, **{"content-type": kind})
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "E_REQUEST_TYPE")
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_keys_are_hashed_where_they_lie_and_are_never_logged(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "keys"
    file.write_text(f"# who may\n\nreader embed,search {hashlib.sha256(KEY.encode()).hexdigest()}\n")
    monkeypatch.setenv(ENVIRONMENT, "from-the-environment")
    keys = ApiKeys.load(file)
    assert ENVIRONMENT not in os.environ
    assert keys.find(KEY).scopes == {"embed", "search"}
    assert keys.find("from-the-environment").opens("admin")
    assert not keys.find(KEY).opens("admin")
    assert keys.find(None) is keys.find("") is keys.find("wrong") is None
    with running(stub_app(keys=keys)) as here:
        for key in (KEY, "from-the-environment", "wrong-key"):
            here.post("/v1/embeddings", {"model": "x", "input": key}, **bearer(key))
    text = caplog.text + repr(keys) + repr(vars(keys))
    assert not [key for key in (KEY, "from-the-environment", "wrong-key") if key in text]


@pytest.mark.parametrize("key", ["secret", "à clé à"])
def test_a_key_of_the_environment_opens_the_door_by_either_way_to_show_it(monkeypatch, key):
    monkeypatch.setenv(ENVIRONMENT, f" {key}\n")  # As it comes out of a file.
    basic = base64.b64encode(f"me:{key}".encode())
    with running(stub_app(keys=ApiKeys.load(None))) as here:
        head = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        for shown in (b"Bearer " + key.encode(), b"Basic " + basic):
            assert exchange(here.port, head + b"Authorization: " + shown + b"\r\n\r\n")[9:12] == b"200"


def test_a_bad_line_of_keys_is_named_and_not_shown(tmp_path):
    file = tmp_path / "keys"
    for line in (f"reader embed {KEY}", f"reader everything {'0' * 64}", "reader"):
        file.write_text("# a comment\n" + line)
        with pytest.raises(UsageError) as caught:
            ApiKeys.load(file)
        assert (caught.value.code, caught.value.where) == ("E_USAGE_KEYS", f"{file}:2")
        assert KEY not in str(caught.value)


def test_a_file_or_a_variable_without_a_key_does_not_open_the_server(tmp_path, monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    file = tmp_path / "keys"
    for content in ("", "# reader embed,search\n\n"):
        file.write_text(content)
        with pytest.raises(UsageError) as caught:
            ApiKeys.load(file)
        assert (caught.value.code, caught.value.where) == ("E_USAGE_KEYS", str(file))
    for empty in ("", " "):
        monkeypatch.setenv(ENVIRONMENT, empty)
        with pytest.raises(UsageError) as caught:
            ApiKeys.load(None)
        assert (caught.value.code, caught.value.where) == ("E_USAGE_KEYS", ENVIRONMENT)
    assert len(ApiKeys.load(None)) == 0


def test_a_server_that_others_can_reach_does_not_start_without_a_key(embedder, monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    for host in ("0.0.0.0", "::", "192.0.2.1", "my.host"):
        with pytest.raises(UsageError) as caught:
            serve([(embedder.folder, None)], ServeSettings(host=host))
        assert caught.value.code == "E_USAGE_KEYS"
    monkeypatch.setenv(ENVIRONMENT, KEY)
    check_reach(ServeSettings(host="0.0.0.0"), ApiKeys.load(None))


INSIDE = re.compile(r"0x[0-9a-f]{6,}|/home|/tmp|/root|Traceback|site-packages|RuntimeError|File \"", re.IGNORECASE)


def test_a_failure_inside_is_told_by_a_number_alone_and_the_log_has_the_rest(stub, caplog):
    caplog.set_level(logging.INFO)
    stub.service.engine.forward.spoiled = {"bad": "raise", "not a number": "nan"}
    for text in ("bad", "not a number"):
        answer = stub.post("/v1/embeddings", {"model": "cocoa", "input": text})
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == (500, "server_error", "E_SERVER_FAILED")
        assert not INSIDE.search(answer.text)
        request_id = answer.headers["x-request-id"]
        assert [line for line in caplog.messages if request_id in line and error["message"] in line]
    assert "0x7f00deadbeef" in caplog.text
    assert stub.metric('cocoa_requests_total{code="E_SERVER_FAILED",route="/v1/embeddings",status="500"}') == 2


def test_the_cause_of_a_failure_is_logged_as_an_error_with_where_it_came_from(caplog):
    class Damaged:
        def get(self, ids):
            try:
                raise OSError("block 7 cannot be read")
            except OSError as error:
                raise IndexingError("E_INDEX_DAMAGED", "the table has a hole") from error

    with running(stub_app(index=Damaged())) as here:
        answer = here.post("/v1/search", {"like": ["a"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "E_SERVER_FAILED")
    [cause] = [record for record in caplog.records if record.exc_info]
    assert cause.levelno == logging.ERROR
    assert answer.headers["x-request-id"] in cause.getMessage()
    assert "the table has a hole" in caplog.text
    assert "block 7 cannot be read" in caplog.text


def test_no_client_can_write_a_line_of_the_log(stub, caplog):
    caplog.set_level(logging.INFO)
    answer = stub.post("/v1/embeddings", {"model": "cocoa", "input": "a", "x\nrequest 7: 200": 1})
    assert answer.json()["error"]["param"] == "x\nrequest 7: 200"
    assert [line for line in caplog.messages if "request 7" in line]
    assert not [line for line in caplog.messages if "\n" in line]


def test_no_client_can_fill_the_log_with_what_it_asks_for(page_server, caplog):
    caplog.set_level(logging.INFO)
    for name in ("mine" * 1000, "mine" + "x" * 800):
        answer = page_server.post("/v1/search", {"like": [name]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "E_INDEX_ID")
    assert max(len(line) for line in caplog.messages) < 400


def test_a_server_that_is_started_shows_its_log_and_leaves_one_that_is_configured(monkeypatch, capsys):
    monkeypatch.setattr(server, "open_app", lambda *_: stub_app())
    monkeypatch.setattr(server, "run", lambda *_: log.info("request 1: 422"))
    monkeypatch.setattr(log, "handlers", [])
    serve([("model", None)], ServeSettings(port=0))
    assert log.handlers == [], "it goes where the tests' own goes"
    monkeypatch.setattr(logging.root, "handlers", [])
    try:
        serve([("model", None)], ServeSettings(port=0))
        serve([("model", None)], ServeSettings(port=0))
    finally:
        log.setLevel(logging.NOTSET)
    lines = [line for line in capsys.readouterr().err.splitlines() if "request 1" in line]
    assert len(lines) == 2
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d [\d:,]+ INFO request 1: 422", line) for line in lines)


def test_every_answer_has_a_request_id_of_its_own(stub):
    ids = [stub.client.get(path).headers["x-request-id"] for path in ("/livez", "/nothing", "/v1/models", "/livez")]
    assert len(set(ids)) == 4


@pytest.mark.parametrize("path", sorted(PROBES))
def test_a_probe_may_ask_by_head(stub, path):
    answer = stub.client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


def test_a_method_that_a_path_does_not_take_is_refused_with_those_that_it_takes(stub):
    for method, path, allow in (
        ("GET", "/v1/embeddings", {"POST"}),
        ("POST", "/livez", {"GET", "HEAD"}),
        ("PUT", "/v1/models", {"GET"}),
    ):
        answer = stub.client.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (405, "E_REQUEST_METHOD")
        assert set(answer.headers["allow"].split(", ")) == allow


def test_errors_have_one_shape(stub):
    wrong = [("GET", "/nothing"), ("GET", "/v1/embeddings"), ("POST", "/livez"), ("DELETE", "/v1/models")]
    for method, path in wrong:
        error = stub.client.request(method, path).json()
        assert set(error) == {"error", "detail"}
        assert set(error["error"]) == {"message", "type", "code", "param"}
    answer = stub.post("/v1/embeddings", {"model": "cocoa", "input": [{"text": "a"}, {"image": 7}]})
    assert json.loads(answer.text)["error"]["param"] == "input[1].image"
    answer = stub.post("/v1/embeddings", {"model": "cocoa", "input": "a", "dimension": 7})
    assert json.loads(answer.text)["error"]["param"] == "dimension"
