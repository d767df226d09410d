"""Benchmark tasks, from folders of tables in the columns of MMEB's evaluation sets."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cocoa.data.mmeb_side import image_folder, pair_up, read_side, read_texts
from cocoa.data.tables import find_images, find_tables, read_rows
from cocoa.errors import CocoaError, DataError
from cocoa.images import ImageSource
from cocoa.sample import META_TASKS, MetaTask, Question, Sample, Task

MMEB_V1: dict[str, MetaTask] = {
    **dict.fromkeys(
        ("ImageNet-1K", "N24News", "HatefulMemes", "VOC2007", "SUN397", "Place365", "ImageNet-A", "ImageNet-R",
         "ObjectNet", "Country211"),
        "classification",
    ),
    **dict.fromkeys(
        ("OK-VQA", "A-OKVQA", "DocVQA", "InfographicsVQA", "ChartQA", "Visual7W", "ScienceQA", "VizWiz", "GQA",
         "TextVQA"),
        "vqa",
    ),
    **dict.fromkeys(
        ("VisDial", "CIRR", "VisualNews_t2i", "VisualNews_i2t", "MSCOCO_t2i", "MSCOCO_i2t", "NIGHTS", "WebQA",
         "FashionIQ", "Wiki-SS-NQ", "OVEN", "EDIS"),
        "retrieval",
    ),
    **dict.fromkeys(("MSCOCO", "RefCOCO", "RefCOCO-Matching", "Visual7W-Pointing"), "grounding"),
}  # fmt: skip
"""The meta-task of each of MMEB-V1's 36 tasks."""

_COLUMNS = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
_NAMED_PROBLEMS = 10


def read_tasks(folder: Path, names: Sequence[str] | None = None) -> list[Task]:
    """Returns the tasks of a set, or of all sets in a folder, by set and name; only those in `names` if given.

    A set is a folder with tables in `test/`, one for each task, images beside it (see `find_images`), and perhaps a
    `manifest.json` of the form {"tasks": {NAME: {"meta_task": ..., "chance": ..., "blind": ...}}}.

    Raises:
        DataError: E_DATA_FILE without any set, E_DATA_TASK for a name or meta-task that is not known, E_DATA_READ for
            a broken manifest, E_DATA_FOLDER for everything that is wrong with the tables, said at once.
    """
    tables = _find_tasks(folder)
    for name in names or ():
        if name not in tables:
            close = difflib.get_close_matches(name, tables, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(tables)}"
            raise DataError("E_DATA_TASK", f"no task {name!r}; {hint}", where=str(folder))
    wanted = {name: table for name, table in tables.items() if names is None or name in names}
    facts = {name: _read_facts(name, table) for name, table in wanted.items()}
    problems: list[CocoaError] = []
    tasks = []
    for name, table in wanted.items():
        questions = _read_questions(table, problems)
        meta_task, chance, blind = facts[name]
        if questions and chance is None:
            chance = sum(1 / len(question.candidates) for question in questions) / len(questions)
        tasks.append(Task(name, meta_task, tuple(questions), chance, blind))
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems[:_NAMED_PROBLEMS])
        more = len(problems) - _NAMED_PROBLEMS
        rest = f"\n  and {more} more" if more > 0 else ""
        raise DataError("E_DATA_FOLDER", f"{len(problems)} problems\n{listed}{rest}\n", where=str(folder))
    return tasks


def _find_tasks(folder: Path) -> dict[str, Path]:
    """The table of each task."""
    if not folder.is_dir():
        raise DataError("E_DATA_FILE", "the folder does not exist", where=str(folder))
    sets = [folder] if find_tables(folder / "test") else sorted(path for path in folder.iterdir() if path.is_dir())
    tables: dict[str, Path] = {}
    for table in (table for one in sets for table in find_tables(one / "test")):
        if table.stem in tables:
            message = f"two tables for task {table.stem!r}, the other is {tables[table.stem]}; rename one"
            raise DataError("E_DATA_TASK", message, where=str(table))
        tables[table.stem] = table
    if not tables:
        raise DataError("E_DATA_FILE", "no tables in test/, nor in test/ of a sub-folder", where=str(folder))
    return tables


def _read_facts(name: str, table: Path) -> tuple[MetaTask, float | None, float | None]:
    """The meta-task, chance and blind score of a task, from its manifest or MMEB's own list."""
    manifest = table.parent.parent / "manifest.json"
    entry: Any = {}
    if manifest.is_file():
        try:
            entry = json.loads(manifest.read_text("utf-8-sig")).get("tasks", {}).get(name, {})
            meta_task, chance, blind = (entry.get(key) for key in ("meta_task", "chance", "blind"))
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise DataError("E_DATA_READ", "the manifest is not a valid JSON object", where=str(manifest)) from error
    else:
        meta_task = chance = blind = None
    meta_task = meta_task or MMEB_V1.get(name)
    if meta_task not in META_TASKS:
        said = "no meta-task is known" if meta_task is None else f"{meta_task!r} is no meta-task"
        message = (
            f'{said} for task {name!r}; give {manifest} an entry {{"tasks": {{"{name}": '
            f'{{"meta_task": "{"|".join(META_TASKS)}"}}}}}}'
        )
        raise DataError("E_DATA_TASK", message, where=str(table))
    for key, rate in (("chance", chance), ("blind", blind)):
        if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1):
            raise DataError("E_DATA_READ", f"{key} of task {name!r} is not a rate in [0, 1]", where=str(manifest))
    return meta_task, chance, blind


def _read_questions(table: Path, problems: list[CocoaError]) -> list[Question]:
    """The questions of a table; what is wrong with it goes to `problems`."""
    try:
        find = find_images(image_folder(table))
        rows = read_rows(table, _COLUMNS)
    except CocoaError as error:
        problems.append(error if error.where else error.at(str(table)))
        return []
    # Candidates repeat from question to question: each is made once, and reported once if it is wrong.
    seen: dict[tuple[str, str], Sample | None] = {}
    questions = []
    for number, row in enumerate(rows, 1):
        where = f"{table}:{number}"
        start = len(problems)
        query = _try_side(row["qry_text"], row["qry_img_path"], find, where, problems)
        candidates = [
            _try_candidate(key, seen, find, f"{where}, candidate {place}", problems)
            for place, key in enumerate(_candidate_keys(row, where, problems))
        ]
        complete = tuple(candidate for candidate in candidates if candidate is not None)
        if not candidates and len(problems) == start:
            problems.append(DataError("E_DATA_EMPTY", "no candidates", where=where))
        if query is not None and complete:
            questions.append(Question(query, complete))
    return questions


def _candidate_keys(row: dict[str, Any], where: str, problems: list[CocoaError]) -> Iterator[tuple[str, str]]:
    try:
        yield from pair_up(read_texts(row["tgt_text"], where), read_texts(row["tgt_img_path"], where), where)
    except CocoaError as error:
        problems.append(error)


def _try_candidate(
    key: tuple[str, str],
    seen: dict[tuple[str, str], Sample | None],
    find: Callable[[str], ImageSource],
    where: str,
    problems: list[CocoaError],
) -> Sample | None:
    if key not in seen:
        seen[key] = _try_side(*key, find, where, problems)
    return seen[key]


def _try_side(
    text: Any, image: Any, find: Callable[[str], ImageSource], where: str, problems: list[CocoaError]
) -> Sample | None:
    try:
        return read_side(text, image, find, where)
    except CocoaError as error:
        problems.append(error.at(where))
        return None
