"""Rows of a tar in the way of WebDataset: members that share a stem are one row; read in place, never extracted."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from cocoa.archives import is_mac_note
from cocoa.corpus.sources.pictures import PICTURE_SUFFIXES
from cocoa.corpus.sources.source import LONGEST_ROW, Part, Raw, Stamp, Tally, kind_of
from cocoa.data.tables import inside
from cocoa.errors import CocoaError, DataError, ImageError
from cocoa.images import DEFAULT_LIMITS

_LONGEST_HEADER = 1 << 20


@dataclass
class _Row:
    """The members of a row: the byte where the first begins, and those of a kind that is read, by their suffix."""

    key: str
    offset: int
    members: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    error: CocoaError | None = None


class _Headers(io.BufferedReader):
    """A file whose reader cannot be made to read a header of gigabytes into memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _LONGEST_HEADER:
            raise tarfile.ReadError("header too large")
        return super().read(size)


@dataclass(frozen=True)
class Tar:
    """A tar file; `prefix` goes before the keys of its rows, where several tars may use the same."""

    path: Path
    stamp: Stamp
    prefix: str = ""
    named: ClassVar[bool] = True

    def scan(self, tally: Tally) -> None:
        """Tells of every row; of the members only those of JSON are read."""
        with self.path.open("rb") as file:
            for number, row in enumerate(self._rows(0), 1):
                size = sum(row.members[kind].size for kind in (".txt", ".json") if kind in row.members)
                for name, value in self._json(file, row).items():
                    if value is not None:
                        tally.column(name, kind_of(value), self._where(row))
                tally.row(number, row.offset, min(size, LONGEST_ROW), self.prefix + row.key)

    def read(self, part: Part) -> Iterator[Raw]:
        """Yields the rows of a part."""
        self.stamp.check(self.path)
        with self.path.open("rb") as file:
            for number, row in enumerate(islice(self._rows(part.offset), part.rows), part.first):
                yield self._raw(file, row, number)
        self.stamp.check(self.path)

    def _where(self, row: _Row) -> str:
        return f"{self.path}!{row.key}".encode("utf-8", "backslashreplace").decode()

    def _rows(self, offset: int) -> Iterator[_Row]:
        row: _Row | None = None
        for member in self._members(offset):
            if member.isdir() or _is_hidden(member.name):
                continue
            key, suffix = _split(member.name)
            if row is None or key != row.key:
                if row is not None:
                    yield row
                row = _Row(key, member.offset)
            _add(row, suffix, member)
        if row is not None:
            yield row

    def _members(self, offset: int) -> Iterator[tarfile.TarInfo]:
        """The members from a byte on. tarfile takes a damaged header for the end, so the end is looked at again."""
        number = 0
        with _Headers(io.FileIO(self.path)) as file:
            file.seek(offset)
            try:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    while (member := tar.next()) is not None:
                        number += 1
                        tar.members.clear()  # type: ignore[attr-defined]  # It would keep all of them.
                        yield member
                    file.seek(tar.offset)
                    end = file.tell()
                    while block := file.read(_LONGEST_HEADER):
                        if block.strip(b"\0"):
                            raise tarfile.ReadError("a damaged header, or another tar behind its end")
                    if file.tell() == end:
                        raise tarfile.ReadError("it has no end, so more may have been there")
            except (tarfile.TarError, OSError, ValueError, OverflowError, EOFError, RecursionError) as error:
                if isinstance(error, DataError):
                    raise
                what = f"the tar cannot be read after member {number} from byte {offset} on: {_reason(error)}"
                raise DataError("E_DATA_READ", what, where=str(self.path)) from error

    def _json(self, file: BinaryIO, row: _Row) -> dict[str, Any]:
        """The object in a row's JSON; nothing if there is none that can be read, which `_raw` says of the row."""
        try:
            content = json.loads(_content(file, row, ".json", LONGEST_ROW) or b"{}")
        except (ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def _raw(self, file: BinaryIO, row: _Row, number: int) -> Raw:
        where, fields = self._where(row), {"id": self.prefix + row.key}
        try:
            if row.error is not None:
                raise row.error
            held, place = self._fields(file, row)
            return Raw(where, number, held | fields, place=place)
        except CocoaError as error:
            return Raw(where, number, fields, error.at(where))

    def _fields(self, file: BinaryIO, row: _Row) -> tuple[dict[str, Any], str]:
        """The fields of a row, and where its picture is."""
        fields: dict[str, Any] = {}
        place = ""
        if ".json" in row.members:
            try:
                fields = json.loads(_content(file, row, ".json", LONGEST_ROW))
            except (ValueError, RecursionError) as error:
                if isinstance(error, DataError):
                    raise
                raise DataError("E_DATA_READ", "the .json member is not valid JSON") from error
            if not isinstance(fields, dict):
                raise DataError("E_DATA_READ", "the .json member is not an object")
            fields.pop("image", None)  # The picture is the member, whatever the JSON calls so.
        if ".txt" in row.members:
            try:
                fields["text"] = _content(file, row, ".txt", LONGEST_ROW).decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise DataError("E_DATA_READ", "the .txt member is not UTF-8") from error
        if picture := next((kind for kind in row.members if kind in PICTURE_SUFFIXES), None):
            if row.members[picture].size > DEFAULT_LIMITS.max_bytes:
                what = f"image {row.members[picture].name!r} is larger than {DEFAULT_LIMITS.max_bytes} bytes"
                raise ImageError("E_IMAGE_TOO_LARGE", what)
            fields["image"] = _content(file, row, picture, DEFAULT_LIMITS.max_bytes)
            place = f"{self.path}!{row.members[picture].name}"
        return fields, place


def _is_hidden(name: str) -> bool:
    """Whether a member is hidden, as those are that macOS puts before each file; a folder's are not read either."""
    return is_mac_note(name) or any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def _split(name: str) -> tuple[str, str]:
    """The stem that members of a row share, up to the first dot of the file's name, and the rest."""
    folder, slash, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return folder + slash + stem, (dot + suffix).lower()


def _add(row: _Row, suffix: str, member: tarfile.TarInfo) -> None:
    try:
        inside(member.name)
    except DataError as error:
        row.error = error
        return
    if suffix not in PICTURE_SUFFIXES and suffix not in {".txt", ".json"}:
        return
    if not member.isreg() or member.issparse():
        row.error = DataError("E_DATA_PATH", f"member {member.name!r} is a link or a device, not a file")
    elif suffix in row.members or (suffix in PICTURE_SUFFIXES and PICTURE_SUFFIXES & row.members.keys()):
        row.error = DataError("E_DATA_READ", f"member {member.name!r} is one of two of its kind in a row")
    else:
        row.members[suffix] = member


def _content(file: BinaryIO, row: _Row, kind: str, limit: int) -> bytes:
    member = row.members.get(kind)
    if member is None:
        return b""
    if member.size > limit:
        raise DataError("E_DATA_TOO_LONG", f"member {member.name!r} is longer than {limit} bytes")
    file.seek(member.offset_data)
    content = file.read(member.size)
    if len(content) < member.size:
        raise DataError("E_DATA_READ", f"member {member.name!r} is cut short")
    return content


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, tarfile.TarError) else type(error).__name__
