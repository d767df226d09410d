"""Scores a model on tasks in MMEB's format: each distinct sample of all tasks is embedded once."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cocoa.data.mmeb_v1 import missing_tasks
from cocoa.errors import UsageError
from cocoa.evaluation.examples import find_examples
from cocoa.evaluation.scorer import TaskScore, score_task, summarise
from cocoa.evaluation.vectors import SHARD_SIZE, Embedded, Progress, embed_tasks
from cocoa.files import write_file
from cocoa.model import EmbeddingModel
from cocoa.report.evaluation_page import TaskExamples
from cocoa.sample import Task


@dataclass(frozen=True)
class Evaluation:
    """The score of every task, in the order given; `complete` says that no task of the set was left out.

    `examples` are some hits and misses of each task, if they were asked for. `receipt` says what made the scores: a
    digest of what each task asked, the settings of the embedding and how many samples were asked for, distinct, and not
    computed again.
    """

    model: str
    tasks: tuple[Task, ...]
    scores: tuple[TaskScore, ...]
    complete: bool
    examples: tuple[TaskExamples, ...] = ()
    receipt: dict[str, Any] | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        """The tasks of MMEB-V1 that are not here, if any of its tasks is."""
        return tuple(missing_tasks(task.name for task in self.tasks))

    @property
    def summary(self) -> dict[str, float]:
        """The means of tasks, if none was left out; else nothing."""
        return summarise(zip(self.tasks, self.scores, strict=True)) if self.complete else {}

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of `results.json`: the means of tasks only if none was left out."""
        return {
            "model": self.model,
            "tasks": {task.name: _to_dict(task, score) for task, score in zip(self.tasks, self.scores, strict=True)},
            "summary": self.summary,
            "complete": self.complete,
            "missing": list(self.missing),
        }

    def write(self, out: Path) -> Path:
        """Writes `results.json` into `out`, and `receipt.json` if there is one; returns the path of the first."""
        if self.receipt is not None:
            write_file(out / "receipt.json", json.dumps(self.receipt, indent=2) + "\n")
        path = out / "results.json"
        write_file(path, json.dumps(self.to_dict(), indent=2) + "\n")
        return path


def _to_dict(task: Task, score: TaskScore) -> dict[str, Any]:
    """What `results.json` says of a task: the ranks are in `TaskScore` only."""
    facts = asdict(score)
    del facts["ranks"], facts["official_ranks"]
    known = {"meta_task": task.meta_task, "split": task.split, "chance": task.chance, "blind": task.blind}
    return known | facts | {"ci95": list(score.ci95)}


def evaluate(
    model: EmbeddingModel,
    tasks: Sequence[Task],
    *,
    name: str,
    complete: bool = True,
    cache: Path | None = None,
    fingerprint: str = "",
    workers: int = 4,
    shard_size: int = SHARD_SIZE,
    examples: bool = False,
    revision: str | None = None,
    on_pictures: Callable[[int, int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_task: Callable[[Task, TaskScore], None] | None = None,
) -> Evaluation:
    """Returns the scores of a model on tasks.

    Args:
        model: the model.
        tasks: the tasks; their names differ.
        name: what the model is called in results.
        complete: the tasks are a whole set; some but not all tasks of MMEB-V1 never are.
        cache: where vectors are kept for other runs and other processes; None: they are not.
        fingerprint: of the model's weights; a cache needs it.
        workers: threads that read and decode pictures.
        shard_size: the most samples whose vectors are written together.
        examples: also pick hits and misses of each task.
        revision: of the tasks' data on the hub, for the receipt.
        on_pictures: told how many picture files of how many have been looked at.
        on_progress: told how far the embedding is.
        on_task: told each task's score as it is ready.

    Raises:
        UsageError: E_USAGE_CACHE for a cache without a fingerprint.
        CocoaError: for tasks or a model that cannot be used; see `embed_tasks` and `score_task`.
    """
    if cache is not None and not fingerprint:
        raise UsageError("E_USAGE_CACHE", "a cache of vectors needs the fingerprint of the model that made them")
    with _folder(cache) as folder:
        embedded = embed_tasks(
            model,
            tasks,
            folder,
            fingerprint=fingerprint,
            workers=workers,
            shard_size=shard_size,
            on_pictures=on_pictures,
            on_progress=on_progress,
        )
    scores: list[TaskScore] = []
    shown: list[TaskExamples] = []
    asked: dict[str, Any] = {}
    keys = np.frombuffer(bytes.fromhex("".join(content.key for content in embedded.contents)), np.uint8).reshape(-1, 32)
    for task in tasks:
        queries, candidates, index = _rows(task, embedded)
        score = score_task(
            embedded.vectors[queries],
            embedded.vectors[candidates],
            index,
            query_place=lambda row, task=task: task.questions[row].query.where,  # type: ignore[misc]
            candidate_place=lambda row, used=candidates: embedded.contents[used[row]].sample.where,  # type: ignore[misc]
        )
        scores.append(score)
        asked[task.name] = _asked(keys, queries, candidates, index)
        if examples:
            found = find_examples(task, score, embedded.vectors[queries], embedded.vectors[candidates], index)
            shown.append(TaskExamples(task.name, *found))
        if on_task is not None:
            on_task(task, score)
    whole = complete and not missing_tasks(task.name for task in tasks)
    receipt = _receipt(tasks, embedded, asked) | {"data_revision": revision}
    return Evaluation(name, tuple(tasks), tuple(scores), whole, tuple(shown), receipt)


@contextmanager
def _folder(cache: Path | None) -> Iterator[Path]:
    if cache is not None:
        yield cache
        return
    with tempfile.TemporaryDirectory(prefix="cocoa-vectors-") as folder:
        yield Path(folder)


Rows = NDArray[np.int64]


def _rows(task: Task, embedded: Embedded) -> tuple[Rows, Rows, list[Rows]]:
    """The rows of the queries, of all candidates (each once), and each question's places among the latter."""
    queries = np.array([embedded.row(question.query) for question in task.questions])
    rows = [[embedded.row(sample) for sample in question.candidates] for question in task.questions]
    used, places = np.unique(np.concatenate(rows), return_inverse=True)
    return queries, used, np.split(places, np.cumsum([len(row) for row in rows])[:-1])


def _asked(keys: NDArray[np.uint8], queries: Rows, candidates: Rows, index: Sequence[Rows]) -> dict[str, Any]:
    """What a task asked: a digest of the contents of its queries and of their candidates, in order, and their numbers.

    Two results with the same digest are of the same texts and bytes of pictures, with the same ones right.
    """
    digest = hashlib.sha256()
    for query, places in zip(queries, index, strict=True):
        digest.update(len(places).to_bytes(8, "big"))
        digest.update(keys[query].tobytes())
        digest.update(keys[candidates[places]].tobytes())
    sizes = [len(places) for places in index]
    return {
        "sha256": digest.hexdigest(),
        "candidates": {"min": min(sizes), "median": float(np.median(sizes)), "max": max(sizes)},
    }


def _receipt(tasks: Sequence[Task], embedded: Embedded, asked: dict[str, Any]) -> dict[str, Any]:
    return {
        "tasks": asked,
        "settings": embedded.settings,
        "samples_asked": sum(1 + len(question.candidates) for task in tasks for question in task.questions),
        "samples_distinct": len(embedded.contents),
        "samples_kept": embedded.kept,
    }
