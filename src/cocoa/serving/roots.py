"""Files that requests may name: those inside configured folders, by no way around."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from cocoa.errors import ImageError, UsageError

_LONGEST = 4096
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without waiting: a pipe that nobody writes to must not hold up whoever opens it.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Roots:
    """Folders whose plain files may be read.

    Raises `UsageError` E_USAGE_ROOT for one that is no folder.
    """

    def __init__(self, folders: Sequence[str | Path]) -> None:
        self._folders: list[Path] = []
        for folder in folders:
            path = Path(folder).resolve()
            if not path.is_dir():
                raise UsageError("E_USAGE_ROOT", "the folder of pictures does not exist", where=str(folder))
            self._folders.append(path)

    def read(self, reference: str | Path, limit: int, where: str = "") -> bytes:
        """Returns the bytes of a file, found as `open` finds it.

        Raises:
            ImageError: E_IMAGE_MISSING as `open` does; E_IMAGE_TOO_LARGE for more than `limit` bytes.
        """
        try:
            with self.open(reference, where) as opened:
                data = opened.read(limit + 1)
        except OSError:
            raise _missing(where) from None
        if len(data) > limit:
            raise ImageError("E_IMAGE_TOO_LARGE", f"the picture is larger than {limit} bytes", where=where)
        return data

    def open(self, reference: str | Path, where: str = "") -> BinaryIO:
        """Returns a plain file that `reference` names, absolute or relative to one of the folders, open for reading.

        Each step of the way is opened from the one before and must be no link, so that nothing that is changed
        meanwhile leads out.

        Raises:
            ImageError: E_IMAGE_MISSING for what is not there, not a plain file, or not inside: which of these is not
                told.
        """
        text = os.fspath(reference)
        if not text or len(text) > _LONGEST or "\0" in text or ".." in Path(text).parts:
            raise _missing(where)
        for folder in self._folders:
            try:
                steps = Path(text).relative_to(folder).parts if Path(text).is_absolute() else Path(text).parts
            except ValueError:  # Not inside this one.
                continue
            if not steps:
                continue
            try:
                return self._opened(folder, steps)
            except (OSError, ValueError):  # The caller learns of all of these that there is none.
                continue
        raise _missing(where)

    @staticmethod
    def _opened(folder: Path, steps: Sequence[str]) -> BinaryIO:
        place = os.open(folder, _FOLDER)
        try:
            for step in steps[:-1]:
                inner = os.open(step, _FOLDER, dir_fd=place)
                os.close(place)
                place = inner
            # Opening a device may do something already; what is swapped in after this look is found out below.
            _check_plain(os.stat(steps[-1], dir_fd=place, follow_symlinks=False))
            opened = os.fdopen(os.open(steps[-1], _FILE, dir_fd=place), "rb")
        finally:
            os.close(place)
        try:
            _check_plain(os.fstat(opened.fileno()))
        except OSError:
            opened.close()
            raise
        return opened


def _check_plain(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a plain file")


def _missing(where: str) -> ImageError:
    return ImageError("E_IMAGE_MISSING", "there is no such picture in the folders that may be read", where=where)
