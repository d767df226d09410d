"""Open zip archives: a small cache for each process, read in place, never extracted."""

from __future__ import annotations

import os
import threading
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

try:
    from lzma import LZMAError
except ImportError:  # A Python that was built without it opens no archive that is packed so.
    LZMAError = zlib.error  # type: ignore[assignment, misc]

UNREADABLE = (OSError, EOFError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, LZMAError)
"""What opening a damaged archive raises, or reading a member that is damaged, locked, oddly packed or not there."""

# MMEB-train has a zip file for each of its 20 subsets, and a shuffled run reads from all of them.
_CAPACITY = 64


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


def member_names(path: Path) -> list[str]:
    """Returns the files in a zip archive, without the notes that macOS puts beside each (`._name`)."""
    return [name for name in open_archive(path).namelist() if not (name.endswith("/") or is_mac_note(name))]


def is_mac_note(name: str) -> bool:
    """Returns whether a path names one of the files that macOS leaves beside others; they hold no content."""
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith("._")
