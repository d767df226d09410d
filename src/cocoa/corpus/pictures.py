"""The picture that a hit points at: a file, or `archive!member` of a zip or tar archive that is read in place."""

from __future__ import annotations

import tarfile
from pathlib import Path

from PIL import Image

from cocoa.errors import ImageError
from cocoa.images import ArchivedImage, open_rgb
from cocoa.images.limits import DEFAULT_LIMITS


def open_picture(place: str) -> Image.Image:
    """Returns a document's picture in RGB, by what its `image` says. Raises `ImageError` for what cannot be opened."""
    if _is_file(Path(place)):
        return open_rgb(Path(place))
    parts = place.split("!")
    for number in range(1, len(parts)):
        archive, member = Path("!".join(parts[:number])), "!".join(parts[number:])
        if _is_file(archive):
            is_zip = archive.suffix.lower() == ".zip"
            return open_rgb(ArchivedImage(archive, member) if is_zip else _tar_member(archive, member))
    raise ImageError("E_IMAGE_MISSING", "the picture is not there any more", where=place)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # A name too long for the system: whoever writes rows may call a picture anything.
        return False


def _tar_member(archive: Path, member: str) -> bytes:
    where = f"{archive}!{member}"
    try:
        with tarfile.open(archive) as tar:
            held = tar.getmember(member)
            content = tar.extractfile(held) if held.isreg() and held.size <= DEFAULT_LIMITS.max_bytes else None
            if content is None:
                raise ImageError("E_IMAGE_OPEN", "not a file, or too large for a picture", where=where)
            return content.read()
    except (OSError, tarfile.TarError, KeyError) as error:
        raise ImageError("E_IMAGE_MISSING", "the archive does not have it", where=where) from error
