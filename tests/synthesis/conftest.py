"""A real HTTP server that plays a model, pictures to ask it about, and processes that can be killed."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from forking import Processes


@dataclass
class Asked:
    """One request: its body, who sent it with which key, and its number from 0."""

    body: dict[str, Any]
    authorization: str
    path: str
    number: int

    @property
    def turns(self) -> list[str]:
        """What was said, without the system's words and the picture."""
        said = [message["content"] for message in self.body["messages"] if message["role"] != "system"]
        return ["".join(part.get("text", "") for part in turn) if isinstance(turn, list) else turn for turn in said]

    @property
    def picture(self) -> Image.Image:
        """The picture that came with it."""
        first = next(message for message in self.body["messages"] if message["role"] == "user")["content"]
        url = next(part["image_url"]["url"] for part in first if part["type"] == "image_url")
        return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"), validate=True)))

    @property
    def chat(self) -> str:
        """A digest of the conversation."""
        return hashlib.sha256(json.dumps(self.body["messages"]).encode()).hexdigest()


@dataclass
class Model:
    """A model that says something of a picture's mean colour, and what it was asked. `behave` may answer instead.

    `behave(asked, handler)` returns a text, a dict as the whole body, a status number, (status, headers), or None when
    it has dealt with the connection itself.
    """

    behave: Callable[[Asked, BaseHTTPRequestHandler], Any] | None = None
    seconds: float = 0.0
    asked: list[Asked] = field(default_factory=list)
    replies: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0
    url: str = ""
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            asked = Asked(body, handler.headers.get("Authorization", ""), handler.path, len(self.asked))
            self.asked.append(asked)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            time.sleep(self.seconds)
            answer = self.behave(asked, handler) if self.behave else say(asked)
        finally:
            with self._lock:
                self._at_once -= 1
        if answer is None:
            handler.close_connection = True
            return
        status, headers = answer if isinstance(answer, tuple) else (answer, {}) if type(answer) is int else (200, {})
        content = reply(answer) if isinstance(answer, str) else answer if isinstance(answer, dict) else {"error": "no"}
        data = answer if isinstance(answer, bytes) else json.dumps(content).encode()
        if status == 200:
            with self._lock:
                self.replies[asked.chat] += 1
        with suppress(OSError):  # A killed client is gone.
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)


def reply(text: Any, finish: str = "stop", tokens: tuple[int, int] = (100, 20)) -> dict[str, Any]:
    """Returns the body of a good reply."""
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]},
    }


def colour(picture: Image.Image) -> str:
    """Returns the mean colour of a picture in words that a JPEG does not change."""
    return " ".join(str(round(value / 8)) for value in np.asarray(picture.convert("RGB")).mean((0, 1)))


def say(asked: Asked) -> str:
    """Returns what the model says: a caption, three questions, or the answer to the last of them."""
    last, seen = asked.turns[-1], colour(asked.picture)
    if "Write three to five questions" in last:
        return "\n".join(
            f"{n}. What is the value of channel {name}?" for n, name in enumerate(("red", "green", "blue"), 1)
        )
    if "channel" in last:
        return f"In turn {len(asked.turns)} the mean is {seen.split()[len(asked.turns) // 2]} of 31."
    return f"A plain picture of one even colour, whose three channels have the means {seen}, and nothing else."


@pytest.fixture
def model() -> Iterator[Model]:
    """A server on a free port that plays a model."""
    played = Model()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20
        disable_nagle_algorithm = True  # else each reply takes 40 ms

        def do_POST(self) -> None:
            played.handle(self)

        def log_message(self, *args: Any) -> None:
            """Says nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *args: Any) -> None:
            """Clients are killed here; that is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    played.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield played
    server.shutdown()
    server.server_close()
    thread.join()


def paint_pictures(folder: Path, num: int) -> Path:
    """Writes pictures of one colour each, all different, some in a folder within."""
    rng = np.random.default_rng(5)
    for number in range(num):
        path = folder / ("inner" if number % 3 == 0 else "") / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (32, 40, 3))
        Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of six pictures."""
    return paint_pictures(tmp_path / "pictures", 6)


@pytest.fixture
def paint() -> Callable[[Path, int], Path]:
    """Writes so many pictures into a folder: `paint(folder, num)`."""
    return paint_pictures


@pytest.fixture
def body() -> Callable[..., dict[str, Any]]:
    """Makes the body of a good reply: `body(text, finish="stop", tokens=(100, 20))`."""
    return reply


@pytest.fixture
def usual() -> Callable[[Asked], str]:
    """What the model says if nothing else is wanted: `usual(asked)`."""
    return say


ZYGOTE = """
import json, os, sys, traceback
from pathlib import Path

from cocoa.synthesis import Endpoint, synthesize
assert "torch" not in sys.modules
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        try:
            os.environ.update(job["env"])
            with Endpoint(job["url"], "m", concurrency=job["concurrency"], backoff=0.01) as engine:
                folders = Path(job["images"]), Path(job["out"])
                synthesize(*folders, kind=job["kind"], engine=engine, shard_size=job["size"], copy_images=job["copy"])
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def processes() -> Iterator[Processes]:
    """What runs jobs in processes that may be killed."""
    running = Processes(ZYGOTE)
    yield running
    running.close()


@pytest.fixture
def contents() -> Callable[[Path], dict[str, str]]:
    """Gives the hashes of a job's files, without the manifest, which holds the date."""

    def hashes(out: Path) -> dict[str, str]:
        manifest = json.loads((out / "manifest.json").read_text())
        files = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in manifest["files"]}
        assert files == manifest["files"]
        return files

    return hashes
