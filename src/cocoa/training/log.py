"""The numbers of a run, one record a step, in memory and in `metrics.jsonl`; and the rows it left out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cocoa.data.bad_rows import BadRow
from cocoa.errors import TrainingError
from cocoa.files import naming, sync, write_file


@dataclass
class RunLog:
    """One record a step, also appended to `path` as JSON lines; without a path they are kept in memory alone."""

    path: Path | None = None
    records: list[dict[str, Any]] = field(default_factory=list)

    def add(self, record: dict[str, Any]) -> None:
        """Keeps a record and writes it out."""
        self.records.append(record)
        if self.path is not None:
            append_line(self.path, record)

    def sync(self) -> None:
        """Returns when what was added is on the disk; a checkpoint must not be there before the steps it counts."""
        if self.path is not None and self.path.exists():
            sync(self.path)

    def go_back(self, num_steps: int) -> None:
        """Reads the first `num_steps` records of the file and drops the rest of it: those steps come again.

        Raises `E_TRAINING_CHECKPOINT` if the file holds fewer.
        """
        assert self.path is not None
        self.records = _read_lines(self.path)[:num_steps]
        if len(self.records) < num_steps:
            raise TrainingError(
                "E_TRAINING_CHECKPOINT",
                f"the checkpoint is of step {num_steps}, the log has {len(self.records)} steps",
                where=str(self.path),
            )
        write_file(self.path, "".join(json.dumps(record) + "\n" for record in self.records))


@dataclass(frozen=True)
class BadRowLog:
    """The rows that a run left out, in `bad_rows.jsonl`, each with the step (over all stages) that asked for it; a row
    that was refused when the data was opened has none. Without a path nothing is written."""

    path: Path | None

    def add(self, rows: Iterable[BadRow], *, stage: str, step: int | None) -> None:
        """Writes rows out."""
        if self.path is not None:
            for row in rows:
                append_line(self.path, {"stage": stage, "step": step, **row.to_json()})

    def sync(self) -> None:
        """Returns when what was added is on the disk."""
        if self.path is not None and self.path.exists():
            sync(self.path)

    def go_back(self, num_steps: int, stage: str) -> int:
        """Drops the rows of steps from `num_steps` on and those found at opening, which come again; returns how many
        are left of a stage."""
        assert self.path is not None
        kept = [line for line in _read_lines(self.path) if line["step"] is not None and line["step"] < num_steps]
        if self.path.exists():
            write_file(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        return sum(line["stage"] == stage for line in kept)


def append_line(path: Path, content: dict[str, Any]) -> None:
    """Adds one JSON line to a file."""
    with naming(path), path.open("a") as stream:
        stream.write(json.dumps(content) + "\n")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file up to the first that a kill or a power cut left torn."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(errors="replace").split("\n")[:-1]:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
