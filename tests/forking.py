"""Jobs that tests start many times and kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any


class Processes:
    """Runs jobs in processes of their own; each is forked from one that has done its imports and nothing else.

    That one runs `program`: for each line of JSON that it reads it forks, writes the child's process id, and when the
    child has ended its exit status.
    """

    def __init__(self, program: str) -> None:
        self._zygote = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, **job: Any) -> int:
        """Starts a job; returns its process id."""
        assert self._zygote.stdin and self._zygote.stdout
        whole = {"env": {}, "copy": False} | {
            name: str(value) if isinstance(value, Path) else value for name, value in job.items()
        }
        self._zygote.stdin.write(json.dumps(whole) + "\n")
        self._zygote.stdin.flush()
        return int(self._zygote.stdout.readline())

    def wait(self) -> int:
        """Returns the exit status of the job that was started last, negative for a signal."""
        assert self._zygote.stdout
        return int(self._zygote.stdout.readline())

    def kill(self, process: int) -> int:
        """Kills the job, if it is still there; returns its exit status."""
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        return self.wait()

    def close(self) -> None:
        """Ends the first process."""
        assert self._zygote.stdin and self._zygote.stdout
        self._zygote.stdin.close()
        self._zygote.wait()
        self._zygote.stdout.close()
