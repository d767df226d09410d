"""What people give us and what travels through the code: a sample, a pair, a question with candidates, a task."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from cocoa.images import ImageSource, image_key

IMAGE_PLACEHOLDER = "<|image_1|>"
"""Where a picture stands in a text, in MMEB's spelling."""

MetaTask = Literal["classification", "vqa", "retrieval", "grounding"]
META_TASKS: tuple[MetaTask, ...] = ("classification", "vqa", "retrieval", "grounding")


@dataclass(frozen=True, slots=True)
class Sample:
    """One thing to embed or rebuild: a text, images, or both; `where` names its file and row in errors."""

    text: str = ""
    images: tuple[ImageSource, ...] = ()
    where: str = ""

    @property
    def key(self) -> str:
        """A digest that is equal for samples of equal content, whatever their place."""
        digest = hashlib.sha256(self.text.encode("utf-8", "surrogatepass"))
        for image in self.images:
            digest.update(b"\0" + image_key(image).encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and the target that answers it, with any number of hard negatives."""

    query: Sample
    target: Sample
    negatives: tuple[Sample, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """A query and its candidates; candidate 0 is the right one (MMEB's convention)."""

    query: Sample
    candidates: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """A named benchmark task: its questions, its meta-task and what is known about guessing.

    `chance` is hit@1 of a random guess, `blind` that of a guesser that sees no image (None: not known); in [0, 1].
    `split` says whether the benchmark trains on a part of the same data (None: not known).
    """

    name: str
    meta_task: MetaTask
    questions: tuple[Question, ...]
    chance: float | None = None
    blind: float | None = None
    split: Literal["ind", "ood"] | None = None
