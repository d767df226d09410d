"""What a job is: its pictures by content, its settings, and what differs if it is asked for again in another way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cocoa.archives import UNREADABLE, open_archive
from cocoa.data.bad_rows import BadRow
from cocoa.errors import CocoaError, DataError, ImageError, UsageError
from cocoa.files import sha256
from cocoa.images import ArchivedImage, ImageSource
from cocoa.synthesis.chats import Sampling
from cocoa.synthesis.prompts import Prompts

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_NUM_NAMED = 3


@dataclass(frozen=True)
class Plan:
    """The settings of a job and its pictures: name to content hash, in order; `bad` are those that cannot be read."""

    prompts: Prompts
    model: str
    sampling: Sampling
    max_pixels: int
    shard_size: int
    pictures: dict[str, str]
    bad: tuple[BadRow, ...] = ()

    @cached_property
    def distinct(self) -> list[str]:
        """The pictures that are asked about: the first of each content."""
        return list({digest: name for name, digest in reversed(self.pictures.items())}.values())[::-1]

    @property
    def shards(self) -> list[list[str]]:
        """The distinct pictures, cut into shards."""
        return [
            self.distinct[start : start + self.shard_size] for start in range(0, len(self.distinct), self.shard_size)
        ]

    @property
    def settings(self) -> dict[str, Any]:
        """What goes beside each row, and decides what is asked and how."""
        return {**asdict(self.sampling), "max_pixels": self.max_pixels}

    def to_json(self) -> dict[str, Any]:
        """Returns everything that a result depends on; how fast and from where it is asked for is not in it."""
        return {
            "format": 1,
            "kind": self.prompts.kind,
            "model": self.model,
            "prompts": self.prompts.name,
            "prompts_sha256": self.prompts.sha256,
            **self.settings,
            "shard_size": self.shard_size,
            "pictures": self.pictures,
            "bad": [row.to_json() for row in self.bad],
        }

    @cached_property
    def sha256(self) -> str:
        """A digest of `to_json`."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns what two plans, as JSON, differ in, in words."""
    found = [
        f"{key} is {new.get(key)!r}, was {old.get(key)!r}"
        for key in sorted((old.keys() | new.keys()) - {"pictures", "bad"})
        if old.get(key) != new.get(key)
    ]
    before, after = (_by_name(plan) for plan in (old, new))
    changes = {
        "new": [name for name in after if name not in before],
        "gone": [name for name in before if name not in after],
        "changed": [name for name in after if name in before and before[name] != after[name]],
    }
    for what, names in changes.items():
        if names:
            named = ", ".join(names[:_NUM_NAMED]) + (" and more" if len(names) > _NUM_NAMED else "")
            found.append(f"{len(names)} pictures are {what} ({named})")
    return found


def _by_name(plan: dict[str, Any]) -> dict[str, str]:
    return {**plan["pictures"]} | {row["where"]: row["code"] for row in plan["bad"]}


def list_pictures(images: Path, *, limit: int | None = None, seed: int = 0) -> list[str]:
    """Returns the names of the pictures in a folder (and the folders in it) or a zip archive, sorted.

    Hidden files are left out. `limit` draws so many, by `seed` and name alone. Raises `DataError` E_DATA_EMPTY for
    none, E_DATA_FILE for neither folder nor archive.
    """
    if images.is_dir():
        names = [path.relative_to(images).as_posix() for path in images.rglob("*") if not path.is_dir()]
    elif images.suffix == ".zip" and images.is_file():
        try:
            names = [name for name in {*open_archive(images).namelist()} if not name.endswith("/")]
        except UNREADABLE as error:
            raise DataError("E_DATA_READ", "the archive is not a readable zip file", where=str(images)) from error
    else:
        raise DataError("E_DATA_FILE", "not a folder of pictures and not a .zip archive of them", where=str(images))
    names = sorted(name for name in names if _is_picture(name))
    if not names:
        raise DataError("E_DATA_EMPTY", f"no pictures ({', '.join(sorted(_SUFFIXES))})", where=str(images))
    if limit is not None and limit < 1:
        raise UsageError("E_USAGE_LIMIT", f"limit is {limit}; use 1 or more")
    if limit is not None and limit < len(names):
        drawn = sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode("utf-8", "replace")).digest())
        names = sorted(drawn[:limit])
    return names


def _is_picture(name: str) -> bool:
    parts = Path(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and Path(name).suffix.lower() in _SUFFIXES


def hash_pictures(
    names: Sequence[str], find: Callable[[str], ImageSource]
) -> tuple[dict[str, str], tuple[BadRow, ...]]:
    """Returns name to content hash of what `find` finds, and what cannot be found or read."""
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda name: _hash(name, find), names))
    good = {name: result for name, result in zip(names, results, strict=True) if isinstance(result, str)}
    return good, tuple(result for result in results if isinstance(result, BadRow))


def _hash(name: str, find: Callable[[str], ImageSource]) -> str | BadRow:
    where = name.encode("utf-8", "backslashreplace").decode()
    try:
        if where != name:
            raise DataError("E_DATA_PATH", "the file's name is not UTF-8; rename it")
        source = find(name)
        try:
            if isinstance(source, ArchivedImage):
                with open_archive(source.archive).open(source.member) as stream:
                    return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
            assert isinstance(source, Path)
            return sha256(source)
        except UNREADABLE as error:
            raise ImageError("E_IMAGE_OPEN", f"image {name!r} cannot be read from disk") from error
    except CocoaError as error:
        return BadRow.of(error, where)
