"""Models that have learned nothing about pictures: a real score must be held against what they get.

Shapes: M samples, D dimensions.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cocoa.backbones import Encoded
from cocoa.data.mmeb_train import MmebTrain
from cocoa.evaluation.scorer import TaskScore, score_task
from cocoa.model import EmbeddingModel
from cocoa.sample import Task


class RandomModel(EmbeddingModel):
    """Gives each content a direction of its own, drawn from its digest: equal contents have equal vectors."""

    def embed_all(self, samples: Sequence[Encoded], *, max_batch_tokens: int = 16_384) -> Tensor:
        """Returns float32 [M, D] of unit length."""
        seeds = [int.from_bytes(hashlib.sha256(sample.content_key.encode()).digest()[:8]) for sample in samples]
        drawn = np.stack([np.random.default_rng(seed).standard_normal(self.backbone.hidden_size) for seed in seeds])
        return torch.nn.functional.normalize(torch.from_numpy(drawn).float(), dim=-1)


class ConstantModel(EmbeddingModel):
    """Gives everything the same vector."""

    def embed_all(self, samples: Sequence[Encoded], *, max_batch_tokens: int = 16_384) -> Tensor:
        """Returns float32 [M, D] of unit length."""
        return torch.nn.functional.normalize(torch.ones(len(samples), self.backbone.hidden_size), dim=-1)


class GreyPictures(EmbeddingModel):
    """A trained model that is shown, for every picture, one of the same size in the mean colour."""

    def __init__(self, model: EmbeddingModel) -> None:
        super().__init__(model.backbone, layout=model.layout, max_tokens=model.max_tokens)
        self._known: dict[str, Tensor] = {}

    def embed_all(self, samples: Sequence[Encoded], *, max_batch_tokens: int = 16_384) -> Tensor:
        """Returns float32 [M, D] of unit length; what differs in its pictures only has the very same vector."""
        # Exactly the mean colour, which no byte has: it is what normalises to 0.
        values = self.backbone.grid.values_per_patch
        grey = [
            replace(sample, patches=tuple(np.zeros((len(patches), values), np.float32) for patches in sample.patches))
            for sample in samples
        ]
        keys = [sample.content_key for sample in grey]
        # Embedded once: in a batch of another shape the same sample may differ in the last digit, which hides a tie.
        new = {key: sample for key, sample in zip(keys, grey, strict=True) if key not in self._known}
        if new:
            vectors = super().embed_all(list(new.values()), max_batch_tokens=max_batch_tokens)
            self._known |= zip(new, vectors, strict=True)
        return torch.stack([self._known[key] for key in keys])


def frequent_answers(tasks: Iterable[Task], training_sets: Iterable[Path]) -> dict[str, TaskScore]:
    """Returns the scores of answering with the candidate that most often was right for the same question in training.

    Of the tasks whose candidates are all texts; no picture is looked at. Candidates that were right equally often are
    a tie, and so are all of a question whose candidates never were. `training_sets` are folders in MMEB's columns, all
    of whose tables count.
    """
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for folder in training_sets:
        pairs = MmebTrain(folder)
        for number in range(len(pairs)):
            pair = pairs[number]
            if not pair.target.images:
                answers[pair.query.text][pair.target.text] += 1
    return {task.name: _score(task, answers) for task in tasks if _is_answered_in_words(task)}


def _is_answered_in_words(task: Task) -> bool:
    return not any(candidate.images for question in task.questions for candidate in question.candidates)


def _score(task: Task, answers: dict[str, Counter[str]]) -> TaskScore:
    """The counts as cosines: a candidate is a direction of its own, a question has its counts along them."""
    places: dict[str, int] = {}
    index = [
        np.array([places.setdefault(candidate.text, len(places)) for candidate in question.candidates])
        for question in task.questions
    ]
    queries = np.zeros((len(index), len(places)), np.float32)
    for row, (question, own) in enumerate(zip(task.questions, index, strict=True)):
        known = answers.get(question.query.text, Counter())
        counts = [known[candidate.text] for candidate in question.candidates]
        queries[row, own] = counts if any(counts) else 1
    return score_task(queries, np.eye(len(places), dtype=np.float32), index)
