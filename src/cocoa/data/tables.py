"""Tables of rows from parquet, jsonl or json, and the images that their rows name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import count, islice
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from cocoa.archives import UNREADABLE, is_mac_note, member_names
from cocoa.data.bad_rows import OnBad, fail
from cocoa.errors import CocoaError, DataError, ImageError
from cocoa.images import ArchivedImage, ImageSource

TABLE_SUFFIXES = (".parquet", ".jsonl", ".json")

# Said about tables: our manifests, and what the hub's older data sets carry.
_NO_TABLES = frozenset({"manifest.json", "files.json", "dataset_infos.json"})
_LONGEST_LINE = 10_000_000
_REMEMBERED = 1 << 16
"""Image paths whose place is remembered: tables may name millions."""

Made = TypeVar("Made")

Keep = Callable[[dict[str, Any], str], bool]
"""Whether a row, read at a place, is wanted."""


def find_tables(folder: Path) -> list[Path]:
    """Returns the tables directly in a folder, by name, without hidden files and manifests."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.suffix in TABLE_SUFFIXES and path.is_file())
    return sorted(path for path in found if path.name not in _NO_TABLES and not path.name.startswith("."))


def read_each(
    shards: Sequence[Path],
    columns: Sequence[str],
    optional: Sequence[str],
    make: Callable[[dict[str, Any], str], Made],
    *,
    limit: int | None = None,
    on_bad: OnBad = fail,
    keep: Keep | None = None,
) -> list[Made]:
    """Returns what `make(row, where)` makes of the rows of a table, shard by shard in order, the first `limit` of them.

    Rows that `keep(row, where)` is false for are left out. Rows that cannot be read, or that `make` raises a CocoaError
    for, go to `on_bad` and do not count; rows after the last that is wanted are not looked at.

    Raises:
        DataError: E_DATA_EMPTY if no row is left in any shard (E_DATA_COLUMN if all of them lack columns), and what
            `number_rows` raises.
    """
    problems: dict[str, CocoaError] = {}
    num_unwanted = 0

    def refuse(error: CocoaError) -> None:
        problems.setdefault(error.code, error)
        on_bad(error)

    def good() -> Iterator[Made]:
        nonlocal num_unwanted
        rows = ((path, *each) for path in shards for each in number_rows(path, columns, optional, refuse))
        for path, number, row in rows:
            where = f"{path}:{number}"
            try:
                if keep is not None and not keep(row, where):
                    num_unwanted += 1
                    continue
                made = make(row, where)
            except CocoaError as error:
                refuse(error.at(where))
            else:
                yield made

    kept = list(islice(good(), limit))
    if not kept:
        raise _no_rows(shards[0] if len(shards) == 1 else shards[0].parent, problems, num_unwanted)
    return kept


