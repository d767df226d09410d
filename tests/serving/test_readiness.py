"""Whether `/readyz` tells the truth: with a decoder that stands still, with a damaged index, on a full disk."""

from __future__ import annotations

import base64
import os
import resource
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from apart import CLIENT, ask, starts
from gallery import index_of, scenes
from running import StubForward, data_url, running, until

from cocoa import Index
from cocoa.corpus.embeddings import Embeddings
from cocoa.serving.app import create_app
from cocoa.serving.decoding import DecodePool
from cocoa.serving.engine import Engine
from cocoa.serving.metrics import Metrics
from cocoa.serving.settings import QueueBounds, ServeSettings

HOOKED = (sys.executable, "-P", str(Path(__file__).with_name("hooked_decoder.py")))
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


@pytest.mark.parametrize("slow", ["decoding", "reading", "the model"])
def test_load_alone_does_not_make_it_unready(slow, picture):
    """Twelve requests wait for what takes half a second each; the probe goes ahead of them."""
    settings = ServeSettings(port=0, ready_seconds=3.0, queue=QueueBounds(max_batch_items=1))
    forward, seconds = StubForward(), {slow: 0.5}
    forward.seconds = seconds.get("the model", 0)
    ready = forward.ready

    def read(sample, side, *, cut=False):
        time.sleep(seconds.get("reading", 0) * 2 * (sample.text != "ready?"))  # Two threads read.
        return ready(sample, side, cut=cut)

    forward.ready = read
    body = data_url(picture(20, 20)).partition(",")[2]
    if slow == "decoding":
        body = base64.b64encode(base64.b64decode(body) + b"slow").decode()
    engine = Engine(forward, settings, Metrics(), DecodePool(1, program=HOOKED))
    with running(create_app(settings, engine)) as here, ThreadPoolExecutor(12) as pool:
        assert here.client.get("/readyz").status_code == 200
        answers = [
            pool.submit(here.post, "/v1/embeddings", {"model": "cocoa", "input": [{"image": body}]}) for _ in range(12)
        ]
        # Not of all twelve: on a busy machine the first may be done before the last has come.
        until(lambda: engine.line.held.items >= 8)
        time.sleep(1.1)  # The last answer is not fresh any more.
        assert here.client.get("/readyz").status_code == 200
        assert engine.line.held.items > 2, "there was load all the time"
        assert {answer.result().status_code for answer in answers} == {200}


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
