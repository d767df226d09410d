"""Two replicas behind Ray Serve, and one of them killed: who asks again is answered."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx2
import numpy as np
import psutil
import pytest
from running import until

from cocoa.errors import UsageError
from cocoa.serving.settings import settings_from

ray = pytest.importorskip("ray")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, as it is imported.
@pytest.mark.parametrize("change", ["header_seconds=5", "max_connections=100"])
def test_a_setting_that_has_no_effect_behind_ray_is_refused(change):
    from cocoa.serving.replicas import start_replicas

    with pytest.raises(UsageError) as caught:
        start_replicas([("model", None)], settings_from({}, [change]), 2)
    assert (caught.value.code, caught.value.where) == ("E_USAGE_SETTING", change.partition("=")[0])
    assert not ray.is_initialized()


@pytest.mark.slow
def test_with_one_of_two_replicas_killed_every_request_is_answered_after_a_retry(embedder, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "cocoa", "serve", str(embedder.folder), "--engine", "ray", "--replicas", "2"]
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    expected = {f"text {n}": embedder.encode([f"text {n}"])[0] for n in range(20)}
    try:
        with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:

            def is_ready() -> bool:
                assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
                try:
                    return client.get("/readyz").status_code == 200
                except httpx2.HTTPError:
                    return False

            until(is_ready, 240)
            replicas = [
                child
                for child in psutil.Process(process.pid).children(recursive=True)
                if "ServeReplica" in child.name() or "ServeReplica" in " ".join(child.cmdline())
            ]
            assert len(replicas) == 2
            # One is enough to be ready; one that dies before both have started ends it all, as a bad model would.
            # The process that decodes is the last thing that each of them starts.
            until(lambda: all(replica.children() for replica in replicas), 240)
            done, retried, stop = [0], [0], time.monotonic() + 30

            def ask() -> None:
                n = 0
                while time.monotonic() < stop:
                    text = f"text {(n := n + 1) % 20}"
                    for attempt in range(30):
                        try:
                            answer = client.post("/v1/embeddings", json={"model": "cocoa", "input": text})
                        except httpx2.HTTPError:
                            answer = None
                        if answer is not None and answer.status_code == 200:
                            break
                        retried[0] += 1
                        time.sleep(0.2 * (attempt + 1))
                    else:
                        raise AssertionError(f"no answer after 30 attempts: {answer}")
                    np.testing.assert_allclose(answer.json()["data"][0]["embedding"], expected[text], atol=1e-5)
                    done[0] += 1

            threads = [threading.Thread(target=ask) for _ in range(8)]
            for thread in threads:
                thread.start()
            time.sleep(5)
            before = done[0]
            os.kill(replicas[0].pid, signal.SIGKILL)
            for thread in threads:
                thread.join()
            assert done[0] > before > 0
            until(is_ready, 120)
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()
        log.close()