def number_rows(
    path: Path, columns: Sequence[str], optional: Sequence[str] = (), on_bad: OnBad = fail
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields each row with its number from 1 (its line in a jsonl file), with the named columns.

    A row has an optional column if the table has it; in json and jsonl, if the row itself has it. There, a row that
    is no object with all of `columns`, or a line that is not JSON, goes to `on_bad` and is left out.

    Raises:
        DataError: E_DATA_FILE, E_DATA_READ or E_DATA_COLUMN, for the table as a whole.
    """
    where = str(path)
    if not path.is_file():
        what = "is a folder, not a table" if path.is_dir() else "the table does not exist"
        raise DataError("E_DATA_FILE", what, where=where)
    if path.suffix not in TABLE_SUFFIXES:
        raise DataError("E_DATA_READ", f"a table ends in one of {', '.join(TABLE_SUFFIXES)}", where=where)
    try:
        if path.suffix == ".parquet":
            yield from _read_parquet(path, columns, optional)
        else:
            content = _read_jsonl(path, on_bad) if path.suffix == ".jsonl" else _read_json(path)
            yield from _pick(path, content, columns, optional, on_bad)
    except (OSError, pa.ArrowException) as error:
        raise DataError("E_DATA_READ", f"the {path.suffix[1:]} file cannot be read", where=where) from error
    except UnicodeDecodeError as error:
        raise DataError("E_DATA_READ", "the file is not UTF-8", where=where) from error


def find_images(folder: Path) -> Callable[[str], ImageSource]:
    """Returns what turns a relative image path into its source, with everything found checked to exist.

    A path is looked for in `images.zip`, then in `images/`, then in the folder itself; if it has backslashes, as it is
    and then with slashes in their place. The returned function raises DataError E_DATA_PATH for a path that leaves the
    folder, and ImageError E_IMAGE_MISSING.
    """
    archive = folder / "images.zip"
    names: frozenset[str] = frozenset()
    if archive.is_file():
        try:
            names = frozenset(member_names(archive))
        except UNREADABLE as error:
            raise ImageError("E_IMAGE_OPEN", "the archive is not a readable zip file", where=str(archive)) from error
    roots = [root.resolve() for root in (folder / "images", folder) if root.is_dir()]

    @lru_cache(_REMEMBERED)
    def resolve(name: str) -> ImageSource:
        return _find(inside(name), archive, names, roots)

    return resolve


def _find(name: str, archive: Path, names: frozenset[str], roots: Sequence[Path]) -> ImageSource:
    for spelling in dict.fromkeys((name, inside(name.replace("\\", "/")))):
        if spelling in names:
            return ArchivedImage(archive, spelling)
        for root in roots:
            path = root / spelling
            if _is_file(path) and not is_mac_note(spelling):
                check_link(path, root)
                return path
    raise ImageError("E_IMAGE_MISSING", f"image {name!r} is not in images.zip, images/ or {archive.parent}")


def check_link(path: Path, root: Path) -> None:
    """Raises `E_DATA_PATH` if a path in a folder, given resolved, is or goes through a link that leads out of it."""
    if not any(path.resolve().is_relative_to(home) for home in (root, *_hub_cache(root))):
        raise DataError(
            "E_DATA_PATH", f"image {str(path.relative_to(root))!r} is a link out of the folder; copy the file"
        )


def _hub_cache(root: Path) -> list[Path]:
    """Where the files of a downloaded snapshot really lie: the hub's cache has links to them, snapshots/REVISION/."""
    return [above.parent / "blobs" for above in root.parents if above.name == "snapshots"]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # A name too long for the system, or a folder that may not be entered.
        return False


def inside(name: str) -> str:
    """Returns a relative path in its plain form. Raises `E_DATA_PATH` if it could leave its folder on any system."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or ".." in parts or parts[0].startswith("/") or PureWindowsPath(name).anchor or "\0" in name:
        raise DataError("E_DATA_PATH", f"image path {name!r} must be relative and stay inside the folder")
    return str(PurePosixPath(name))


def _read_parquet(path: Path, columns: Sequence[str], optional: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    with pq.ParquetFile(path) as file:
        present = list(file.schema_arrow.names)
        _check_columns(str(path), columns, present)
        wanted = [*columns, *(name for name in optional if name in present)]
        batches = file.iter_batches(columns=wanted)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)


def _read_json(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:  # A number of thousands of digits is a plain ValueError.
        raise DataError("E_DATA_READ", "the file is not valid JSON", where=str(path)) from error
    if not isinstance(content, list):
        raise DataError("E_DATA_READ", "the file is not a list of objects", where=str(path))
    yield from enumerate(content, 1)


def _read_jsonl(path: Path, on_bad: OnBad) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for number, _, content in read_lines(file, path):
            if isinstance(content, DataError):
                on_bad(content)
            else:
                yield number, content


def read_lines(file: BinaryIO, path: Path, number: int = 1) -> Iterator[tuple[int, int, Any]]:
    """Yields of each line that is not blank its number, the byte that it begins at, and its JSON, or the DataError
    that says why it has none. The file stands at line `number` of `path`; no line, however long, fills the memory."""
    for line_number in count(number):
        where, offset = f"{path}:{line_number}", file.tell()
        line = file.readline(_LONGEST_LINE + 1)
        if not line:
            return
        if len(line) > _LONGEST_LINE and not line.endswith(b"\n"):
            while (rest := file.readline(_LONGEST_LINE)) and not rest.endswith(b"\n"):
                pass
            message = f"the line is longer than {_LONGEST_LINE} bytes"
            yield line_number, offset, DataError("E_DATA_LINE_TOO_LONG", message, where=where)
            continue
        if not line.strip():
            continue
        try:
            content = json.loads(line.decode("utf-8-sig" if line_number == 1 else "utf-8"))
        except (ValueError, RecursionError) as error:
            what = "UTF-8" if isinstance(error, UnicodeDecodeError) else "valid JSON"
            content = DataError("E_DATA_READ", f"the line is not {what}", where=where)
        yield line_number, offset, content


def _pick(
    path: Path, content: Iterator[tuple[int, Any]], columns: Sequence[str], optional: Sequence[str], on_bad: OnBad
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The wanted columns of rows that each have their own keys."""
    for number, row in content:
        where = f"{path}:{number}"
        try:
            if not isinstance(row, dict):
                raise DataError("E_DATA_READ", "the row is not an object", where=where)
            _check_columns(where, columns, list(row))
        except DataError as error:
            on_bad(error)
        else:
            yield number, {name: row[name] for name in (*columns, *optional) if name in row}


def _check_columns(where: str, columns: Sequence[str], present: Sequence[str]) -> None:
    missing = [name for name in columns if name not in present]
    if missing:
        message = f"missing columns: {', '.join(missing)}; present: {', '.join(present) or 'none'}"
        raise DataError("E_DATA_COLUMN", message, where=where)


def _no_rows(path: Path, problems: dict[str, CocoaError], num_unwanted: int) -> DataError:
    """The error of a table without a good row, from the first problem of each code and the rows that are not wanted."""
    if not problems:
        said = f"all {num_unwanted} rows of the table are held out" if num_unwanted else "the table has no rows"
        return DataError("E_DATA_EMPTY", said, where=str(path))
    code = "E_DATA_COLUMN" if list(problems) == ["E_DATA_COLUMN"] else "E_DATA_EMPTY"
    said = "no row of the table can be used" + (f", besides {num_unwanted} that are held out" if num_unwanted else "")
    return DataError(code, f"{said}; the first problem: {next(iter(problems.values()))}", where=str(path))
