"""Scores a model on tasks in MMEB's format: each distinct sample of a task is embedded once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cocoa.evaluation.scorer import TaskScore, score_task, summarise
from cocoa.files import write_file
from cocoa.model import EmbeddingModel
from cocoa.sample import Sample, Task


@dataclass(frozen=True)
class Evaluation:
    """The score of every task, in the order given; `complete` says that no task was left out."""

    model: str
    tasks: tuple[Task, ...]
    scores: tuple[TaskScore, ...]
    complete: bool

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of `results.json`; a summary over all tasks only if complete."""
        tasks = {
            task.name: {
                "meta_task": task.meta_task,
                "hit_at_1": score.hit_at_1,
                "official_hit_at_1": score.official_hit_at_1,
                "queries": score.queries,
                "candidates": score.candidates,
                "ties": score.ties,
                "chance": task.chance,
                "blind": task.blind,
            }
            for task, score in zip(self.tasks, self.scores, strict=True)
        }
        summary = summarise(
            {task.name: (task.meta_task, score) for task, score in zip(self.tasks, self.scores, strict=True)}
        )
        return {
            "model": self.model,
            "tasks": tasks,
            "summary": summary if self.complete else {},
            "complete": self.complete,
        }

    def write(self, out: Path) -> Path:
        """Writes `results.json` into `out` and returns its path."""
        path = out / "results.json"
        write_file(path, json.dumps(self.to_dict(), indent=2) + "\n")
        return path


def evaluate(
    model: EmbeddingModel,
    tasks: Sequence[Task],
    *,
    name: str,
    complete: bool = True,
    on_task: Callable[[Task, TaskScore], None] | None = None,
) -> Evaluation:
    """Returns the scores of a model on tasks; `on_task` is told each as it is ready."""
    scores = []
    for task in tasks:
        score = _score(model, task)
        scores.append(score)
        if on_task is not None:
            on_task(task, score)
    return Evaluation(name, tuple(tasks), tuple(scores), complete)


def _score(model: EmbeddingModel, task: Task) -> TaskScore:
    places: dict[str, int] = {}
    samples: list[Sample] = []
    keys: dict[int, str] = {}

    def place(sample: Sample) -> int:
        # Candidates of many questions are one object; its digest is made once.
        key = keys.get(id(sample)) or keys.setdefault(id(sample), sample.key)
        if key not in places:
            places[key] = len(samples)
            samples.append(sample)
        return places[key]

    queries = np.array([place(question.query) for question in task.questions])
    candidates = [np.array([place(sample) for sample in question.candidates]) for question in task.questions]
    vectors = model.encode(samples)
    return score_task(vectors[queries], vectors, candidates)
