"""Records of a study's runs: reading them, finding what one says of another, and keeping them.

A run's record is a small JSON file of its own, and all that the tables need. `keep` copies the records of a study's
folder into a folder that outlives the machine; that folder is a study's folder too, without anything trained in it, so
that tables are written from it and the study goes on from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cocoa.ablation.links import places_of
from cocoa.ablation.study import GENERATED, Study
from cocoa.errors import DataError, UsageError
from cocoa.files import write_file
from cocoa.pooling import Pooling
from cocoa.portable import portable
from cocoa.recipe import read_options

STUDY = "study.json"
Record = Mapping[str, Any]
Kind = Literal["runs", "tuning"]
SCORED = ("tasks", "summary", "score", "probes", "layers", "versions")
"""What a record says of its model, whichever arm and budget it is of; `versions` are those that scored it."""


@dataclass(frozen=True)
class Kept:
    """What `keep` did: records that were copied, and those that were there already."""

    folder: Path
    new: int
    old: int


def models_of(records: Iterable[Record]) -> dict[tuple[str, str], Record]:
    """Returns a record of each model that records tell of, by its link's address and the name of its pooling."""
    found: dict[tuple[str, str], Record] = {}
    for record in records:
        pooling = read_options(Pooling, record["recipe"]["pooling"], where="record")
        found.setdefault((record["links"][-1]["link"], pooling.name), record)
    return found


def read_records(out: Path, kind: Kind = "runs") -> list[dict[str, Any]]:
    """Returns all records of runs that count (or of tuning) in a study's folder, in the order of their paths.

    Raises `E_DATA_READ` for one that is broken.
    """
    return [read_record(path) for path in _paths(out, kind)]


def read_record(path: Path) -> dict[str, Any]:
    """Returns one record. Raises `E_DATA_READ`."""
    try:
        record = json.loads(path.read_text())
        return {**record, "arm": record["arm"], "score": record["score"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("E_DATA_READ", f"not a record of a run: {error!r}", where=str(path)) from error


def read_study(out: Path) -> Study:
    """Returns the study that a folder is of. Raises `E_USAGE_OUT` where it is none's, `RecipeError` for a wrong one."""
    path = out / STUDY
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            "E_USAGE_OUT", f"no folder of a study: {STUDY} is missing or broken", where=str(out)
        ) from error
    return read_options(Study, content, where=str(path))


def said(study: Study) -> dict[str, Any]:
    """Returns what makes a study this one, as JSON: all of it but the machine."""
    return study.model_dump(mode="json", exclude={"machine"})


def keep(out: Path, into: Path, *, folder: Path) -> Kept:
    """Copies all records of a study's folder, finished or not, to `into/NAME`; records that are there already stay.

    Paths in their recipes are made relative, `generated/NAME` for sets that the study draws and the study file's
    `folder` for all others. Records of several machines may be kept in one place, one after another. Raises
    `E_USAGE_OUT` for a place of another study, `E_DATA_CONFLICT` for a run that is there with other scores.
    """
    study = read_study(out)
    place = into / study.name
    if (place / STUDY).is_file():
        if said(read_study(place)) != said(study):
            raise UsageError("E_USAGE_OUT", "another study of that name is kept there", where=str(place))
    else:
        write_file(place / STUDY, json.dumps(said(study), indent=1) + "\n")
    places = places_of(out / GENERATED, folder)
    new = old = 0
    for kind in ("runs", "tuning"):
        for path in _paths(out, kind):
            target = place / path.relative_to(out)
            record = read_record(path)
            if target.is_file():
                _check_same(record, read_record(target), target)
                old += 1
                continue
            record["recipe"] = portable(_drawn(record["recipe"], study), places)
            write_file(target, json.dumps(record, separators=(",", ":")) + "\n")
            new += 1
    for path in sorted((out / "flops").glob("*.json")):
        # Steps of equal-FLOPs budgets follow from these: counted anew by another version, they might differ.
        if not (place / "flops" / path.name).is_file():
            write_file(place / "flops" / path.name, path.read_text())
    return Kept(place, new, old)


def _paths(out: Path, kind: str) -> list[Path]:
    return sorted((out / kind).glob("*/*/*.json"))


def _check_same(own: Record, kept: Record, place: Path) -> None:
    for key in ("tasks", "factors", "seed"):
        if own[key] != kept[key]:
            message = f"the run is kept with other {key}; tests are looked at once, so one of the two does not count"
            raise DataError("E_DATA_CONFLICT", message, where=str(place))


def _drawn(node: Any, study: Study) -> Any:
    """A recipe whose drawn sets have their short names, wherever the study's folder was when it was trained."""
    names = "|".join(re.escape(name) for name in study.generated)
    pattern = re.compile(rf"^.*/({GENERATED}/(?:{names}))$") if names else None

    def short(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: short(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [short(inner) for inner in value]
        return pattern.sub(r"\1", value) if pattern and isinstance(value, str) else value

    return short(node)
