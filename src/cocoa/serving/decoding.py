"""Pictures of strangers, decoded in processes of their own: what kills one costs a picture, never the server."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from types import TracebackType

from PIL import Image

from cocoa.errors import ImageError, UsageError
from cocoa.images import DEFAULT_LIMITS, ImageLimits
from cocoa.serving.decode_worker import REPLY, REQUEST
from cocoa.serving.threads import Threads

_PROGRAM = (sys.executable, "-P", "-m", "cocoa.serving.decode_worker")
# What a Python process needs; keys and tokens are nothing that a decoder should know.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
_START_SECONDS = 60.0


class DecodePool:
    """Worker processes that decode pictures as `open_rgb` does, each within limits.

    Args:
        num_workers: processes, and pictures that are decoded at once.
        limits: what a picture may cost, by its header.
        memory_bytes: what a process may take for a picture, whatever its header says.
        cpu_seconds: processor time for a picture, in whole seconds.
        deadline_seconds: time on the clock for a picture, from when a process has it; then the process is killed.
        program: what is started; for tests.

    Safe to use from several threads. `num_replaced` counts the processes that died or were killed.
    """

    def __init__(
        self,
        num_workers: int = 2,
        limits: ImageLimits = DEFAULT_LIMITS,
        *,
        memory_bytes: int = 1_000_000_000,
        cpu_seconds: int = 10,
        deadline_seconds: float = 20.0,
        program: Sequence[str] = _PROGRAM,
    ) -> None:
        self.num_replaced = 0
        self._deadline_seconds = deadline_seconds
        self._command = (*program, str(memory_bytes), str(cpu_seconds), json.dumps(asdict(limits)))
        self._lock = threading.Lock()
        self._closed = False
        self._workers = {_Worker(self._command) for _ in range(num_workers)}
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._threads = Threads(num_workers, "decode")
        for worker in self._workers:
            self._idle.put(worker)

    def decode(self, sources: Sequence[bytes]) -> list[Image.Image | ImageError]:
        """Returns for each file its RGB picture, with `info["notes"]` as `open_rgb` gives them, or what is wrong.

        Beside the codes of `open_rgb`: E_IMAGE_TIMEOUT for too much time, E_IMAGE_DECODER where the process died.
        """
        return [future.result() for future in self._submit(sources)]

    async def adecode(self, sources: Sequence[bytes], *, ahead: bool = False) -> list[Image.Image | ImageError]:
        """Returns what `decode` does, without holding up the event loop; cancelling drops what has not begun.

        What goes `ahead` is begun before all that waits.
        """
        return await asyncio.gather(*(asyncio.wrap_future(future) for future in self._submit(sources, ahead=ahead)))

    def close(self) -> None:
        """Ends the processes; pictures on their way come back as E_IMAGE_DECODER."""
        with self._lock:
            self._closed = True
            workers = list(self._workers)
        for worker in workers:
            worker.kill()
        # Each thread that waits for a process sees now that there is none, and what is queued fails at once.
        self._threads.finish()
        for worker in workers:
            worker.end()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, sources: Sequence[bytes], *, ahead: bool = False) -> list[Future[Image.Image | ImageError]]:
        try:
            return [self._threads.submit(partial(self._one, source), ahead=ahead) for source in sources]
        except RuntimeError as error:
            raise UsageError("E_USAGE_CLOSED", "the pool of decoders is closed") from error

    def _one(self, data: bytes) -> Image.Image | ImageError:
        # There are as many threads as processes, so one is idle.
        worker = self._idle.get()
        try:
            if not worker.is_alive():  # It died while it had nothing to do, so this picture is not at fault.
                worker = self._replacement(worker)
            worker.wait_until_ready()
            return worker.decode(data, self._deadline_seconds)
        except ImageError as error:
            return error
        except OSError as error:  # The clock ran out (TimeoutError), or the process closed its end by dying.
            worker.kill()
            failure = worker.failure(error, len(data))
            worker = self._replacement(worker)
            return failure
        except BaseException:
            # Part of its answer may be unread: whoever came next would be given another's pixels.
            worker.kill()
            worker = self._replacement(worker)
            raise
        finally:
            self._idle.put(worker)

    def _replacement(self, dead: _Worker) -> _Worker:
        """A new worker; the dead one where none may be started any more, or none can be now."""
        with self._lock:
            if self._closed:
                return dead
            dead.end()
            try:
                worker = _Worker(self._command)
            except OSError:  # Too many processes or open files: this picture fails, the next tries again.
                return dead
            self._workers.discard(dead)
            self._workers.add(worker)
            self.num_replaced += 1
            return worker


class _Worker:
    """One process, and the socket to it."""

    def __init__(self, command: Sequence[str]) -> None:
        program, arguments = command[:-3], command[-3:]
        self._socket, theirs = socket.socketpair()
        with theirs, ExitStack() as undo:
            undo.callback(self._socket.close)
            self._process = subprocess.Popen(
                [*program, str(theirs.fileno()), *arguments],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # Decoders in C write there what they find in pictures.
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | {"OMP_NUM_THREADS": "1"},
            )
            undo.pop_all()
        self._is_ready = False

    def is_alive(self) -> bool:
        """Returns whether the process has not ended."""
        return self._process.poll() is None

    def wait_until_ready(self) -> None:
        """Returns when the process reads requests; raises OSError if it never will."""
        if not self._is_ready:
            self._receive(REPLY.size, time.monotonic() + _START_SECONDS)
            self._is_ready = True

    def decode(self, data: bytes, seconds: float) -> Image.Image:
        """Returns the picture; raises ImageError, TimeoutError after `seconds`, OSError if the process dies."""
        deadline = time.monotonic() + seconds
        self._socket.settimeout(seconds)
        self._socket.sendall(REQUEST.pack(len(data)))
        self._socket.sendall(data)
        notes: list[str] = []
        while True:
            kind, first, second = REPLY.unpack(self._receive(REPLY.size, deadline))
            if kind == b"P":
                picture = Image.frombytes("RGB", (first, second), self._receive(3 * first * second, deadline))
                if notes:
                    picture.info["notes"] = tuple(notes)
                return picture
            content = json.loads(self._receive(second, deadline))
            if kind == b"E":
                raise ImageError(content["code"], content["message"])
            notes = content

    def kill(self) -> None:
        """Ends the process, which has nothing to lose."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Ends the process and lets go of the socket, which no other thread may be using."""
        self.kill()
        self._socket.close()

    def failure(self, error: OSError, num_bytes: int) -> ImageError:
        """Returns what became of a picture whose process has ended."""
        if isinstance(error, TimeoutError) or self._process.returncode == -signal.SIGXCPU:
            return ImageError("E_IMAGE_TIMEOUT", f"image ({num_bytes} bytes) takes too long to decode; make it smaller")
        return ImageError("E_IMAGE_DECODER", f"image ({num_bytes} bytes) was not decoded: its process ended")

    def _receive(self, size: int, deadline: float) -> bytearray:
        whole = bytearray(size)
        view = memoryview(whole)
        while view:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            received = self._socket.recv_into(view)
            if not received:
                raise ConnectionResetError
            view = view[received:]
        return whole
