"""Where the images of MMEB's data sets lie, zipped or not, in any of the shapes in which people have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from cocoa.archives import UNREADABLE, member_names
from cocoa.data.tables import find_images
from cocoa.errors import DataError, ImageError
from cocoa.images import ArchivedImage, ImageSource

# MMEB-eval is unzipped into eval_images/ by its own instructions, MMEB-V2's archive holds MMEB/ below image-tasks/.
_FOLDERS = ("", "eval_images", "image-tasks", "image-tasks/MMEB", "MMEB", "images/MMEB")
_ZIP_FOLDERS = ("", "images_zip", "images", "image-tasks")
# Paths in rows begin with images/ or do not; the same holds for archives, with MMEB/ besides.
_PREFIXES = ("images/", "MMEB/")
_MISSING = "E_IMAGE_MISSING"


def find_mmeb_images(folders: Sequence[Path]) -> Callable[[str], ImageSource]:
    """Returns what turns an image path of a row into its source, with everything found checked to exist.

    Each folder is searched for zip files (`images.zip`, `images_zip/GQA.zip`, any other), then for loose images, as
    they are downloaded and as the data sets' instructions unpack them. The returned function raises DataError
    E_DATA_PATH for a path that leaves the folder, and ImageError E_IMAGE_MISSING.
    """
    present = [folder / name for folder in folders for name in _FOLDERS if (folder / name).is_dir()]
    if not present:
        listed = ", ".join(str(folder) for folder in folders)
        raise DataError("E_DATA_FILE", "the folder of the images does not exist", where=listed)
    zips = _Zips([path for folder in folders for path in _files(folder, "*.zip")])
    loose = [find_images(folder) for folder in present]
    found: dict[str, ImageSource] = {}

    def resolve(name: str) -> ImageSource:
        if name not in found:
            found[name] = _find(name, zips, loose, folders)
        return found[name]

    return resolve


def _find(
    name: str, zips: _Zips, loose: Sequence[Callable[[str], ImageSource]], folders: Sequence[Path]
) -> ImageSource:
    # The first look also refuses a name that leaves the folder.
    looks: list[Callable[[], ImageSource | None]] = [lambda: loose[0](name), lambda: zips.find(name)]
    looks += [partial(look, spelling) for spelling in dict.fromkeys((name, bare_name(name))) for look in loose]
    for look in looks:
        try:
            source = look()
        except ImageError as error:
            if error.code != _MISSING:
                raise
        else:
            if source is not None:
                return source
    packed = [str(path) for folder in folders for path in _files(folder, "*.tar.gz")]
    advice = f"; unpack {', '.join(packed)} first" if packed else ""
    places = " and ".join(str(folder) for folder in folders)
    raise ImageError(_MISSING, f"image {name!r} is in no zip file and no folder of {places}{advice}")


class _Zips:
    """The zip files of a data set, each listed when first needed."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._members: dict[Path, dict[str, str]] = {}

    def find(self, name: str) -> ArchivedImage | None:
        bare = bare_name(name)
        # A zip file that is named as the subset has its images: the others need not be listed.
        for path in sorted(self._paths, key=lambda path: path.stem not in bare.split("/")):
            member = self._list(path).get(bare)
            if member is not None:
                return ArchivedImage(path, member)
        return None

    def _list(self, path: Path) -> dict[str, str]:
        if path not in self._members:
            try:
                names = member_names(path)
            except UNREADABLE as error:
                message = "the archive is not a readable zip file"
                raise ImageError("E_IMAGE_OPEN", message, where=str(path)) from error
            members = {f"{path.stem}/{name}": name for name in names}
            members |= {bare_name(name): name for name in names}
            self._members[path] = members
        return self._members[path]


def bare_name(name: str) -> str:
    """Returns an image path as all spellings of it come to: with slashes, without `images/` and `MMEB/` in front."""
    name = name.replace("\\", "/").removeprefix("./")
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _files(folder: Path, pattern: str) -> Iterator[Path]:
    for name in _ZIP_FOLDERS:
        if (folder / name).is_dir():
            yield from sorted(path for path in (folder / name).glob(pattern) if not path.name.startswith("."))
