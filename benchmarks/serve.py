"""Throughput and p99 beside sentence-transformers in the simplest FastAPI application: `python -m benchmarks.serve`.

The same model folder, the same mixed questions (a third each of texts, pictures, and both), the same 32 clients on the
same machine, in turns; every answer of either is held to the embedder's own vectors. The peer is what one writes first:
a synchronous route that opens the pictures and calls `model.encode`, which FastAPI runs in threads. The ceiling is our
server with a model that answers at once: what HTTP, JSON, decoding and the client itself allow on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from benchmarks.outcome import Case, Targets, outcome

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / name) for name in ("serving", "verification", "")]
TARGET = 2.0
CLIENTS = 32
OURS, THEIRS, CEILING = "cocoa serve", "sentence-transformers + FastAPI", "cocoa serve, without computing"


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


def idle(folder: str, port: int) -> None:
    """Runs our server with a model that answers at once: what the way to a model and back costs, and the client."""
    from cocoa.serving.forward import Forward
    from cocoa.serving.keys import ApiKeys
    from cocoa.serving.server import DrainingServer, open_app, run
    from cocoa.serving.settings import ServeSettings

    Forward.embed = lambda self, items: np.tile(np.eye(1, self.dimensions, dtype=np.float32), (len(items), 1))  # type: ignore[method-assign]
    settings = ServeSettings(model_name=Path(folder).name, port=port)
    run(DrainingServer(open_app([(Path(folder), None)], settings, ApiKeys())))


def measured(name: str, process: int, url: str, asked: list[Any], seconds: float) -> dict[str, Any]:
    """The summary of a server under load, every answer of which was right."""
    from load import put_under_load

    load = put_under_load(url, asked, clients=CLIENTS, seconds=seconds, process=process)
    if load.num_wrong or set(load.statuses) != {200}:
        raise SystemExit(f"{name}: {load.num_wrong} wrong answers, statuses {load.statuses}")
    summary: dict[str, Any] = load.summary()
    return summary


def main() -> None:
    """Prints and keeps the throughputs and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--idle", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer or arguments.idle:
        (peer if arguments.peer else idle)(arguments.peer or arguments.idle, arguments.port)
        return
    import torch

    from benchmarks.measuring import circumstances
    from cocoa.backbones.nano import load_nano
    from cocoa.model import EmbeddingModel

    head = circumstances(torch.get_num_threads())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "nano"
        EmbeddingModel(load_nano(), max_tokens=512).save(folder)
        asked = questions(folder, 600)
        constant = [(body, np.eye(1, expected.shape[1], dtype=np.float32)) for body, expected in asked]
        again = [sys.executable, "-m", "benchmarks.serve"]
        servers = {
            OURS: ([sys.executable, "-m", "cocoa", "serve", str(folder)], asked),
            THEIRS: ([*again, "--peer", str(folder)], asked),
            CEILING: ([*again, "--idle", str(folder)], constant),
        }
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
        with ExitStack() as stack:
            # All from the start, in short turns: what else happens to the machine happens to all of them.
            running = {name: stack.enter_context(started(command)) for name, (command, _) in servers.items()}
            for _ in range(arguments.rounds):
                for name, (_, expected) in servers.items():
                    found[name].append(measured(name, *running[name], expected, arguments.seconds))
                    print(name, found[name][-1], flush=True)
    result = compared(found) | head | {"model": "nano", "clients": CLIENTS} | {"runs": found}
    print(json.dumps({name: value for name, value in result.items() if name != "runs"}, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


def compared(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of all servers, and how many times the peer's rate ours is: of medians, and in each round."""

    def middle(name: str, figure: str) -> float:
        return float(statistics.median(run[figure] for run in found[name]))

    figures = ("answers_per_second", "answers_per_processor_second", "p50_seconds", "p99_seconds")
    rounds = [
        ours["answers_per_second"] / theirs["answers_per_second"]
        for ours, theirs in zip(found[OURS], found[THEIRS], strict=True)
    ]
    busy = middle(OURS, figures[1]) / middle(THEIRS, figures[1])
    answered = {name: middle(name, figures[0]) for name in found}
    ratio = answered[OURS] / answered[THEIRS]
    share = answered[OURS] / answered[CEILING]
    case = Case(f"nano, {CLIENTS} clients", ratio, (min(rounds), max(rounds)), share)
    return {
        **outcome("serve", THEIRS, f"rate of {CEILING}", [case], Targets(TARGET)),
        "ratio_of_rounds": [round(float(q), 2) for q in np.quantile(rounds, (0, 0.25, 0.5, 0.75, 1))],
        "ratio_of_processor_seconds": round(busy, 2),
        "medians": {name: {figure: middle(name, figure) for figure in figures} for name in found},
    }


if __name__ == "__main__":
    main()
