"""Servers in processes of their own, over a stub: to be stopped, killed and starved."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
from running import until

# The stub's model needs `seconds` for a pass, or for ever.
_PROGRAM = """
import sys, time
sys.path[:0] = {path!r}
from running import StubForward, stub_app
from cocoa.serving.server import DrainingServer, run
forward = StubForward()
forward.seconds = {seconds}
app = stub_app(forward, drain_seconds={drain})
server = DrainingServer(app)
server.config.port = {port}
run(server)
"""


def starts() -> Iterator[Callable[[float, float], tuple[subprocess.Popen[bytes], str]]]:
    """A fixture that starts servers, `start(seconds, drain)` -> (process, url), and ends them after the test."""
    started = []

    def run(seconds: float, drain: float) -> tuple[subprocess.Popen[bytes], str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        folder = Path(__file__).parent
        program = _PROGRAM.format(path=[str(folder), str(folder.parent)], seconds=seconds, drain=drain, port=port)
        process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
        started.append(process)

        def is_up() -> bool:
            assert process.poll() is None
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(is_up, 60)
        return process, f"http://127.0.0.1:{port}"

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


CLIENT = httpx2.Client(timeout=60, trust_env=False, limits=httpx2.Limits(max_connections=None))


def ask(url: str, text: str) -> int:
    """The status of a request for a text."""
    return CLIENT.post(url + "/v1/embeddings", json={"model": "cocoa", "input": text}).status_code


def num_under_way(url: str) -> int:
    """How many items a server holds."""
    text = CLIENT.get(url + "/metrics").text
    return int(float(text.partition('cocoa_held{model="cocoa",what="items"} ')[2].partition("\n")[0]))
