"""Pictures of a folder and the folders in it, listed once, in the order of their paths."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar

from cocoa.corpus.sources.source import Part, Raw, Stamp, Tally
from cocoa.data.tables import check_link
from cocoa.errors import DataError, ImageError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


def find_pictures(folder: Path, below: str = "") -> Iterator[Stamp]:
    """Yields the pictures of a folder and the folders in it, by path; of one folder at a time the names are held.

    Hidden files are left out, and folders that are links are not entered.
    """
    with os.scandir(folder) as entries:
        found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    for name, is_folder in found:
        if name.startswith("."):
            continue
        if is_folder:
            yield from find_pictures(folder / name, f"{below}{name}/")
        elif Path(name).suffix.lower() in PICTURE_SUFFIXES:
            yield _stamp(folder / name, below + name)


def _stamp(path: Path, name: str) -> Stamp:
    try:
        return Stamp.of(path, name)
    except OSError:  # A link to nothing is a bad row when its turn comes.
        return Stamp(name, -1, 0)


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of a folder, as its listing has them: a line of JSON each, [name, bytes, modified]."""

    root: Path
    listing: Path
    named: ClassVar[bool] = True

    def scan(self, tally: Tally) -> None:
        """Tells of every picture."""
        with self.listing.open("rb") as file:
            offset = 0
            for number, line in enumerate(file, 1):
                # Names of files differ, so none is told to be compared with the others.
                tally.row(number, offset, 0)
                offset += len(line)

    def read(self, part: Part) -> Iterator[Raw]:
        """Yields the pictures of a part."""
        with self.listing.open("rb") as file:
            file.seek(part.offset)
            for number, line in enumerate(islice(file, part.rows), part.first):
                yield self._raw(number, Stamp(*json.loads(line)))

    def _raw(self, number: int, stamp: Stamp) -> Raw:
        path = self.root / stamp.name
        where = str(path).encode("utf-8", "backslashreplace").decode()
        fields = {"id": stamp.name, "image": path}
        if stamp.bytes < 0:
            return Raw(where, number, fields, ImageError("E_IMAGE_MISSING", "the link leads nowhere", where=where))
        stamp.check(path)
        try:
            check_link(path, self.root)
        except DataError as error:
            return Raw(where, number, fields, error.at(where))
        return Raw(where, number, fields, place=str(path))


def write_listing(stamps: Iterator[Stamp]) -> Iterator[bytes]:
    """Yields the lines of a listing."""
    for stamp in stamps:
        yield json.dumps(astuple(stamp)).encode() + b"\n"
