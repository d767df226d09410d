"""The one durable write: a file or folder is there whole, or not at all."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cocoa.errors import DataError, UsageError
from cocoa.failpoints import failpoint

MANIFEST = "files.json"
_DRAFT = ".draft"
_HERE, _EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of Linux's renameat2(2), which Python does not offer."""


def write_file(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Writes a file, whole or in pieces, so that readers see the old content or the new, never a part."""
    _make_folder(path.parent)
    _write(path, content)


def _write(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Writes a file as `write_file` does; a folder that is not there is an error."""
    if isinstance(content, str):
        content = content.encode()
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_DRAFT)
    try:
        with naming(path), os.fdopen(handle, "wb") as stream:
            stream.writelines([content] if isinstance(content, bytes) else content)
            failpoint("file-written")
            stream.flush()
            os.fsync(stream.fileno())
        failpoint("file-synced")
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        failpoint("file-renamed")
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names the file in what the system says of it: that a disk is full it says of no file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def write_folder(folder: Path, *, manifest: bool = True, replace: bool = True) -> Iterator[Path]:
    """Gives a new folder to fill; when the block ends well it becomes `folder`, with a manifest of its files.

    On an error nothing is left behind and what stood at `folder` before stays. A folder is replaced in one step where
    the system can exchange two names (Linux); elsewhere it is missing for a moment, and a writer killed in that moment
    leaves it as `.NAME.old-PID`. Without `manifest` it has none: for a folder that goes on changing and keeps a record
    of its own. Where `folder` is a link, what it leads to is replaced and the link stays.

    Raises `E_USAGE_OUT`, before there is anything to fill, for a place that no new folder can take; and if it is not to
    `replace`, `FileExistsError` at the end where somebody else has filled the place meanwhile.
    """
    folder = _place_of(folder)
    _make_folder(folder.parent)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=_DRAFT))
    try:
        yield temporary
        failpoint("folder-filled")
        # Deepest first: a folder that is on the disk lists nothing that is not.
        for path in sorted(temporary.rglob("*"), reverse=True):
            if path.is_file():
                path.chmod(0o644)  # some libraries write for the owner alone
            if path.is_file() or path.is_dir():
                sync(path)
        failpoint("folder-synced")
        if manifest:
            _write_manifest(temporary)
        temporary.chmod(0o755)
        sync(temporary)
        failpoint("folder-ready")
        previous = _put_in_place(temporary, folder, replace=replace)
        failpoint("folder-renamed")
        sync(folder.parent)
        if previous:
            shutil.rmtree(previous)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def check_name(place: str | Path) -> None:
    """Raises `E_USAGE_OUT` for a name that is not UTF-8, which systems take and the libraries of tables do not."""
    try:
        str(place).encode()
    except UnicodeEncodeError as error:
        raise UsageError("E_USAGE_OUT", "the name is not UTF-8: give another", where=repr(str(place))) from error


def _place_of(folder: Path) -> Path:
    """Returns where a folder really is. Raises `E_USAGE_OUT` if nothing can change names with what is there."""
    place = folder.resolve()
    if not place.exists():
        return place
    if not place.is_dir():
        what = "it is a file, not a folder"
    elif os.path.ismount(place):
        what = "a disk is mounted there, which cannot be replaced: give a folder in it"
    elif Path.cwd().is_relative_to(place):
        what = "the folder that one is in cannot be replaced: give another, or run this from elsewhere"
    else:
        return place
    raise UsageError("E_USAGE_OUT", what, where=str(folder))


def _put_in_place(draft: Path, folder: Path, *, replace: bool) -> Path | None:
    """Gives the draft the folder's name; returns where the folder that had it is now, if there was one."""
    if not replace or not folder.exists():
        _put_where_nothing_is(draft, folder)
        return None
    if _exchange(draft, folder):
        return draft
    previous = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    folder.rename(previous)
    try:
        draft.rename(folder)
    except BaseException:
        previous.rename(folder)
        raise
    return previous


def _put_where_nothing_is(draft: Path, folder: Path) -> None:
    """Gives the draft the folder's name in one step. Raises `FileExistsError` if another has it and is not empty."""
    try:
        draft.rename(folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder)) from error


def _exchange(one: Path, other: Path) -> bool:
    """Lets two folders change names at once; false where the system or its file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _write_manifest(folder: Path) -> None:
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    # A draft that somebody has removed must not come back, empty and complete.
    _write(folder / MANIFEST, json.dumps({"files": files}, indent=1) + "\n")


def _make_folder(folder: Path) -> None:
    """Makes a folder, and those above it that are missing, so that each is on the disk by its name."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def remove_folder(folder: Path) -> None:
    """Removes a folder so that no reader takes a half of it for the whole: it loses its name first."""
    # A name of its own: what a killed removal left does not stand in the way of the next.
    doomed = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=_DRAFT))
    folder.rename(doomed)
    failpoint("folder-doomed")
    shutil.rmtree(doomed)
    failpoint("folder-removed")


def sweep(folder: Path, names: Collection[str] | None = None) -> None:
    """Removes what killed writers left in a folder, of files of these names (`*.npz`) or all; nobody may write them.

    Without names the folder must be one's own: drafts of other people's things look no different.
    """
    drafts = [f".*{_DRAFT}"] if names is None else [f".{name}.*{_DRAFT}" for name in names]
    for path in (found for draft in drafts for found in folder.glob(draft)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns `bytes` and `sha256` of each file of a complete folder, by name; raises `E_DATA_INCOMPLETE`."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return {str(name): {"bytes": entry["bytes"], "sha256": entry["sha256"]} for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            "E_DATA_INCOMPLETE", f"no readable {MANIFEST}: not a complete folder", where=str(folder)
        ) from error


def check_folder(folder: Path, *, hashes: bool | int = False, free: Collection[str] = ()) -> None:
    """Raises `E_DATA_INCOMPLETE` if a file that the folder's manifest names is missing or of another size (or hash).

    A number for `hashes` compares those of files of at most so many bytes. Files in `free` may have changed.
    """
    for name, entry in read_manifest(folder).items():
        if name in free:
            continue
        path = folder / name
        if not path.is_file():
            raise DataError("E_DATA_INCOMPLETE", f"{name} is missing", where=str(folder))
        if path.stat().st_size != entry["bytes"]:
            raise DataError(
                "E_DATA_INCOMPLETE", f"{name} has {path.stat().st_size} bytes, not {entry['bytes']}", where=str(folder)
            )
        if (hashes is True or (hashes and entry["bytes"] <= hashes)) and sha256(path) != entry["sha256"]:
            raise DataError("E_DATA_INCOMPLETE", f"{name} is not the file that was written", where=str(folder))


def sha256(path: Path) -> str:
    """Returns the hex digest of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Returns when the file's content, or the folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
