"""The tables of MMEB's data sets, in every folder shape in which they come; and their download."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cocoa.data.mmeb_side import image_folder
from cocoa.data.mmeb_v1 import canonical_name
from cocoa.data.tables import find_tables
from cocoa.errors import CocoaError, DataError

HUB_IDS = {"mmeb-v1": "TIGER-Lab/MMEB-eval", "mmeb-train": "TIGER-Lab/MMEB-train"}
"""The data sets that have a short name."""

# Not one of the 36 tasks, but beside them in MMEB-eval.
_NOT_SCORED = frozenset({"CIFAR-100"})
_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_REVISION = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Subset:
    """The rows of one task, in tables that follow each other.

    `manifest` may say more of the task, and need not exist; image paths are relative to one of the `image_folders`.
    """

    name: str
    tables: tuple[Path, ...]
    manifest: Path
    image_folders: tuple[Path, ...]


def find_subsets(folder: Path, split: str) -> list[Subset]:
    """Returns the subsets of a split that a folder holds, by folder and name; the names in MMEB's spelling.

    The shapes, for a split named `test`:
        a set: `test/NAME.parquet`, images beside `test/`;
        a subset: `test-00000-of-00001.parquet` or `test.jsonl` in a folder that has its name, images one folder up;
        a folder of sets, or of subsets, as a snapshot of the hub is.

    Raises:
        DataError: E_DATA_FILE without a folder or tables, E_DATA_FOLDER for all missing shards, E_DATA_TASK for a task
            that is there twice.
    """
    if not folder.is_dir():
        what = "is a file, not a folder of tables" if folder.exists() else "the folder does not exist"
        raise DataError("E_DATA_FILE", what, where=str(folder))
    folder = folder if folder.name else folder.absolute()
    problems: list[CocoaError] = []
    found = _subsets_of(folder, split, problems)
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        found = [subset for path in inner for subset in _subsets_of(path, split, problems)]
    raise_all(problems, folder)
    found = [subset for subset in found if subset.name not in _NOT_SCORED]
    if not found:
        message = f"no tables in {split}/, nor in {split}/ of a sub-folder, nor named {split}-00000-of-00001"
        others = sorted(
            {other for path in (folder, *inner) for table in find_tables(path) if (other := split_of(table))}
        )
        hint = f"; of other splits there are: {', '.join(others)}" if others else ""
        raise DataError("E_DATA_FILE", message + hint, where=str(folder))
    tables: dict[str, Path] = {}
    for subset in found:
        if subset.name in tables:
            message = f"two tables for task {subset.name!r}, the other is {tables[subset.name]}; rename one"
            raise DataError("E_DATA_TASK", message, where=str(subset.tables[0]))
        tables[subset.name] = subset.tables[0]
    return found


def choose(subsets: list[Subset], names: Sequence[str] | None, folder: Path) -> list[Subset]:
    """Returns the subsets that are named, in any spelling of MMEB's names; all of them without names.

    Raises:
        DataError: E_DATA_TASK for all names that are not there.
    """
    if names is None:
        return subsets
    present = {subset.name for subset in subsets}
    wanted = {name if name in present else canonical_name(name) for name in names}
    unknown = []
    for name in sorted(wanted - present):
        close = difflib.get_close_matches(name, present, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(sorted(present))}"
        unknown.append(f"no task {name!r}; {hint}")
    if unknown:
        raise DataError("E_DATA_TASK", "\n  ".join(unknown), where=str(folder))
    return [subset for subset in subsets if subset.name in wanted]


def find_data(where: str | Path) -> Path:
    """Returns the folder of a data set: a folder that exists, or the snapshot of a hub id, downloaded if need be."""
    name = str(where)
    if Path(where).exists() or not (name in HUB_IDS or _HUB_ID.fullmatch(name)):
        return Path(where)
    return download(HUB_IDS.get(name, name))


def hub_revision(folder: Path) -> str | None:
    """Returns the revision of a data set whose snapshot lies in the hub's cache; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" and _REVISION.fullmatch(folder.name) else None


