"""Benchmark tasks, from folders of tables in the columns of MMEB's evaluation sets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cocoa.data.mmeb_folders import Subset, choose, find_subsets, raise_all, read_manifest
from cocoa.data.mmeb_images import find_mmeb_images
from cocoa.data.mmeb_schema import Kind, check_columns
from cocoa.data.mmeb_side import ImageCell, pair_up, read_image, read_images, read_side, read_text, read_texts
from cocoa.data.mmeb_v1 import TASKS, Repairs, join_instruction, repairs_for
from cocoa.data.tables import number_rows
from cocoa.errors import CocoaError, DataError
from cocoa.images import ImageSource
from cocoa.sample import META_TASKS, MetaTask, Question, Sample, Task

MMEB_V1: dict[str, MetaTask] = {name: task.meta_task for name, task in TASKS.items()}
"""The meta-task of each of MMEB-V1's 36 tasks; all that is known of them is in `mmeb_v1.TASKS`."""

_COLUMNS: dict[str, Kind] = {"qry_text": "text", "qry_img_path": "image", "tgt_text": "texts", "tgt_img_path": "images"}
# Instructions apart from the texts: the columns of ziyjiang/MMEB_Test_Instruct, which MMEB-V2 uses.
_INSTRUCTIONS: dict[str, Kind] = {"qry_inst": "text", "tgt_inst": "text"}

Find = Callable[[str], ImageSource]


def read_tasks(
    folder: Path,
    names: Sequence[str] | None = None,
    *,
    images: Path | None = None,
    rules: Collection[str] | None = None,
) -> list[Task]:
    """Returns the tasks of a folder, by set and name; only those in `names` if given, in any spelling of MMEB's names.

    The folder is a snapshot of MMEB-eval or MMEB_Test_Instruct, one set, or a folder of sets; see `find_subsets` for
    the shapes. A set may have a `manifest.json` of the form {"tasks": {NAME: {"meta_task": ..., "chance": ...,
    "blind": ..., "split": ...}}}. Images lie in the same folder, or in `images`; see `find_mmeb_images`. `rules` are
    the names of the repairs that are made to texts, by default those that `mmeb_v1.DEFAULT_RULES` names.

    Raises:
        DataError: E_DATA_FILE without any task, E_DATA_TASK for names or meta-tasks that are not known, E_DATA_READ
            for a broken manifest; FolderError E_DATA_FOLDER for everything that is wrong with the tables, said at once.
    """
    subsets = choose(find_subsets(folder, "test"), names, folder)
    facts = [read_facts(subset) for subset in subsets]
    repairs = [repairs_for(subset.name, rules) for subset in subsets]
    problems: list[CocoaError] = []
    # All columns first: a wrong file must not cost the minutes in which the rows of the others are read.
    sound = [_check_tables(subset, problems) for subset in subsets]
    finders: dict[tuple[Path, ...], Find] = {}
    tasks = []
    for subset, known, repair, fits in zip(subsets, facts, repairs, sound, strict=True):
        if not fits:
            continue
        places = subset.image_folders if images is None else (images,)
        try:
            if places not in finders:
                finders[places] = find_mmeb_images(places)
        except CocoaError as error:
            problems.append(error)
            continue
        questions = _Reader(subset.name, finders[places], repair, problems).read(subset.tables)
        chance = known.chance
        if questions and chance is None:
            chance = sum(1 / len(question.candidates) for question in questions) / len(questions)
        tasks.append(Task(subset.name, known.meta_task, tuple(questions), chance, known.blind, known.split))
    raise_all(problems, folder)
    return tasks


@dataclass(frozen=True)
class TaskFacts:
    """What is known of a task beside its questions; None: not known. See `Task`."""

    meta_task: MetaTask
    chance: float | None
    blind: float | None
    split: Literal["ind", "ood"] | None


