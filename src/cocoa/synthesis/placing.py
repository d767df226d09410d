"""The pictures where a table's paths lead, as our readers look for them: linked or copied `images/` or `images.zip`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from cocoa.archives import open_archive
from cocoa.files import write_folder
from cocoa.images import ArchivedImage, ImageSource


def link_images(images: Path, folder: Path) -> None:
    """Links a folder or archive of pictures into `folder`, by its full path."""
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / ("images.zip" if images.is_file() else "images")
    if link.is_symlink() and Path(os.readlink(link)) == images:  # noqa: PTH115 (as it is written, not resolved)
        return
    draft = folder / f".{link.name}.draft"
    draft.unlink(missing_ok=True)
    draft.symlink_to(images)
    draft.replace(link)


def place_images(images: Path, out: Path, copied: Sequence[str] | None, find: Callable[[str], ImageSource]) -> None:
    """Puts a link to the pictures into `out`, or a copy of those that are named; a copy that is there stays."""
    folder = out / "images"
    if folder.is_dir() and not folder.is_symlink():
        return  # a whole copy, for it was renamed into place
    if copied is None:
        link_images(images, out)
        return
    for link in (folder, out / "images.zip"):
        link.unlink(missing_ok=True)
    with write_folder(folder) as draft:
        for name in copied:
            source = find(name)
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_bytes(_bytes(source))


def _bytes(source: ImageSource) -> bytes:
    if isinstance(source, ArchivedImage):
        return open_archive(source.archive).read(source.member)
    assert isinstance(source, Path)
    return source.read_bytes()
