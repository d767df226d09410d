"""What has been acknowledged: a record for each commit of an embedded index, naming every file with its digest.

Lance syncs nothing to the disk and keeps no digests. So an index believes only its own records: a commit counts when
its record is there, and the record is written last, after every file that it names has been synced.

```
index.json                the card: model, columns
commits/0000000007.json   the newest records: table and version, rows, digests of all files
rows-0000000001.lance/    the table; compaction makes another one
.writer                   the lock of the one writer; the kernel takes it back from the dead
damage.json               what a failed verification found; while it is there nothing is answered
damaged/                  manifests that had to be moved out of Lance's way
```
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from cocoa.errors import IndexingError
from cocoa.failpoints import failpoint
from cocoa.files import sha256, sweep, sync, write_file

CARD = "index.json"
COMMITS = "commits"
DAMAGED = "damaged"
_LOCK = ".writer"
_KEPT = 4
_NEWEST_VERSION = 2**64 - 1
# Lance's note on where to look for the newest version; not synced, so not trusted: without it the folder is listed.
_HINT = "latest_version_hint.json"


@dataclass(frozen=True, slots=True)
class Commit:
    """An acknowledged state: `version` of `table`; `files` has [bytes, sha256] by path; `repairs` counts steps back."""

    number: int
    table: str
    version: int = 0
    rows: int = 0
    next_place: int = 0
    repairs: int = 0
    files: dict[str, list[Any]] = field(default_factory=dict)
    approximate: dict[str, Any] | None = None

    @property
    def manifest(self) -> str:
        """Where the manifest of the version is."""
        return f"{self.table}.lance/_versions/{_NEWEST_VERSION - self.version}.manifest"


class Commits:
    """The records in an index folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def newest_name(self) -> str:
        """Returns the name of the newest record, whether or not it can be read."""
        names = self._names()
        if not names:
            what = "no commit of the index is left: build it again"
            raise IndexingError("E_INDEX_DAMAGED", what, where=str(self.root))
        return names[-1]

    def newest(self, *, thorough: bool = False) -> tuple[Commit, list[str]]:
        """Returns the newest commit that can be opened, and a line for each newer one that cannot.

        Files are looked at by their size, and the table's manifest and the card by their digest; all by their digest if
        it is to be `thorough`. Raises `E_INDEX_DAMAGED` if there is none.
        """
        while True:
            skipped: list[str] = []
            names = self._names()
            for name in reversed(names):
                commit = self._read(name)
                problem = "its record is not what was written" if commit is None else self._problem(commit, thorough)
                if commit is not None and problem is None and (not skipped or self._names() == names):
                    return commit, skipped
                skipped.append(f"commit {int(name)}: {problem}")
            if self._names() == names:
                break
            # A writer has gone on meanwhile, and what it no longer needed is gone.
        what = f"no commit of the index can be opened ({'; '.join(skipped) or 'there is none'}): build it again"
        raise IndexingError("E_INDEX_DAMAGED", what, where=str(self.root))

    def damages(self) -> tuple[int, list[str]]:
        """Returns how many files were read, and a line for each file or record that is not what was written."""
        names = self._names()
        lines = [f"{COMMITS}/{name}.json: not what was written" for name in names if self._read(name) is None]
        newest = self._read(self.newest_name())
        files = {} if newest is None else newest.files
        if newest is not None:
            lines += filter(None, (self._file_problem(newest, name, thorough=True) for name in files))
        return len(files) + len(names), lines

    def acknowledge(self, previous: Commit, **facts: Any) -> Commit:
        """Returns the next commit, once every new file and then the record of it are durable."""
        commit = replace(previous, number=int(self._names()[-1]) + 1 if self._names() else 1, **facts)
        folder = self.root / f"{commit.table}.lance"
        (folder / "_versions" / _HINT).unlink(missing_ok=True)
        files: dict[str, list[Any]] = {}
        for name in self._present(commit.table):
            path = self.root / name
            if name in previous.files:
                files[name] = previous.files[name]
                continue
            sync(path)
            files[name] = [path.stat().st_size, sha256(path)]
        for path in (*(path for path in folder.rglob("*") if path.is_dir()), folder, self.root):
            sync(path)
        failpoint("index-synced")
        commit = replace(commit, files=files)
        body = asdict(commit)
        write_file(self._path(f"{commit.number:010}"), json.dumps({"sha256": _digest(body), "commit": body}) + "\n")
        failpoint("index-acknowledged")
        for name in self._names()[:-_KEPT]:
            self._path(name).unlink()
        return commit

    def sweep(self, commit: Commit) -> None:
        """Removes what belongs to no commit: what a writer left that died, and tables of old; the lock must be held."""
        for name in self._present(commit.table):
            if name not in commit.files:
                (self.root / name).unlink()
        (self.root / f"{commit.table}.lance" / "_versions" / _HINT).unlink(missing_ok=True)
        for folder in (self.root, self.root / COMMITS):
            sweep(folder)
        tables = {kept.table for name in self._names() if (kept := self._read(name))}
        for folder in self.root.glob("rows-*.lance"):
            if folder.name.removesuffix(".lance") not in tables:
                shutil.rmtree(folder)

    def set_aside(self, commit: Commit) -> None:
        """Moves manifests newer than a commit's out of Lance's way, so that the commit can be opened."""
        aside = self.root / DAMAGED
        aside.mkdir(exist_ok=True)
        versions = self.root / f"{commit.table}.lance" / "_versions"
        for path in versions.glob("*.manifest"):
            if _NEWEST_VERSION - int(path.stem) > commit.version:
                path.replace(aside / f"{commit.table}-{path.name}")
        (versions / _HINT).unlink(missing_ok=True)
        sync(versions)

    def drop_newer(self, commit: Commit) -> None:
        """Removes the records of commits newer than this one."""
        for name in self._names():
            if int(name) > commit.number:
                self._path(name).unlink()
        sync(self.root / COMMITS)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the lock of the one writer, among threads and processes; waits for it."""
        path = self.root / _LOCK
        while True:
            try:
                lock = path.open("ab")
            except OSError as error:
                raise IndexingError("E_INDEX_WRITE", "the folder cannot be written", where=str(self.root)) from error
            with lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                # While one waited the index may have been replaced, and its lock with it.
                if _is_at(lock, path):
                    yield
                    return

    def _read(self, name: str) -> Commit | None:
        """Returns a record, or None if it is not as it was written; whoever asks says so."""
        try:
            record = json.loads(self._path(name).read_bytes())
            return Commit(**record["commit"]) if record["sha256"] == _digest(record["commit"]) else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _names(self) -> list[str]:
        return sorted(path.stem for path in (self.root / COMMITS).glob("[0-9]*.json"))

    def _path(self, name: str) -> Path:
        return self.root / COMMITS / f"{name}.json"

    def _present(self, table: str) -> list[str]:
        found = sorted(path for path in (self.root / f"{table}.lance").rglob("*") if path.is_file())
        return [CARD, *(str(path.relative_to(self.root)) for path in found if path.name != _HINT)]

    def _problem(self, commit: Commit, thorough: bool) -> str | None:
        if commit.manifest not in commit.files:
            return "it names no manifest"
        return next((line for name in commit.files if (line := self._file_problem(commit, name, thorough))), None)

    def _file_problem(self, commit: Commit, name: str, thorough: bool) -> str | None:
        path, (size, digest) = self.root / name, commit.files[name]
        if not path.is_file():
            return f"{name}: missing"
        if path.stat().st_size != size or ((thorough or name in (commit.manifest, CARD)) and sha256(path) != digest):
            return f"{name}: not what was written"
        return None


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
