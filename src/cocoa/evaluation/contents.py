"""Which samples have the same content: their text, and the bytes of their pictures; no picture is decoded for it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from cocoa.data.mmeb_folders import raise_all
from cocoa.errors import CocoaError, DataError, ImageError
from cocoa.evaluation.store import Made, Store, Work
from cocoa.images import DEFAULT_LIMITS, ArchivedImage, ImageSource, image_key, open_rgb, picture_size
from cocoa.images.sources import name_of, read_bytes
from cocoa.sample import Sample

_PICTURES = 1024
"""Pictures whose digests are written together."""

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Content:
    """A distinct sample: the first of those that are equal, its key, digests and sizes in pixels of its pictures."""

    key: str
    sample: Sample
    pictures: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Picture:
    """What a picture's file says without decoding: a digest of its bytes, width and height in pixels."""

    digest: str
    size: tuple[int, int]


def distinct_contents(
    samples: Iterable[Sample], store: Store, *, workers: int, on_progress: OnProgress | None = None
) -> tuple[list[Content], dict[int, int]]:
    """Returns the distinct samples, and which of them each sample object (by its `id`) is.

    `store` keeps what was read of a file until its size or time of change is another. `on_progress` is told how many
    pictures of how many have been looked at.

    Raises:
        ImageError: for a file that is no picture or cannot be read; FolderError E_DATA_FOLDER for several, at once.
        DataError: E_DATA_EMPTY for a sample with nothing in it.
    """
    # Candidates of many questions are one object.
    objects = {id(sample): sample for sample in samples}
    named: dict[str, tuple[ImageSource, str]] = {}
    keys: dict[int, list[str]] = {}
    for identity, sample in objects.items():
        if not sample.text and not sample.images:
            raise DataError("E_DATA_EMPTY", "sample has neither text nor picture", where=sample.where)
        keys[identity] = [_place(image) for image in sample.images]
        for key, image in zip(keys[identity], sample.images, strict=True):
            named.setdefault(key, (image, sample.where))
    pictures = _look(named, store, workers, on_progress)
    contents: list[Content] = []
    numbers: dict[str, int] = {}
    of: dict[int, int] = {}
    for identity, sample in objects.items():
        found = [pictures[key] for key in keys[identity]]
        digest = hashlib.sha256(sample.text.encode("utf-8", "surrogatepass"))
        for picture in found:
            digest.update(f"\0{picture.digest}".encode())
        content = digest.hexdigest()
        if content not in numbers:
            numbers[content] = len(contents)
            digests, sizes = tuple(one.digest for one in found), tuple(one.size for one in found)
            contents.append(Content(content, sample, digests, sizes))
        of[identity] = numbers[content]
    return contents, of


def _place(image: ImageSource) -> str:
    """The key of a picture, whatever folder this process runs in."""
    if isinstance(image, str | Path):
        return image_key(Path(os.path.abspath(image)))  # noqa: PTH100 (`resolve` asks the disk for every link)
    if isinstance(image, ArchivedImage):
        return image_key(ArchivedImage(image.archive.absolute(), image.member))
    return image_key(image)


def _look(
    named: dict[str, tuple[ImageSource, str]], store: Store, workers: int, on_progress: OnProgress | None
) -> dict[str, _Picture]:
    """What the pictures' files say, by their key; a file that has not changed is not read again."""
    stamp = cache(_stamp)
    keys = {name: _stamped(name, stamp(_file(image))) for name, (image, _) in named.items()}
    pictures = {keys[name]: picture for name, picture in named.items()}
    wanted = sorted(pictures)
    bad: list[CocoaError] = []

    def begin(some: Sequence[str]) -> list[Future[_Picture | CocoaError]]:
        return [pool.submit(_read_picture, *pictures[key]) for key in some]

    def finish(futures: list[Future[_Picture | CocoaError]]) -> Made:
        found = [future.result() for future in futures]
        bad.extend(one for one in found if isinstance(one, CocoaError))
        return Made([[one.digest, *one.size] if isinstance(one, _Picture) else None for one in found])

    def told() -> None:
        if on_progress is not None:
            on_progress(len(wanted) - len(store.unknown(wanted)), len(wanted))

    with ThreadPoolExecutor(workers, thread_name_prefix="cocoa-hash") as pool:
        pieces = [wanted[start : start + _PICTURES] for start in range(0, len(wanted), _PICTURES)]
        store.fill(pieces, Work(begin, finish), told)
    if len(bad) == 1:
        raise bad[0]
    raise_all(bad, Path(bad[0].where.rpartition(":")[0] if bad else ""))
    return {name: _Picture(fact[0], (fact[1], fact[2])) for name in named for fact in [store.facts[keys[name]]]}


def _file(image: ImageSource) -> Path | None:
    if isinstance(image, ArchivedImage):
        return image.archive
    return Path(image) if isinstance(image, str | Path) else None


def _stamp(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        status = file.stat()
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def _stamped(name: str, stamp: str) -> str:
    return hashlib.sha256(f"{name}\0{stamp}".encode()).hexdigest()[:32]


def _read_picture(image: ImageSource, where: str) -> _Picture | CocoaError:
    def fail(code: str, what: str) -> ImageError:
        return ImageError(code, f"image {name_of(image)} {what}", where=where)

    try:
        if isinstance(image, Image.Image):
            return _Picture(image_key(image), open_rgb(image, where=where).size)
        data = read_bytes(image, DEFAULT_LIMITS, fail)
        try:
            size = picture_size(data)
        except ImageError:  # It speaks of bytes; said again with the picture's name.
            size = open_rgb(image, where=where).size
    except CocoaError as error:
        return error
    return _Picture(hashlib.sha256(data).hexdigest(), size)
