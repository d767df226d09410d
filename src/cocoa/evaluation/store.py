"""What is known of things by their keys, in a folder that several processes fill together and that outlives them.

A shard (a folder with keys, facts and perhaps vectors) is there whole or not at all. Who works on which keys is said by
locks that the kernel takes back when a process dies, so nothing that a dead process claimed is lost or waited for.
Shapes: N keys of a shard, D dimensions.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from cocoa.claims import Claims
from cocoa.errors import CocoaError, DataError
from cocoa.files import check_folder, write_folder

_AHEAD = 1
"""Pieces that are prepared while one is worked on."""
_PATIENCE = 0.1
"""Seconds between two looks at what others have done."""

Pieces = Sequence[Sequence[str]]
Begun = TypeVar("Begun")


@dataclass(frozen=True)
class Made:
    """What was found out about some keys: a fact each (anything that JSON has), and float32 [N, D] if wanted.

    A fact that is None says that there is nothing to know: it is not kept, and this process does not ask again.
    """

    facts: Sequence[Any]
    vectors: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Work(Generic[Begun]):
    """How keys become known: `begin` starts to read what it needs, `finish` says what came of it."""

    begin: Callable[[Sequence[str]], Begun]
    finish: Callable[[Begun], Made]


class Store:
    """Facts by key, and the vectors that some have; for `with`, whose end gives back what this process has claimed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = {}
        self.vectors: dict[str, NDArray[np.float32]] = {}
        self._read: set[str] = set()
        self._given_up: set[str] = set()
        self._claims = Claims(folder)

    def __enter__(self) -> Store:
        try:
            self.refresh()
        except BaseException:
            self._claims.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._claims.close()

    def refresh(self) -> None:
        """Reads the shards that have come since the last look, by any process."""
        names = {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}
        for name in sorted(names - self._read):
            self._load(self.folder / name)
            self._read.add(name)

    def unknown(self, keys: Sequence[str]) -> list[str]:
        """Returns the keys of which nothing is known yet."""
        return [key for key in keys if key not in self.facts and key not in self._given_up]

    def fill(self, pieces: Pieces, work: Work[Begun], on_progress: Callable[[], None] | None = None) -> None:
        """Returns when all keys are known, after doing what no other process does.

        Every process must be given the same pieces; each takes the next that nobody has, and what it has taken it
        commits as one shard. `on_progress` is called whenever more is known.
        """
        waiting: deque[Sequence[str]] = deque(piece for piece in pieces if self.unknown(piece))
        ahead: deque[tuple[list[str], Begun]] = deque()
        while waiting or ahead:
            keys = self._take(waiting) if len(ahead) <= _AHEAD else []
            if keys:
                self._remove_drafts(_name(keys))
                ahead.append((keys, work.begin(keys)))
            elif ahead:
                keys, begun = ahead.popleft()
                self._add(keys, work.finish(begun))
                self._claims.release(_name(keys))
            else:
                time.sleep(_PATIENCE)
                self.refresh()
            if on_progress is not None:
                on_progress()

    def _take(self, waiting: deque[Sequence[str]]) -> list[str]:
        """What is unknown of the next piece that nobody has, claimed; nothing if others have all that is left."""
        for _ in range(len(waiting)):
            piece = waiting.popleft()
            keys = self.unknown(piece)
            # Not the piece is claimed but the shard to be: a run with other pieces may be left with the same keys.
            while keys and self._claims.take(_name(keys)):
                # Whoever had it may have committed it since the last look.
                self.refresh()
                left = self.unknown(piece)
                if left == keys:
                    return keys
                self._claims.release(_name(keys))
                keys = left
            if keys:
                waiting.append(piece)
        return []

    def _remove_drafts(self, name: str) -> None:
        """Removes what killed writers of a shard left; only who has claimed it may call this."""
        for path in self.folder.glob(f".{name}.*"):
            shutil.rmtree(path)

    def _add(self, asked: Sequence[str], made: Made) -> None:
        found = [place for place, fact in enumerate(made.facts) if fact is not None]
        self._given_up.update(set(asked) - {asked[place] for place in found})
        if not found:
            return
        keys, facts = [asked[place] for place in found], [made.facts[place] for place in found]
        vectors = None if made.vectors is None else np.ascontiguousarray(made.vectors[found], np.float32)
        # Named after what was asked for, so that it never takes the place of a shard that has something else.
        path = self.folder / _name(asked)
        with write_folder(path) as draft:
            (draft / "facts.json").write_text(json.dumps({"keys": keys, "facts": facts}) + "\n")
            if vectors is not None:
                save_file({"vectors": vectors}, draft / "vectors.safetensors")
        self._know(keys, facts, vectors)
        self._read.add(path.name)

    def _load(self, path: Path) -> None:
        try:
            check_folder(path, hashes=True)
            content = json.loads((path / "facts.json").read_text())
            held = path / "vectors.safetensors"
            self._know(content["keys"], content["facts"], load_file(held)["vectors"] if held.is_file() else None)
        except (CocoaError, OSError, ValueError, KeyError, TypeError) as error:
            what = f"the shard is not as it was written ({error}); remove it to compute it again"
            raise DataError("E_DATA_INCOMPLETE", what, where=str(path)) from error

    def _know(self, keys: Sequence[str], facts: Sequence[Any], vectors: NDArray[np.float32] | None) -> None:
        # What was known first stays: a key has one vector, even if two processes have computed it.
        for place, (key, fact) in enumerate(zip(keys, facts, strict=True)):
            if key not in self.facts:
                self.facts[key] = fact
                if vectors is not None:
                    self.vectors[key] = vectors[place]


def _name(keys: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:32]
