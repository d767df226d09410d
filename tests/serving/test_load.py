"""Under load every reply belongs to its own question, nothing fails, nothing grows; what is too much is refused."""

from __future__ import annotations

import datetime
import json
import os
import platform
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import pytest
from load import Question, put_under_load
from running import data_url, until

KEPT = Path(__file__).parents[2] / "reference" / "serving.json"


@contextmanager
def serving(folder: Path, *options: str):
    """`cocoa serve` in a process of its own: (process id, url)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "cocoa", "serve", str(folder), "--port", str(port), *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        assert process.poll() is None
        try:
            return httpx2.get(url + "/readyz", timeout=20, trust_env=False).status_code == 200
        except httpx2.HTTPError:
            return False

    try:
        until(is_ready, 180)
        yield process.pid, url
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def questions(embedder, picture) -> list[Question]:
    """Texts alone and several at once, pictures, and both."""
    made = []
    for n in range(24):
        image = picture(40 + 3 * n, 60, n)
        texts = [f"text {n} about {word}" for word in ("a cat", "two dogs and a bird", "an owl")]
        for items, sent in (
            (texts[:1], texts[0]),
            (texts, texts),
            ([image], [{"image": data_url(image)}]),
            ([{"text": texts[0], "image": image}], [{"text": texts[0], "image": data_url(image)}]),
        ):
            made.append(({"model": "cocoa", "input": sent}, embedder.encode(items)))
    return made


def test_64_clients_get_their_own_vectors_and_memory_stays(embedder, questions):
    with serving(embedder.folder) as (process, url):
        files, threads = psutil.Process(process).num_fds(), psutil.Process(process).num_threads()
        load = put_under_load(url, questions, clients=64, seconds=20, process=process)
        assert load.num_wrong == 0
        assert set(load.statuses) == {200}
        assert load.statuses[200] > 64
        assert load.memory_growth < 50_000_000
        until(lambda: psutil.Process(process).num_fds() <= files + 5)
        assert psutil.Process(process).num_threads() <= threads + 20


def test_too_much_is_refused_and_the_rest_is_right(embedder, questions):
    with serving(embedder.folder, "--set", "queue.max_items=8") as (process, url):
        load = put_under_load(url, questions, clients=40, seconds=4, process=process)
        assert load.num_wrong == 0
        assert set(load.statuses) == {200, 429}
        assert httpx2.get(url + "/readyz", timeout=20, trust_env=False).status_code == 200


@pytest.mark.slow
def test_soak(embedder, questions):
    """256 clients for `COCOA_SOAK_SECONDS` (300), then ten times as many as the line has room for; figures are kept."""
    seconds = float(os.environ.get("COCOA_SOAK_SECONDS", "300"))
    with serving(embedder.folder) as (process, url):
        long = put_under_load(url, questions, clients=256, seconds=seconds, process=process)
        assert long.num_wrong == 0
        assert set(long.statuses) == {200}
        assert long.memory_growth < 50_000_000
    with serving(embedder.folder, "--set", "queue.max_items=16") as (process, url):
        peak = put_under_load(url, questions, clients=8, seconds=seconds / 10, process=process)
        over = put_under_load(url, questions, clients=160, seconds=seconds / 5, process=process)
        assert over.num_wrong == 0
        assert set(over.statuses) == {200, 429}
        assert httpx2.get(url + "/readyz", timeout=20, trust_env=False).status_code == 200
    figures = {
        "command": "pytest -m slow tests/serving/test_load.py (make soak)",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "hardware": f"{os.cpu_count()} {platform.machine()} cores, shared with the clients",
        "load_average": round(os.getloadavg()[0], 1),
        "model": "tiny random Qwen2-VL",
        "256 clients": long.summary(),
        "8 clients, line of 16": peak.summary(),
        "160 clients, line of 16": over.summary(),
    }
    if "COCOA_KEEP" in os.environ:
        KEPT.write_text(json.dumps(figures, indent=2) + "\n")
    assert over.summary()["answers_per_second"] > 0.3 * peak.summary()["answers_per_second"]
