"""Who works on what, among processes that share a folder: a claim is a lock that the kernel takes back at death."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from cocoa.errors import UsageError

CLAIMS = ".claims"
"""The file of a folder that claims are locks on."""


class Claims:
    """The claims of this process on names of things in a folder; for `with`, whose end gives all of them back.

    A process can hold a claim twice and give it back once: threads of one process must share one `Claims`.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # One file for all claims: a claim is a lock on one byte of it, and it stays empty.
        self._file = (folder / CLAIMS).open("ab")

    def __enter__(self) -> Claims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives back all that is claimed."""
        self._file.close()

    def take(self, name: str, *, wait: bool = False) -> bool:
        """Returns whether this process has the claim now; with `wait`, not before it has."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, _byte(name))
        except (BlockingIOError, PermissionError):  # Systems differ in what they say of a lock that another has.
            return False
        return True

    def release(self, name: str) -> None:
        """Gives a claim back."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _byte(name))


@contextmanager
def only_writer(folder: Path, *, where: Path) -> Iterator[None]:
    """Holds a folder for this process; the hold goes with the process, however that ends.

    Raises `E_USAGE_BUSY`, at `where`, while another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError("E_USAGE_BUSY", f"another process is at work in {folder}", where=str(where)) from error
        yield


def _byte(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest()[:14], 16)
