"""Whether `/readyz` tells the truth: with a decoder that stands still, with a damaged index, on a full disk."""

from __future__ import annotations

import os
import resource
import signal

import psutil
import pytest
from apart import CLIENT, ask, starts
from gallery import index_of, scenes
from running import StubForward, running, until

from cocoa import Index
from cocoa.corpus.embeddings import Embeddings
from cocoa.serving.app import create_app
from cocoa.serving.engine import Engine
from cocoa.serving.metrics import Metrics
from cocoa.serving.settings import ServeSettings

start = pytest.fixture(name="start")(starts)


def test_with_a_decoder_that_stands_still_it_is_not_ready_until_it_goes_on():
    settings = ServeSettings(port=0, ready_seconds=1.0)
    before = set(psutil.Process().children())
    with running(create_app(settings, Engine(StubForward(), settings, Metrics()))) as here:
        assert here.client.get("/readyz").status_code == 200
        [decoder] = set(psutil.Process().children()) - before
        os.kill(decoder.pid, signal.SIGSTOP)
        until(lambda: here.client.get("/readyz").status_code == 503)
        assert here.client.get("/livez").status_code == 200
        assert here.metric("cocoa_ready") == 0
        here.embed("texts need no decoder")
        os.kill(decoder.pid, signal.SIGCONT)
        until(lambda: here.client.get("/readyz").status_code == 200)
        assert here.metric("cocoa_ready") == 1


def test_a_decoder_that_is_killed_is_replaced_and_readiness_comes_back():
    settings = ServeSettings(port=0)
    before = set(psutil.Process().children())
    with running(create_app(settings, Engine(StubForward(), settings, Metrics()))) as here:
        assert here.client.get("/readyz").status_code == 200
        [decoder] = set(psutil.Process().children()) - before
        os.kill(decoder.pid, signal.SIGKILL)
        until(lambda: here.client.get("/readyz").status_code == 200)


def test_with_a_damaged_index_it_is_not_ready_until_that_is_mended(serve, embedder, tmp_path):
    pytest.importorskip("lance")
    (tmp_path / "pictures").mkdir()
    index_of(embedder, scenes(tmp_path / "pictures", 8), tmp_path / "embeddings")
    Index.build(Embeddings.open(tmp_path / "embeddings"), tmp_path / "index")
    with serve(Index.open(tmp_path / "index")) as here:
        assert here.client.get("/readyz").status_code == 200
        whole = {file: file.read_bytes() for file in (tmp_path / "index").rglob("*") if file.suffix == ".lance"}
        assert whole
        for file, content in whole.items():
            file.write_bytes(content[: len(content) // 2])
        until(lambda: here.client.get("/readyz").status_code == 503)
        assert here.client.get("/livez").status_code == 200
        here.embed("embedding needs no index")
        refused = here.post("/v1/search", {"text": "an owl"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (500, "E_SERVER_FAILED")
        assert str(tmp_path) not in refused.text
        for file, content in whole.items():
            file.write_bytes(content)
        until(lambda: here.client.get("/readyz").status_code == 200)
        assert here.post("/v1/search", {"text": "an owl"}).status_code == 200


def test_a_full_disk_does_not_matter_because_nothing_is_written(start):
    process, url = start(seconds=0.0, drain=5)
    # Whatever writes a byte into a file fails (EFBIG; Python ignores the signal).
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, 0))
    assert CLIENT.get(url + "/readyz").status_code == 200
    assert ask(url, "a text") == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
