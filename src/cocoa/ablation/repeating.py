"""A run again from its stored recipe, all its stages at once: the numbers must be those of the record."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from cocoa.ablation.job import Job, scores
from cocoa.ablation.leaving import leaving
from cocoa.ablation.records import read_record
from cocoa.ablation.study import GENERATED
from cocoa.errors import TrainingStoppedError, UsageError
from cocoa.evaluation.runner import evaluate
from cocoa.model import EmbeddingModel
from cocoa.recipe import parse_recipe
from cocoa.training.loop import StepHook, train

_STOPPED = "asked to stop; nothing of this run is kept"


@dataclass(frozen=True)
class Repetition:
    """hit@1 of each task, in [0, 1], as the record has it and as it came again."""

    stored: Mapping[str, float]
    again: Mapping[str, float]

    @property
    def is_same(self) -> bool:
        """Whether no number differs."""
        return self.stored == self.again


def repeat(job: Job, name: str, *, on_step: StepHook | None = None) -> Repetition:
    """Returns a run's numbers twice: those of the record `ARM/BUDGET/SEED`, and those of its recipe trained now.

    The study shares stages among arms and trains them one by one; here nothing is shared and nothing is kept. Raises
    `E_USAGE_OUT` for a folder that is not this study's, `E_USAGE_RUN` where there is no such record, `E_USAGE_BUSY`
    where sets must be drawn while another process is at work there, and what training raises.
    """
    job.check_begun()
    path = job.out / "runs" / f"{name}.json"
    if not path.is_file():
        known = sorted(str(each.relative_to(job.out / "runs"))[:-5] for each in (job.out / "runs").glob("*/*/*.json"))
        hint = f"; there are {known[0]} and {len(known) - 1} more" if known else "; there is none yet"
        raise UsageError("E_USAGE_RUN", f"no record of a run ARM/BUDGET/SEED of that name{hint}", where=name)
    record = read_record(path)
    # Kept records name sets and files as the study does; those of this machine are absolute already.
    recipe = parse_recipe(
        json.dumps(record["recipe"]), where=str(path), folder=job.folder, places={GENERATED: job.data}
    )
    # A study that is at work with all its sets is not in the way.
    with job.alone() if job.undrawn() else nullcontext():
        job.draw_sets()
    with tempfile.TemporaryDirectory() as folder:
        try:
            train(recipe, Path(folder) / "run", on_step=on_step)
        except TrainingStoppedError as stop:
            raise type(stop)(stop.code, _STOPPED, where=name) from stop
        # As the study scores: what a model folder holds, whatever precision and attention it was trained with.
        with leaving(Path(name), _STOPPED):
            model = EmbeddingModel.load(Path(folder) / "run" / "model")
            found = scores(evaluate(model, job.tasks("runs"), name=name))
    return Repetition(*({task: each["hit_at_1"] for task, each in both["tasks"].items()} for both in (record, found)))