def read_facts(subset: Subset) -> TaskFacts:
    """Returns what its manifest or the benchmark's table says of a task.

    Raises:
        DataError: E_DATA_TASK where no meta-task is known, E_DATA_READ for a broken manifest.
    """
    name, manifest = subset.name, subset.manifest
    entry = read_manifest(manifest).get(name, {})
    known = TASKS.get(name)
    meta_task = entry.get("meta_task") or (known.meta_task if known else None)
    if meta_task not in META_TASKS:
        said = "no meta-task is known" if meta_task is None else f"{meta_task!r} is no meta-task"
        message = (
            f'{said} for task {name!r}; give {manifest} an entry {{"tasks": {{"{name}": '
            f'{{"meta_task": "{"|".join(META_TASKS)}"}}}}}}'
        )
        raise DataError("E_DATA_TASK", message, where=str(subset.tables[0]))
    chance, blind = entry.get("chance"), entry.get("blind")
    for key, rate in (("chance", chance), ("blind", blind)):
        if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1):
            raise DataError("E_DATA_READ", f"{key} of task {name!r} is not a rate in [0, 1]", where=str(manifest))
    split = entry.get("split") or (known.split if known else None)
    if split not in ("ind", "ood", None):
        raise DataError("E_DATA_READ", f"split of task {name!r} is neither 'ind' nor 'ood'", where=str(manifest))
    return TaskFacts(meta_task, chance, blind, split)


def _check_tables(subset: Subset, problems: list[CocoaError]) -> bool:
    start = len(problems)
    for table in subset.tables:
        try:
            check_columns(table, _COLUMNS | _INSTRUCTIONS, optional=tuple(_INSTRUCTIONS))
        except CocoaError as error:
            problems.append(error)
    return len(problems) == start


class _Reader:
    """The rows of one task made into questions; what is wrong with them goes to `problems`."""

    def __init__(self, name: str, find: Find, repair: Repairs, problems: list[CocoaError]) -> None:
        self._task = TASKS.get(name)
        self._find = find
        self._repair = repair
        self._problems = problems
        # Candidates repeat from question to question: each is made once, and reported once if it is wrong.
        self._candidates: dict[str, dict[tuple[str, ImageCell], Sample | None]] = {}

    def read(self, tables: Sequence[Path]) -> list[Question]:
        questions = []
        for table in tables:
            start, made = len(self._problems), []
            try:
                for number, row in number_rows(table, tuple(_COLUMNS), tuple(_INSTRUCTIONS), self._problems.append):
                    made.append(self._question(row, f"{table}:{number}"))
            except CocoaError as error:
                self._problems.append(error)
            if not made and len(self._problems) == start:
                self._problems.append(DataError("E_DATA_EMPTY", "the table has no rows", where=str(table)))
            questions += [question for question in made if question is not None]
        return questions

    def _question(self, row: dict[str, Any], where: str) -> Question | None:
        start = len(self._problems)
        query = self._query(row, where)
        try:
            instruction = read_text(row.get("tgt_inst"), where)
            texts, images = read_texts(row["tgt_text"], where), read_images(row["tgt_img_path"], where)
            cells = pair_up(texts, images, where)
        except CocoaError as error:
            self._problems.append(error)
            return None
        made = self._candidates.setdefault(instruction, {})
        for place, cell in enumerate(cells):
            if cell not in made:
                made[cell] = self._candidate(instruction, *cell, f"{where}, candidate {place}")
        candidates = [made[cell] for cell in cells]
        if not candidates and len(self._problems) == start:
            self._problems.append(DataError("E_DATA_EMPTY", "no candidates", where=where))
        complete = tuple(candidate for candidate in candidates if candidate is not None)
        return Question(query, complete) if query is not None and complete else None

    def _query(self, row: dict[str, Any], where: str) -> Sample | None:
        try:
            text, instruction = read_text(row["qry_text"], where), read_text(row.get("qry_inst"), where)
            image = read_image(row["qry_img_path"], where)
            text = join_instruction(instruction, text, image=bool(image), side="query", task=self._task)
            text = self._repair(text, "query", image=bool(image))
            return read_side(text, image, self._find, where, strip_stray=False)
        except CocoaError as error:
            self._problems.append(error.at(where))
            return None

    def _candidate(self, instruction: str, text: str, image: ImageCell, where: str) -> Sample | None:
        try:
            text = join_instruction(instruction, text, image=bool(image), side="target", task=self._task)
            text = self._repair(text, "target", image=bool(image))
            return read_side(text, image, self._find, where, strip_stray=False)
        except CocoaError as error:
            self._problems.append(error.at(where))
            return None
