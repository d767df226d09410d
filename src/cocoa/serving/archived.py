"""Pictures inside zip and tar archives that lie in the roots: found by `archive!member`, read in place."""

from __future__ import annotations

import os
import struct
import tarfile
import threading
import zipfile
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import BinaryIO

from cocoa.errors import ImageError
from cocoa.serving.roots import Roots

_KEPT = 4
"""Archives whose tables of contents are kept: one of a million members takes half a minute to read."""
_BROKEN = (OSError, EOFError, ValueError, KeyError, NotImplementedError, struct.error, zlib.error, zipfile.BadZipFile)
_LOCAL_HEADER = struct.Struct("<26xHH")

Stamp = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a member is: the byte of its header (zip) or content (tar), its bytes there, and its bytes unpacked."""

    offset: int
    num_stored: int
    num_bytes: int
    has_header: bool = False
    is_deflated: bool = False


class Archived:
    """Reads what the index names: a plain file, or a member of an archive; safe to use from several threads."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._lock = threading.Lock()
        self._tables: OrderedDict[Stamp, dict[str, _Place]] = OrderedDict()

    def read(self, place: str, limit: int) -> bytes:
        """Returns the bytes of a file, or of what stands behind a `!` in an archive.

        Raises:
            ImageError: E_IMAGE_MISSING for what is not there or may not be read; E_IMAGE_TOO_LARGE for more than
                `limit` bytes.
        """
        try:
            return self._roots.read(place, limit)
        except ImageError as error:
            parts = place.split("!")
            if error.code != "E_IMAGE_MISSING" or len(parts) == 1:
                raise
        for number in range(1, len(parts)):
            try:
                with self._roots.open("!".join(parts[:number])) as file:
                    return _content(file, self._table(file)["!".join(parts[number:])], limit)
            except ImageError as error:
                if error.code != "E_IMAGE_MISSING":
                    raise
            except _BROKEN:  # No archive, or none that has this.
                continue
        raise ImageError("E_IMAGE_MISSING", "there is no such picture in the folders that may be read")

    def _table(self, file: BinaryIO) -> dict[str, _Place]:
        """The members of an open archive by their names; no archive is kept open, so that one that is replaced goes."""
        status = os.fstat(file.fileno())
        stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        with self._lock:
            if stamp not in self._tables:
                self._tables[stamp] = _zipped(file) if file.read(2) == b"PK" else _tarred(file)
                while len(self._tables) > _KEPT:
                    self._tables.popitem(last=False)
            self._tables.move_to_end(stamp)
            return self._tables[stamp]


def _zipped(file: BinaryIO) -> dict[str, _Place]:
    is_plain = {zipfile.ZIP_STORED: False, zipfile.ZIP_DEFLATED: True}
    with zipfile.ZipFile(file) as archive:
        return {
            info.filename: _Place(
                info.header_offset, info.compress_size, info.file_size, True, is_plain[info.compress_type]
            )
            for info in archive.infolist()
            # Packed in no other way and under no password.
            if info.compress_type in is_plain and not info.flag_bits & 1
        }


def _tarred(file: BinaryIO) -> dict[str, _Place]:
    """Of a tar that is not compressed: each member lies at a place of its own."""
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            return {
                member.name: _Place(member.offset_data, member.size, member.size)
                for member in tar
                if member.isreg() and not member.issparse()
            }
    except tarfile.TarError as error:
        raise OSError("not an archive") from error


def _content(file: BinaryIO, place: _Place, limit: int) -> bytes:
    # What cannot be packed grows by little.
    if place.num_bytes > limit or place.num_stored > limit + limit // 1000 + 64:
        raise ImageError("E_IMAGE_TOO_LARGE", f"the picture is larger than {limit} bytes")
    offset = place.offset
    if place.has_header:
        offset += 30 + sum(_LOCAL_HEADER.unpack(os.pread(file.fileno(), 30, offset)))
    data = os.pread(file.fileno(), place.num_stored, offset)
    if place.is_deflated:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, place.num_bytes + 1)
    if len(data) != place.num_bytes:
        raise OSError("the member is cut short")
    return data
