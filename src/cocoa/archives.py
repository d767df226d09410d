"""Open zip archives: a small cache for each process, read in place, never extracted."""

from __future__ import annotations

import os
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path

_CAPACITY = 16


class _Archives:
    """The zip files used last; reads of one ZipFile are thread-safe by its own lock."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Starts anew: after a fork the child would share file positions, and maybe a held lock, with its parent."""
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, tuple[tuple[int, int, int], zipfile.ZipFile]] = OrderedDict()

    def get(self, path: Path) -> zipfile.ZipFile:
        """Returns the open archive, opened again if the file has been replaced."""
        status = path.stat()
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        with self._lock:
            held = self._open.get(path)
            if held is None or held[0] != stamp:
                held = (stamp, zipfile.ZipFile(path))
                self._open[path] = held
            self._open.move_to_end(path)
            # One that falls out is closed when its last reader lets go of it, never under a reader.
            while len(self._open) > _CAPACITY:
                self._open.popitem(last=False)
            return held[1]


_archives = _Archives()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_archives.forget)


def open_archive(path: Path) -> zipfile.ZipFile:
    """Returns the open zip file, shared within this process; do not close it."""
    return _archives.get(path)
