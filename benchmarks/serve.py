"""Throughput and p99 beside sentence-transformers in the simplest FastAPI application: `python -m benchmarks.serve`.

The same model folder, the same mixed questions (a third each of texts, pictures, and both), the same 32 clients on the
same machine, in turns; every answer of either is held to the embedder's own vectors. The peer is what one writes first:
a synchronous route that opens the pictures and calls `model.encode`, which FastAPI runs in threads.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / name) for name in ("serving", "verification", "")]
TARGET = 2.0
CLIENTS = 32


def peer(folder: str, port: int) -> None:
    """Runs the peer until it is killed."""
    import base64
    import io

    from stock_runner import add_torchvision

    kept = add_torchvision(str(Path(sys.prefix) / "torchvision"))
    import uvicorn
    from fastapi import FastAPI
    from PIL import Image
    from sentence_transformers import SentenceTransformer

    model, app = SentenceTransformer(folder), FastAPI()

    def opened(item: Any) -> Any:
        if isinstance(item, str):
            return item
        data = base64.b64decode(item["image"].partition(",")[2])
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        return {"text": item["text"], "image": picture} if item.get("text") else picture

    @app.get("/readyz")
    def ready() -> str:
        return "ready"

    @app.post("/v1/embeddings")
    def embed(body: dict[str, Any]) -> dict[str, Any]:
        given = body["input"]
        items = [opened(item) for item in ([given] if isinstance(given, str) else given)]
        return {"data": [{"embedding": vector.tolist()} for vector in model.encode(items, show_progress_bar=False)]}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
    del kept


@contextmanager
def started(command: Sequence[str]) -> Iterator[tuple[int, str]]:
    """A server in a process of its own: (process id, url)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([*command, "--port", str(port)], cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                if httpx2.get(url + "/readyz", timeout=20, trust_env=False).status_code == 200:
                    break
            except httpx2.HTTPError:
                time.sleep(0.5)
            if process.poll() is not None:
                raise RuntimeError(f"{command} ended with {process.returncode}")
        yield process.pid, url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def questions(folder: Path, number: int) -> list[Any]:
    """Bodies and the vectors that belong to them: a third each of texts, pictures, and both; all are different."""
    from running import data_url

    from cocoa import Embedder
    from making import make_picture

    embedder = Embedder.load(folder)
    made = []
    for n in range(number):
        text, picture = f"picture {n} of a red apple left of a blue bird", make_picture(100 + n % 60, 120, n)
        sent: Any = [text, [{"image": data_url(picture)}], [{"text": text, "image": data_url(picture)}]][n % 3]
        given: Any = [text, picture, {"text": text, "image": picture}][n % 3]
        made.append(({"model": folder.name, "input": sent}, embedder.encode([given])))
    return made


def main() -> None:
    """Prints and keeps the two throughputs and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peer")
    parser.add_argument("--port", type=int)
    arguments = parser.parse_args()
    if arguments.peer:
        peer(arguments.peer, arguments.port)
        return
    from load import put_under_load

    from cocoa.backbones.nano import load_nano
    from cocoa.model import EmbeddingModel

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "nano"
        EmbeddingModel(load_nano(), max_tokens=512).save(folder)
        asked = questions(folder, 600)
        ours = [sys.executable, "-m", "cocoa", "serve", str(folder)]
        theirs = [sys.executable, "-m", "benchmarks.serve", "--peer", str(folder)]
        found: dict[str, list[dict[str, Any]]] = {"cocoa serve": [], "sentence-transformers + FastAPI": []}
        for _ in range(arguments.rounds):
            for name, command in zip(found, (ours, theirs), strict=True):
                with started(command) as (process, url):
                    load = put_under_load(url, asked, clients=CLIENTS, seconds=arguments.seconds, process=process)
                print(name, load.summary(), flush=True)
                if load.num_wrong or set(load.statuses) != {200}:
                    raise SystemExit(f"{name}: wrong or failed answers")
                found[name].append(load.summary())
    best = {name: float(np.median([run["answers_per_second"] for run in runs])) for name, runs in found.items()}
    busy = {name: np.median([run["answers_per_processor_second"] for run in runs]) for name, runs in found.items()}
    p99 = {name: float(np.median([run["p99_seconds"] for run in runs])) for name, runs in found.items()}
    ratio = best["cocoa serve"] / best["sentence-transformers + FastAPI"]
    busy_ratio = float(busy["cocoa serve"] / busy["sentence-transformers + FastAPI"])
    print(f"{busy_ratio:.2f} times the answers a second of the processor")
    print(f"{ratio:.2f} times the answers a second at {CLIENTS} clients (target {TARGET:g}); p99 {p99}")
    if arguments.json:
        head = {
            "command": "python -m benchmarks.serve",
            "model": "nano",
            "cores": os.cpu_count(),
            "on": platform.machine(),
        }
        kept = head | {
            "clients": CLIENTS,
            "ratio": round(ratio, 2),
            "processor_ratio": round(busy_ratio, 2),
            "p99_seconds": p99,
            "runs": found,
        }
        arguments.json.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
