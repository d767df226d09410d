"""Where a picture comes from, what it is called in errors and keys, and its bytes."""

from __future__ import annotations

import hashlib
import stat
import threading
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cocoa.archives import UNREADABLE, open_archive
from cocoa.errors import ImageError
from cocoa.images.limits import Fail, ImageLimits

_ORIENTATION = 0x0112
_LOCKS = tuple(threading.RLock() for _ in range(251))
"""More than threads that read pictures, so that two seldom wait for each other's."""


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """One picture inside a zip archive; the archive is read in place, never extracted."""

    archive: Path
    member: str

    def __str__(self) -> str:
        return f"{self.archive}!{self.member}"


ImageSource = str | Path | bytes | Image.Image | ArchivedImage
"""Where a picture comes from: a path, the bytes of a file, a PIL picture or a member of a zip archive."""


def image_key(source: ImageSource) -> str:
    """Returns a stable identity of a source: its place for a reference, a digest of its content otherwise."""
    if isinstance(source, bytes):
        return "bytes:" + hashlib.sha256(source).hexdigest()
    if isinstance(source, Image.Image):
        with lock_of(source):
            source.load()
        digest = hashlib.sha256(f"{source.mode} {source.size} ".encode())
        digest.update(source.tobytes())
        # Equal indices under another palette, key colour, orientation or profile are another picture.
        palette = source.getpalette("RGBA") if source.mode in ("P", "PA") else None
        digest.update(repr((palette, source.info.get("transparency"), orientation(source))).encode())
        digest.update(profile_of(source))
        return "pixels:" + digest.hexdigest()
    place = f"zip:{source}" if isinstance(source, ArchivedImage) else f"file:{Path(source)}"
    return place.encode("utf-8", "backslashreplace").decode()


def lock_of(image: Image.Image) -> threading.RLock:
    """Returns the lock that whoever loads a picture given as an object holds.

    Several items may share the object, and Pillow mixes up the pixels or the notes of one that two threads load.
    """
    return _LOCKS[id(image) % len(_LOCKS)]


def orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 without a readable one: a broken note must not cost the picture."""
    try:
        with lock_of(image):
            value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow's EXIF parser raises nearly anything on garbage.
        return 1
    return value if isinstance(value, int) else 1


def profile_of(image: Image.Image) -> bytes:
    """Returns the colour profile that came with a picture, empty without one."""
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) else b""


def name_of(source: object) -> str:
    """Returns what a source is called in an error."""
    if isinstance(source, Image.Image):
        return "(PIL picture)"
    if isinstance(source, bytes):
        return f"({len(source)} bytes)"
    if isinstance(source, str | Path | ArchivedImage):
        text = str(source)
        return repr(text if len(text) <= 300 else f"...{text[-300:]}")
    return f"({type(source).__name__})"


def read_bytes(source: str | Path | bytes | ArchivedImage, limits: ImageLimits, fail: Fail) -> bytes:
    """Returns the bytes of a file, never more than the limit."""
    too_large = f"is larger than {limits.max_bytes} bytes; make it smaller"
    try:
        if isinstance(source, bytes):
            data = source
        elif isinstance(source, ArchivedImage):
            archive = open_archive(source.archive)
            info = archive.getinfo(source.member)
            # The declared size is a hard bound: zipfile never yields more than it.
            if info.file_size > limits.max_bytes:
                raise fail("E_IMAGE_TOO_LARGE", too_large)
            data = archive.read(info)
        elif isinstance(source, str | Path):
            # A pipe or a device could block for ever, so nothing but a plain file is opened.
            if not stat.S_ISREG(Path(source).stat().st_mode):
                raise fail("E_IMAGE_OPEN", "is not a file")
            with Path(source).open("rb") as file:
                data = file.read(limits.max_bytes + 1)
        else:
            raise fail("E_IMAGE_OPEN", "is not a path, bytes, an archive member or a PIL picture")
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError, KeyError) as error:
        raise fail("E_IMAGE_MISSING", "does not exist") from error
    except UNREADABLE as error:
        raise fail("E_IMAGE_OPEN", "cannot be read from disk") from error
    if len(data) > limits.max_bytes:
        raise fail("E_IMAGE_TOO_LARGE", too_large)
    return data
