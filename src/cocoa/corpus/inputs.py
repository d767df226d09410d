"""What an embedding job reads, by its path: the kind of it, its files, and their list for later comparison."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from cocoa.corpus.sources.jsonl import JsonLines
from cocoa.corpus.sources.parquet import Parquet, ParquetReader
from cocoa.corpus.sources.pictures import PictureFolder, find_pictures, write_listing
from cocoa.corpus.sources.source import Source, Stamp, changed
from cocoa.corpus.sources.tars import Tar
from cocoa.data.tables import find_images
from cocoa.errors import DataError, UsageError
from cocoa.files import write_file
from cocoa.images import ImageSource

KINDS = {".jsonl": "jsonl", ".parquet": "parquet", ".tar": "tar"}
"""By the end of a file's name, in capitals or not."""
ARCHIVE = "images.zip"
_PACKED_TAR = re.compile(r".+\.(tar\.(gz|bz2|xz|zst|lz4|z)|tgz|tbz2|txz)", re.IGNORECASE)


@dataclass(frozen=True)
class Input:
    """The files of an input, of one kind, in the order of their names; a folder of pictures counts as one file."""

    path: Path
    kind: str
    files: tuple[Path, ...]

    @classmethod
    def find(cls, path: str | Path) -> Input:
        """Returns the input at a path: a jsonl, parquet or tar file, a folder of them, or a folder of pictures.

        Raises `E_USAGE_INPUT` for what is no path, `E_DATA_FILE` if nothing is there, `E_DATA_PATH` for a path that is
        not UTF-8, `E_DATA_READ` for another kind of file or a folder of several kinds.
        """
        if re.match(r"[A-Za-z][\w+-]+:", str(path)):
            raise UsageError(
                "E_USAGE_INPUT", "an input is a path on this machine, not a URL or a pipe", where=str(path)
            )
        # A link to a file keeps its name, which says what it is, and its place, where the pictures are.
        root = Path(path).resolve() if Path(path).is_dir() else Path(path).parent.resolve() / Path(path).name
        _check_utf8(root)
        if root.is_file():
            return cls(root, _kind(root), (root,))
        if not root.is_dir():
            raise DataError("E_DATA_FILE", "no such file or folder", where=str(path))
        tables = sorted(file for file in root.iterdir() if file.suffix.lower() in KINDS and file.is_file())
        tables = [file for file in tables if not file.name.startswith(".")]
        for file in tables:
            _check_utf8(file)
        kinds = {KINDS[file.suffix.lower()] for file in tables}
        if len(kinds) > 1:
            what = f"folder holds {' and '.join(sorted(kinds))} files: give one kind of them a folder of its own"
            raise DataError("E_DATA_READ", what, where=str(path))
        if not tables:
            return cls(root, "pictures", (root,))
        if kinds == {"tar"}:
            for file in root.iterdir():
                _check_not_packed(file)
        return cls(root, kinds.pop(), tuple(tables))

    def stamps(self) -> Iterator[Stamp]:
        """Yields the stamp of every file, the archive of pictures beside tables included."""
        if self.kind == "pictures":
            yield from find_pictures(self.path)
            return
        for file in self.files:
            yield Stamp.of(file, file.name)
        archive = self.files[0].parent / ARCHIVE
        if self.kind != "tar" and archive.is_file():
            yield Stamp.of(archive, ARCHIVE)

    def write_listing(self, path: Path) -> None:
        """Writes the list of all stamps. Raises `E_DATA_EMPTY` if there are none."""
        if next(self.stamps(), None) is None:
            raise DataError("E_DATA_EMPTY", "folder holds no pictures and no tables", where=str(self.path))
        write_file(path, write_listing(self.stamps()))

    def compare(self, path: Path) -> None:
        """Raises `E_SHARD_CHANGED` naming the first file that is not as a listing has it."""
        folder = self.path if self.path.is_dir() else self.path.parent
        with path.open("rb") as stream:
            for line, now in zip_longest(stream, self.stamps()):
                before = Stamp(*json.loads(line)) if line is not None else None
                if before == now:
                    continue
                if before is None or (now is not None and _order(now) < _order(before)):
                    assert now is not None
                    raise changed(folder / now.name, "has come")
                is_there = now is not None and now.name == before.name
                raise changed(folder / before.name, "has changed" if is_there else "is gone")

    def check_archive(self, listing: Path) -> None:
        """Raises `E_SHARD_CHANGED` if the archive of pictures beside tables is not as a listing has it."""
        if self.kind not in ("jsonl", "parquet"):
            return
        with listing.open("rb") as stream:
            [line] = deque(stream, maxlen=1)  # behind the tables, which may be many: this is asked for each shard
        last = Stamp(*json.loads(line))
        archive = self.files[0].parent / ARCHIVE
        if last.name == ARCHIVE:
            last.check(archive)
        elif archive.is_file():
            raise changed(archive, "has come")

    def sources(self, listing: Path, reader: ParquetReader, wanted: frozenset[str] | None = None) -> list[Source]:
        """Returns the files of the input, to be read as they stand in a listing."""
        if self.kind == "pictures":
            return [PictureFolder(self.path, listing)]
        with listing.open("rb") as stream:
            stamps = [Stamp(*json.loads(line)) for line in stream]
        made: list[Source] = []
        for file, stamp in zip(self.files, stamps, strict=False):
            match self.kind:
                case "jsonl":
                    made.append(JsonLines(file, stamp))
                case "parquet":
                    made.append(Parquet(file, stamp, reader, wanted))
                case _:
                    made.append(Tar(file, stamp, self.prefix(len(made))))
        return made

    def prefix(self, file: int) -> str:
        """Returns what goes before the ids that a file has for itself, so that they differ between files."""
        return f"{self.files[file].name}:" if len(self.files) > 1 else ""

    def finder(self) -> Callable[[str], ImageSource]:
        """Returns what finds the pictures that a table names."""
        return find_images(self.files[0].parent)


def _check_utf8(path: Path) -> None:
    """Raises `E_DATA_PATH` for a path that no text can hold: it would be part of what a result shows of each row."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = str(path).encode("utf-8", "backslashreplace").decode()
        raise DataError("E_DATA_PATH", "the path is not UTF-8: rename the folder or file", where=shown) from error


def _order(stamp: Stamp) -> tuple[bool, list[str]]:
    """What stamps are sorted by: folder by folder, and the archive of pictures behind the tables."""
    return stamp.name == ARCHIVE, stamp.name.split("/")


def _check_not_packed(path: Path) -> None:
    if _PACKED_TAR.fullmatch(path.name):
        raise DataError("E_DATA_READ", "a compressed tar cannot be read in parts: decompress it", where=str(path))


def _kind(path: Path) -> str:
    if path.suffix.lower() in KINDS:
        return KINDS[path.suffix.lower()]
    _check_not_packed(path)
    if path.suffix.lower() == ".json":
        raise DataError(
            "E_DATA_READ", "a .json file cannot be read in parts: write one object a line, .jsonl", where=str(path)
        )
    known = ", ".join(sorted(KINDS))
    raise DataError("E_DATA_READ", f"not a folder of pictures and not one of {known}", where=str(path))
