"""A share of labelled data that is never trained on, made into tasks: what learning rates and lengths are chosen by."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from cocoa.data.mmeb_eval import read_facts, read_tasks
from cocoa.data.mmeb_folders import Subset, choose, find_subsets
from cocoa.data.mmeb_images import bare_name
from cocoa.data.mmeb_side import ImageCell, read_image, read_images, read_text
from cocoa.data.mmeb_train import read_pairs
from cocoa.errors import DataError
from cocoa.images import image_key
from cocoa.options import Options
from cocoa.sample import Pair, Question, Sample, Task

HELD_OUT = "_held_out"
"""What is put to a table's name, so that nobody takes such a task for the test of that name."""
MOST_CANDIDATES = 100
"""Answers of a held-out question where others' are its wrong candidates."""


class HeldOut(Options):
    """A share of the pictures, drawn by their paths alone: every table of a data set agrees on them.

    Spellings count as one by `bare_name`. That a reader takes a zip file's name for a folder cannot be seen in a path:
    tables of one set must name it alike. A row without pictures counts by the words of its query.
    """

    share: Annotated[float, Field(gt=0, lt=1)]
    seed: int = 0

    def holds(self, name: ImageCell) -> bool:
        """Returns whether a picture, given by its path or bytes, is held out."""
        content = name if isinstance(name, bytes) else bare_name(name).encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(b"%d:" % self.seed + content, digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.share * 2**64

    def trains(self, row: dict[str, Any], where: str) -> bool:
        """Returns whether a row of a training table shows nothing that is held out, not as a wrong target either."""
        images = [row.get("qry_image_path"), row.get("pos_image_path")]
        names = [read_image(image, where) for image in images] + read_images(row.get("neg_image_path"), where)
        return not any(self.holds(name) for name in [self._key(row, where), *names] if name)

    def asks(self, row: dict[str, Any], where: str) -> bool:
        """Returns whether a row of a training table is asked instead: its query's picture is held out.

        Where the query has none, its target's, and where neither has, the query's words.
        """
        return self.holds(self._key(row, where))

    @staticmethod
    def _key(row: dict[str, Any], where: str) -> ImageCell:
        images = (read_image(row.get(column), where) for column in ("qry_image_path", "pos_image_path"))
        return next((image for image in images if image), read_text(row.get("qry"), where))


def chosen_tasks(folder: Path, names: Sequence[str] | None, held_out: HeldOut | None) -> list[Task]:
    """Returns the tasks of a folder, see `read_tasks`, or those of what is held out of its training tables."""
    return read_tasks(folder, names) if held_out is None else held_out_tasks(folder, held_out, names)


def held_out_tasks(
    folder: Path, held_out: HeldOut, names: Sequence[str] | None = None, *, most: int = 300
) -> list[Task]:
    """Returns a task NAME_held_out for each training table of a folder with held-out rows, right candidates first.

    The folder is one that `read_tasks` reads, with `train/` beside or in place of `test/`. The questions of a task are
    at most `most` of its held-out rows, spread evenly. Candidates: a row's own hard negatives, if the table has any,
    and in grounding what other rows say of the same picture; else all answers of the table, if they are at most
    `MOST_CANDIDATES`; else so many answers of held-out rows, drawn by the query.

    Raises:
        DataError: E_DATA_EMPTY if no row is held out, and what `read_tasks` raises.
    """
    tasks = [_task(subset, held_out, most) for subset in choose(find_subsets(folder, "train"), names, folder)]
    asked = [task for task in tasks if task.questions]
    if not asked:
        raise DataError("E_DATA_EMPTY", f"a share of {held_out.share} holds out no row", where=str(folder))
    return asked


def _task(subset: Subset, held_out: HeldOut, most: int) -> Task:
    facts = read_facts(subset)
    asked: set[str] = set()

    def noted(row: dict[str, Any], where: str) -> bool:
        if held_out.asks(row, where):
            asked.add(where)
        return True

    every = read_pairs(subset.tables, subset.image_folders, keep=noted)
    held = [pair for pair in every if pair.query.where in asked]
    candidates = _Candidates(every, held, grounding=facts.meta_task == "grounding")
    chosen = [held[number * len(held) // most] for number in range(most)] if len(held) > most else held
    made = [Question(pair.query, (pair.target, *candidates.wrong(pair))) for pair in chosen]
    questions = tuple(question for question in made if len(question.candidates) > 1)
    chance = sum(1 / len(question.candidates) for question in questions) / max(1, len(questions))
    return Task(subset.name + HELD_OUT, facts.meta_task, questions, chance)


class _Candidates:
    """What a held-out row may be mistaken for."""

    def __init__(self, every: list[Pair], held: list[Pair], *, grounding: bool) -> None:
        self._has_negatives = any(pair.negatives for pair in every)
        self._around: dict[str, list[Sample]] = defaultdict(list)
        if grounding:
            for pair in every:
                self._around[_picture(pair)] += [pair.target, *pair.negatives]
        answers = _unlike(pair.target for pair in every)
        self._answers = answers if len(answers) <= MOST_CANDIDATES else _unlike(pair.target for pair in held)

    def wrong(self, pair: Pair) -> list[Sample]:
        right = pair.target.key
        if self._has_negatives:
            found = _unlike((*pair.negatives, *self._around.get(_picture(pair), [])))
            return [sample for key, sample in found.items() if key != right]
        others = [sample for key, sample in self._answers.items() if key != right]
        if len(others) < MOST_CANDIDATES:
            return others
        return random.Random(pair.query.key).sample(others, MOST_CANDIDATES - 1)


def _picture(pair: Pair) -> str:
    return image_key(pair.query.images[0]) if pair.query.images else ""


def _unlike(samples: Iterator[Sample] | Sequence[Sample]) -> dict[str, Sample]:
    """Samples of unlike content by their keys, in order."""
    found: dict[str, Sample] = {}
    for sample in samples:
        found.setdefault(sample.key, sample)
    return found
