"""Starts several ranks of a function in processes of their own, as `torchrun` would, and brings their answers back."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# One process imports torch once; the ranks are forked from it, before it has computed anything.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["cocoa.training.loop", "cocoa.backbones.nano"])


def start_ranks(
    count: int, function: Callable[..., Any], *arguments: Any, environment: dict[str, str] | None = None
) -> tuple[list[Any], Path]:
    """Returns the started processes and the folder of their answers; each runs `function(*arguments)` as one rank."""
    folder = Path(tempfile.mkdtemp(prefix="ranks-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(count):
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
        places |= {"MASTER_ADDR": "127.0.0.1"}
        own = {name: str(value) for name, value in places.items()} if count > 1 else {}
        process = _CONTEXT.Process(
            target=_run, args=(own | (environment or {}), folder / f"{rank}", function, arguments), daemon=True
        )
        process.start()
        processes.append(process)
    return processes, folder


def run_ranks(count: int, function: Callable[..., Any], *arguments: Any, timeout: float = 120) -> list[Any]:
    """Returns what each rank's call of the function returned; an error in one of them is raised with its traceback."""
    processes, folder = start_ranks(count, function, *arguments)
    end = time.monotonic() + timeout
    try:
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
            assert not process.is_alive(), "a rank hangs"
    finally:
        for process in processes:
            process.kill()
    answers = []
    for rank in range(count):
        assert (folder / f"{rank}").exists(), f"rank {rank} died with {processes[rank].exitcode}"
        answer = pickle.loads((folder / f"{rank}").read_bytes())
        assert not isinstance(answer, _Failure), f"rank {rank}:\n{answer.text}"
        answers.append(answer)
    return answers


class _Failure:
    def __init__(self, text: str) -> None:
        self.text = text


def _run(environment: dict[str, str], answer: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    try:
        result = function(*arguments)
    except BaseException:
        result = _Failure(traceback.format_exc())
    answer.with_suffix(".part").write_bytes(pickle.dumps(result))
    answer.with_suffix(".part").rename(answer)
    # Without the interpreter's own farewell, which waits for what a dead rank left behind.
    os._exit(int(isinstance(result, _Failure)))
