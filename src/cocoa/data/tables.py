"""Tables of rows from parquet, jsonl or json, and the images that their rows name."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from zipfile import BadZipFile

import pyarrow as pa
import pyarrow.parquet as pq

from cocoa.archives import open_archive
from cocoa.errors import DataError, ImageError
from cocoa.images import ArchivedImage, ImageSource

TABLE_SUFFIXES = (".parquet", ".jsonl", ".json")


def find_tables(folder: Path) -> list[Path]:
    """Returns the tables directly in a folder, by name, without hidden files and the manifest."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.suffix in TABLE_SUFFIXES and path.is_file())
    return sorted(
        path for path in found if path.name not in ("manifest.json", "files.json") and not path.name.startswith(".")
    )


def read_rows(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Returns the rows with the named columns; an optional column is in every row if the table has it, else in none.

    Raises:
        DataError: E_DATA_FILE, E_DATA_READ, E_DATA_COLUMN, or E_DATA_EMPTY for a table without rows.
    """
    where = str(path)
    if not path.is_file():
        raise DataError("E_DATA_FILE", "the table does not exist", where=where)
    if path.suffix not in TABLE_SUFFIXES:
        raise DataError("E_DATA_READ", f"a table ends in one of {', '.join(TABLE_SUFFIXES)}", where=where)
    try:
        if path.suffix == ".parquet":
            return _read_parquet(path, columns, optional)
        rows = _read_jsonl(path) if path.suffix == ".jsonl" else json.loads(path.read_text("utf-8-sig"))
    except (OSError, pa.ArrowException) as error:
        raise DataError("E_DATA_READ", f"the {path.suffix[1:]} file cannot be read", where=where) from error
    except UnicodeDecodeError as error:
        raise DataError("E_DATA_READ", "the file is not UTF-8", where=where) from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError("E_DATA_READ", "the file is not valid JSON", where=where) from error
    if not isinstance(rows, list):
        raise DataError("E_DATA_READ", "the file is not a list of objects", where=where)
    return _pick(path, rows, columns, optional)


def find_images(folder: Path) -> Callable[[str], ImageSource]:
    """Returns what turns a relative image path into its source, with everything found checked to exist.

    A path is looked for in `images.zip`, then in `images/`, then in the folder itself. The returned function raises
    DataError E_DATA_PATH for a path that leaves the folder, and ImageError E_IMAGE_MISSING.
    """
    archive = folder / "images.zip"
    names: frozenset[str] = frozenset()
    if archive.is_file():
        try:
            names = frozenset(open_archive(archive).namelist())
        except (OSError, BadZipFile) as error:
            raise ImageError("E_IMAGE_OPEN", "the archive is not a readable zip file", where=str(archive)) from error
    roots = [root.resolve() for root in (folder / "images", folder) if root.is_dir()]
    found: dict[str, ImageSource] = {}

    def resolve(name: str) -> ImageSource:
        if name not in found:
            found[name] = _find(_inside(name), archive, names, roots)
        return found[name]

    return resolve


def _find(name: str, archive: Path, names: frozenset[str], roots: Sequence[Path]) -> ImageSource:
    if name in names:
        return ArchivedImage(archive, name)
    for root in roots:
        path = root / name
        if path.is_file():
            # A link may lead out of the folder although its own name does not.
            if not path.resolve().is_relative_to(root):
                raise DataError("E_DATA_PATH", f"image {name!r} is a link out of the folder; copy the file")
            return path
    raise ImageError("E_IMAGE_MISSING", f"image {name!r} is not in images.zip, images/ or {archive.parent}")


def _inside(name: str) -> str:
    """The path in its plain form, if it cannot leave the folder on any system."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or ".." in parts or parts[0].startswith("/") or PureWindowsPath(name).anchor or "\0" in name:
        raise DataError("E_DATA_PATH", f"image path {name!r} must be relative and stay inside the folder")
    return str(PurePosixPath(name))


def _read_parquet(path: Path, columns: Sequence[str], optional: Sequence[str]) -> list[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        present = list(file.schema_arrow.names)
        _check_columns(str(path), columns, present)
        wanted = [*columns, *(name for name in optional if name in present)]
        rows: list[dict[str, Any]] = file.read(columns=wanted).to_pylist()
    if not rows:
        raise DataError("E_DATA_EMPTY", "the table has no rows", where=str(path))
    return rows


def _read_jsonl(path: Path) -> list[Any]:
    rows = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except (json.JSONDecodeError, RecursionError) as error:
                raise DataError("E_DATA_READ", "the line is not valid JSON", where=f"{path}:{number}") from error
    return rows


def _pick(path: Path, rows: list[Any], columns: Sequence[str], optional: Sequence[str]) -> list[dict[str, Any]]:
    """The wanted columns of rows that each have their own keys."""
    if not rows:
        raise DataError("E_DATA_EMPTY", "the table has no rows", where=str(path))
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError("E_DATA_READ", "the row is not an object", where=f"{path}:{number}")
        _check_columns(f"{path}:{number}", columns, list(row))
    extra = [name for name in optional if any(name in row for row in rows)]
    return [{name: row.get(name) for name in (*columns, *extra)} for row in rows]


def _check_columns(where: str, columns: Sequence[str], present: Sequence[str]) -> None:
    missing = [name for name in columns if name not in present]
    if missing:
        message = f"missing columns: {', '.join(missing)}; present: {', '.join(present) or 'none'}"
        raise DataError("E_DATA_COLUMN", message, where=where)