def download(hub_id: str, subsets: Sequence[str] = (), revision: str | None = None) -> Path:
    """Returns the folder of a data set's snapshot, downloaded into the hub's cache; only some subsets if named.

    Raises:
        DataError: E_DATA_DOWNLOAD if the hub cannot be reached or has no such data set.
    """
    from huggingface_hub import snapshot_download

    wanted = [pattern for name in subsets for pattern in (f"{name}/*", f"images_zip/{name}.zip", "images.zip")]
    try:
        folder = snapshot_download(hub_id, repo_type="dataset", revision=revision, allow_patterns=wanted or None)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        what = f"the data set cannot be downloaded: {reason}; nor is there such a folder here"
        raise DataError("E_DATA_DOWNLOAD", what, where=hub_id) from error
    return Path(folder)


def read_manifest(path: Path) -> dict[str, Any]:
    """Returns what a manifest says of each task by name, nothing if there is none."""
    if not path.is_file():
        return {}
    try:
        tasks = json.loads(path.read_text("utf-8-sig")).get("tasks", {})
        return {name: dict(entry) for name, entry in tasks.items()}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise DataError("E_DATA_READ", "the manifest is not a valid JSON object", where=str(path)) from error


class FolderError(DataError):
    """Everything that is wrong with a folder, said at once; `problems` has the single errors."""

    problems: tuple[CocoaError, ...] = ()


_NAMED_PROBLEMS = 10


def raise_all(problems: Sequence[CocoaError], folder: Path) -> None:
    """Raises FolderError E_DATA_FOLDER if there are problems; its message names the first and counts them all."""
    if not problems:
        return
    counts: dict[str, int] = {}
    for problem in problems:
        counts[problem.code] = counts.get(problem.code, 0) + 1
    kinds = ", ".join(f"{count} {code}" for code, count in counts.items())
    listed = "\n".join(f"  {problem}" for problem in problems[:_NAMED_PROBLEMS])
    more = len(problems) - _NAMED_PROBLEMS
    rest = f"\n  and {more} more" if more > 0 else ""
    counted = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} ({kinds})"
    error = FolderError("E_DATA_FOLDER", f"{counted}\n{listed}{rest}\n", where=str(folder))
    error.problems = tuple(problems)
    raise error


def _subsets_of(folder: Path, split: str, problems: list[CocoaError]) -> list[Subset]:
    """The subsets of a set, or the one that the folder itself is."""
    inside = find_tables(folder / split)
    numbered = [table for table in inside if split_of(table) == split or table.stem.isdigit()]
    direct = [table for table in find_tables(folder) if split in (split_of(table), table.stem)]
    if own := numbered or direct:
        _check_shards(own, problems)
        manifest = folder.parent / "manifest.json"
        return [Subset(canonical_name(folder.name), tuple(own), manifest, (folder.parent, folder))]
    manifest = folder / "manifest.json"
    known = read_manifest(manifest) if inside else {}
    return [
        Subset(
            table.stem if table.stem in known else canonical_name(table.stem),
            (table,),
            manifest,
            tuple(dict.fromkeys((image_folder(table), folder))),
        )
        for table in inside
    ]


def split_of(table: Path) -> str | None:
    """Returns the split that a shard is of (`test` of test-00000-of-00001.parquet), None for another table."""
    match = _SHARD.fullmatch(table.stem)
    return match["split"] if match else None


def _check_shards(tables: Sequence[Path], problems: list[CocoaError]) -> None:
    """Notes the shards that a table's own names say there are, and that are not there."""
    names = {table.stem for table in tables}
    for table in tables:
        if match := _SHARD.fullmatch(table.stem):
            wanted = [f"{match['split']}-{number:05}-of-{match['count']}" for number in range(int(match["count"]))]
            missing = [name for name in wanted if name not in names]
            if missing:
                message = f"shards are missing: {', '.join(missing)}"
                problems.append(DataError("E_DATA_FILE", message, where=str(table.parent)))
            return
