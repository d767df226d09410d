"""Servers that tests start: the real one on a socket, with a small real model or one that tests can play with."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import numpy as np
from fastapi import FastAPI
from PIL import Image

from cocoa.errors import ImageError
from cocoa.images import open_rgb
from cocoa.sample import Sample
from cocoa.serving.app import create_app
from cocoa.serving.engine import Engine
from cocoa.serving.keys import ApiKeys
from cocoa.serving.metrics import Metrics
from cocoa.serving.served import Served
from cocoa.serving.server import DrainingServer
from cocoa.serving.settings import ServeSettings


@dataclass(frozen=True)
class StubItem:
    """What the stub needs of an item."""

    key: str
    text: str
    num_pixels: int

    @property
    def num_tokens(self) -> int:
        return len(self.text) + 1

    @property
    def size(self) -> tuple[int, int]:
        return self.num_tokens, self.num_pixels


class StubForward:
    """A model of `dimensions` numbers that are drawn from a digest of the item; a test can hold it up or spoil it."""

    def __init__(self, dimensions: int = 8) -> None:
        self.dimensions = dimensions
        self.matryoshka: tuple[int, ...] = ()
        self.go = threading.Event()
        self.go.set()
        self.passes: list[list[str]] = []
        self.spoiled: dict[str, str] = {}
        """Texts, and what comes of them: `raise`, `nan`, `long`, `short`."""
        self.seconds = 0.0

    def num_tokens(self, pixels: int) -> int:
        return pixels // 784 + 2

    def ready(self, sample: Sample, side: str | None, *, cut: bool = False) -> StubItem:
        pixels = sum(image.width * image.height for image in sample.images)
        return StubItem(f"{side}:{sample.key}", sample.text, pixels)

    def embed(self, items: Sequence[StubItem]) -> np.ndarray:
        self.go.wait(60)
        time.sleep(self.seconds)
        self.passes.append([item.text for item in items])
        spoiled = [self.spoiled.get(item.text, "") for item in items]
        if "raise" in spoiled:
            raise RuntimeError("CUDA error at 0x7f00deadbeef in /home/someone/site-packages/torch")
        vectors = np.stack([vector_of(item.key, self.dimensions) for item in items])
        for place, how in enumerate(spoiled):
            vectors[place] *= {"nan": float("nan"), "long": 2.0, "zero": 0.0}.get(how, 1.0)
        return vectors


def vector_of(key: str, dimensions: int = 8) -> np.ndarray:
    """The vector that the stub gives for a key (`side:sample key`)."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(dimensions).astype(np.float32)
    return vector / np.linalg.norm(vector)


def of_text(text: str, side: str | None = None, dimensions: int = 8) -> np.ndarray:
    """The vector that the stub gives for a text."""
    return vector_of(f"{side}:{Sample(text).key}", dimensions)


class DecodeHere:
    """Decodes in this process, so that a server is there at once."""

    async def adecode(self, sources: Sequence[bytes], *, ahead: bool = False) -> list[Any]:
        found = []
        for source in sources:
            try:
                found.append(open_rgb(source))
            except ImageError as error:
                found.append(error)
        return found

    def close(self) -> None:
        """Has nothing to end."""


def stub_app(
    forward: StubForward | None = None,
    index: Any = None,
    keys: ApiKeys | None = None,
    *,
    compared: Sequence[Served] = (),
    metrics: Metrics | None = None,
    **settings: Any,
) -> FastAPI:
    """An application over a stub."""
    told = ServeSettings(port=0, **settings)
    engine = Engine(forward or StubForward(), told, metrics or Metrics(), DecodeHere())
    return create_app(told, engine, index, compared=compared, keys=keys)


def data_url(picture: Image.Image) -> str:
    """A picture as clients send it."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


class Running:
    """A server in a thread of this process, and a client for it."""

    def __init__(self, server: DrainingServer, port: int) -> None:
        self.server = server
        self.service = server.service
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx2.Client(base_url=self.url, timeout=60, trust_env=False)

    def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        """The answer to a body, sent as JSON; bytes are sent as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(path, content=content, headers={"content-type": "application/json"} | headers)

    def embed(self, *texts: str, **more: Any) -> np.ndarray:
        """The vectors of texts."""
        answer = self.post("/v1/embeddings", {"model": "cocoa", "input": list(texts)} | more)
        assert answer.status_code == 200, answer.text
        return np.array([row["embedding"] for row in answer.json()["data"]], np.float32)

    def metric(self, line: str) -> float:
        """The value of a line of /metrics; 0 if there is none yet."""
        found = [row for row in self.service.metrics.text().decode().splitlines() if row.startswith(line + " ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0


@contextmanager
def running(app: FastAPI) -> Iterator[Running]:
    """Runs an application on a free port of loopback."""
    server = DrainingServer(app)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    here = Running(server, port)
    try:
        yield here
    finally:
        here.client.close()
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def until(condition: Any, seconds: float = 60.0) -> None:
    """Waits until something is true; fails if it does not become so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
