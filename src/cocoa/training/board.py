"""The numbers of a run for TensorBoard, in `OUT/tensorboard`."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cocoa.errors import UsageError

_PLACES = ("step", "stage", "losses")


class Board:
    """Writes each record as scalars, over the steps of the whole run; nothing is written before the first.

    A board always shows what `metrics.jsonl` holds: when a run is resumed, it is written anew from there, so that no
    step is on it twice. Raises `E_USAGE_TENSORBOARD` if the package that writes it is not installed.
    """

    def __init__(self, run: Path) -> None:
        if find_spec("tensorboardX") is None:
            hint = "--tensorboard needs another package: pip install 'cocoa-embeddings[tensorboard]'"
            raise UsageError("E_USAGE_TENSORBOARD", hint)
        self._run = run
        self._writer: Any = None
        self._num_steps = 0
        self._clock = 0.0

    def add(self, record: Mapping[str, Any]) -> None:
        """Writes a record that has just been added to `metrics.jsonl`."""
        if self._writer is None:
            self._begin()
        else:
            self._write(record)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, error: type[BaseException] | None, *details: object) -> None:
        # A run that was resumed after its last step adds none, and its board may lack what was not yet written.
        if self._writer is None and error is None:
            self._begin()
        if self._writer is not None:
            self._writer.close()

    def _begin(self) -> None:
        from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

        folder = self._run / "tensorboard"
        if folder.exists():
            shutil.rmtree(folder)
        self._writer = SummaryWriter(str(folder), flush_secs=10)
        records = [json.loads(line) for line in (self._run / "metrics.jsonl").read_text().splitlines()]
        # Earlier steps are dated as if the run had never been away.
        self._clock = time.time() - sum(record["seconds"] for record in records)
        for record in records:
            self._write(record)

    def _write(self, record: Mapping[str, Any]) -> None:
        self._clock += record["seconds"]
        for name, value in _scalars(record):
            self._writer.add_scalar(name, value, self._num_steps, walltime=self._clock)
        self._num_steps += 1


def _scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The losses by stage, since those of two stages cannot be compared, and all other numbers of a record."""
    for objective, loss in record["losses"].items():
        yield f"loss/{record['stage']}/{objective}", loss
    for name, value in record.items():
        if name not in _PLACES:
            yield f"run/{name}", value
