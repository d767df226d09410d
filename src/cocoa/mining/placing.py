"""The pictures where the mined tables' paths lead: the names stay, `images` and archives are linked or copied."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

from cocoa.archives import open_archive
from cocoa.data.mmeb_images import find_mmeb_images
from cocoa.errors import CocoaError, DataError
from cocoa.files import write_folder
from cocoa.images import ArchivedImage, ImageSource


def named_pictures(pictures: Iterable[tuple[str, ImageSource]]) -> dict[str, ImageSource]:
    """Returns name to picture; raises DataError E_DATA_PATH for a name that means two."""
    found: dict[str, ImageSource] = {}
    for name, source in pictures:
        other = found.setdefault(name, source)
        if other != source and _identity(other) != _identity(source):
            message = f"image {name!r} is {other!s} in one table and {source!s} in another; mine them apart"
            raise DataError("E_DATA_PATH", message)
    return found


def place_images(pictures: Mapping[str, ImageSource], out: Path, *, copy: bool) -> None:
    """Makes each name lead to its picture from `out`, with links to where they lie, or with copies.

    Raises:
        DataError: E_DATA_PATH where links cannot do it; copies always can.
    """
    folder = out / "images"
    is_copied = folder.is_dir() and not folder.is_symlink()  # a whole copy, for it was renamed into place
    if copy and not is_copied:
        for link in (folder, *_archive_links(out)):
            link.unlink(missing_ok=True)
        with write_folder(folder) as draft:
            for name, source in pictures.items():
                path = draft / _plain(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_bytes(source))
    if copy or is_copied or not pictures:
        return
    roots = {_root(name, Path(source)) for name, source in pictures.items() if isinstance(source, str | Path)}
    for root in roots:
        _link(root, folder)
    for archive in {source.archive.absolute() for source in pictures.values() if isinstance(source, ArchivedImage)}:
        _link(archive, out / archive.name if archive.name == "images.zip" else out / "images_zip" / archive.name)
    find = find_mmeb_images((out,))
    for name, source in pictures.items():
        if not _leads_to(find, name, source):
            message = f"image {name!r} is {source!s}, which links cannot reach; copy the images"
            raise DataError("E_DATA_PATH", message, where=str(out))


def _leads_to(find: Callable[[str], ImageSource], name: str, source: ImageSource) -> bool:
    try:
        found = find(name)
    except CocoaError:
        return False
    return _identity(found) == _identity(source)


def _identity(source: ImageSource) -> tuple[Path, str]:
    if isinstance(source, ArchivedImage):
        return source.archive.resolve(), source.member
    assert isinstance(source, str | Path)
    return Path(source).resolve(), ""


def _root(name: str, path: Path) -> Path:
    """The folder that a name is relative to, or what is left of it where the reader passed over its first folders."""
    there, named = path.absolute().parts, _plain(name).parts
    shared = next(
        size for size in range(len(named), -1, -1) if there[len(there) - size :] == named[len(named) - size :]
    )
    return Path(*there[: len(there) - shared])


def _plain(name: str) -> PurePosixPath:
    return PurePosixPath(name.replace("\\", "/"))


def _archive_links(out: Path) -> list[Path]:
    return [path for path in (out / "images.zip", *(out / "images_zip").glob("*.zip")) if path.is_symlink()]


def _link(target: Path, link: Path) -> None:
    if link.is_symlink() and Path(os.readlink(link)) == target:  # noqa: PTH115 (as it is written, not resolved)
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    draft = link.with_name(f".{link.name}.new")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target)
    draft.replace(link)


def _bytes(source: ImageSource) -> bytes:
    if isinstance(source, ArchivedImage):
        return open_archive(source.archive).read(source.member)
    assert isinstance(source, str | Path)
    return Path(source).read_bytes()
