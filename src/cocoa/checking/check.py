"""A recipe's data looked at as a whole: every source, every stage, and the tasks that it will be scored on."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cocoa.checking.columns import column_findings
from cocoa.checking.findings import MOST_EXAMPLES, Example, Finding, Level, Shown, find, merged, table_of
from cocoa.checking.leaks import leak_findings, read_tests
from cocoa.checking.lengths import Lengths, Measured, measure_stage
from cocoa.checking.pairs import pair_findings
from cocoa.checking.pictures import Gallery
from cocoa.checking.preview import PreviewBatch, preview
from cocoa.checking.rows import Progress, ReadSource, read_source
from cocoa.data.bad_rows import BadRow, BadRows
from cocoa.data.mmeb_eval import read_tasks
from cocoa.data.mmeb_folders import FolderError
from cocoa.data.sources import Source
from cocoa.errors import CocoaError
from cocoa.model import EmbeddingModel
from cocoa.recipe import Recipe, Stage
from cocoa.training.setup import backbone_of, model_of, open_data, set_pixel_limits

EVALUATION = "evaluation"
"""Stands for a stage in what is wrong with the tasks themselves."""


@dataclass(frozen=True)
class Table:
    """A table of a stage: its good rows, and its share in what the stage draws."""

    name: str
    rows: int
    share: float


@dataclass(frozen=True)
class StageCheck:
    """A stage: its tables, the rows looked at, how long they are, and its first batches (none if it cannot begin)."""

    name: str
    layout: str
    max_tokens: int
    tables: tuple[Table, ...]
    num_pairs: int
    num_read: int
    lengths: Lengths
    batches: tuple[PreviewBatch, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the stage as JSON would hold it; pictures are named, not held."""
        batches = [
            {
                "step": batch.step,
                "num_pairs": batch.num_pairs,
                "pairs": [self._named(pair.to_dict()) for pair in batch.pairs],
            }
            for batch in self.batches
        ]
        lengths = {**asdict(self.lengths), "cut_rate": self.lengths.cut_rate}
        return {**vars(self), "tables": [vars(table) for table in self.tables], "lengths": lengths, "batches": batches}

    def _named(self, pair: dict[str, Any]) -> dict[str, Any]:
        """The same names for pictures that `PreviewPair.pictures` gives."""
        for side in ("query", "target"):
            if pair[side]:
                pair[side]["pictures"] = [f"{self.name}, {name}" for name in pair[side]["pictures"]]
        return pair


@dataclass(frozen=True)
class DataCheck:
    """What a recipe's data is like; `sample` is how many rows of each source were looked at, None: all.

    `tasks` are the names of the tasks that it was compared with, None: it was compared with none.
    """

    recipe: str
    sample: int | None
    stages: tuple[StageCheck, ...]
    tasks: tuple[str, ...] | None
    findings: tuple[Finding, ...]
    num_pictures: int
    seconds: float

    @property
    def num_errors(self) -> int:
        """Findings that should be mended before training."""
        return self.count("error")

    def count(self, level: Level) -> int:
        """Returns the number of findings of a level."""
        return sum(finding.level == level for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Returns the check as JSON would hold it; pictures are named, not held."""
        return {
            **vars(self),
            "tasks": None if self.tasks is None else list(self.tasks),
            "stages": [stage.to_dict() for stage in self.stages],
            "findings": [finding.to_dict() for finding in self.findings],
        }


def check_data(
    recipe: Recipe,
    *,
    tasks: Path | None = None,
    sample: int | None = None,
    workers: int | None = None,
    on_progress: Progress = lambda what, done, total: None,
) -> DataCheck:
    """Returns what is wrong with the data of a recipe, and what it is like; no weights are loaded.

    `tasks` is a folder as `cocoa evaluate` takes it, with which the training data is compared. All rows are looked at,
    or `sample` of each source, spread evenly; tasks are always read as a whole.
    """
    began = time.perf_counter()
    check = _Check(recipe, sample, workers or os.cpu_count() or 1, on_progress)
    stages = [check.stage(stage) for stage in recipe.stages]
    names = check.compare(tasks) if tasks is not None else None
    return DataCheck(
        recipe.name,
        sample,
        tuple(stages),
        names,
        merged(check.findings),
        check.gallery.num_pictures,
        time.perf_counter() - began,
    )


class _Check:
    """The sources read so far, and what was found in them."""

    def __init__(self, recipe: Recipe, sample: int | None, workers: int, on_progress: Progress) -> None:
        self.recipe, self.sample, self.workers, self.on_progress = recipe, sample, workers, on_progress
        self.gallery = Gallery()
        self.findings: list[Finding] = []
        self._backbone = backbone_of(recipe, weights=False)
        self._sources: dict[str, ReadSource] = {}
        self._stages: defaultdict[str, list[str]] = defaultdict(list)

    def stage(self, stage: Stage) -> StageCheck:
        """A stage, with its findings noted."""
        sources = [self._read(source, stage.name) for source in stage.data]
        distinct = _distinct(sources)
        if stage.rebuilds_target_text:
            # As `open_data` does: what is left out is not measured, and never decoded.
            seen = {id(each): each.text_targets() for each in distinct if each.source.kind == "mmeb_train"}
            sources = [seen.get(id(each), each) for each in sources]
        trained = _distinct(sources)
        own_grid = self._backbone.grid
        model = model_of(self.recipe, stage, self._backbone)
        options = self.recipe.backbone
        set_pixel_limits(model, options.min_pixels, options.max_pixels, "recipe: backbone")
        set_pixel_limits(model, stage.min_pixels, stage.max_pixels, f"recipe: stage {stage.name}")
        measured = measure_stage(model, stage, trained, workers=self.workers, on_progress=self.on_progress)
        batches = self._preview(model, stage, distinct)
        self._backbone.grid = own_grid
        contrasted = any(objective.kind == "contrastive" for objective in stage.objectives)
        self._note_bad_rows(sources, measured, stage)
        self.findings += pair_findings(trained, [stage.name], contrasted=contrasted)
        self.findings += column_findings(distinct, [stage.name])
        self._note_cuts(measured, stage)
        if stage.rebuilds_target_text:
            self._note_picture_targets(distinct, stage)
        return StageCheck(
            stage.name,
            stage.layout,
            self.recipe.max_tokens,
            _tables(stage.data, sources),
            sum(len(source.pairs) for source in distinct),
            sum(source.num_read for source in distinct),
            measured.lengths,
            batches,
        )

    def compare(self, folder: Path) -> tuple[str, ...]:
        """The names of the tasks in a folder, with what the training data has of them noted."""
        try:
            tasks = read_tasks(folder)
        except CocoaError as error:
            problems = error.problems if isinstance(error, FolderError) else (error,)
            self._note_rows([BadRow.of(each, each.where or str(folder)) for each in problems], EVALUATION, "error", "")
            return ()
        tests = read_tests(tasks, self.gallery, workers=self.workers, on_progress=self.on_progress)
        self._note_rows(tests.bad, EVALUATION, "error", "")
        self.on_progress("comparing with the tasks", 0, 1)
        self.findings += leak_findings(list(self._sources.values()), tests, self._stages_of)
        self.on_progress("comparing with the tasks", 1, 1)
        return tuple(task.name for task in tasks)

    def _read(self, source: Source, stage: str) -> ReadSource:
        """A source that several stages name is read once; how often it is drawn does not matter here."""
        key = source.model_dump_json(exclude={"weight"})
        if key not in self._sources:
            self._sources[key] = read_source(
                source,
                _name(source),
                self.gallery,
                sample=self.sample,
                workers=self.workers,
                on_progress=self.on_progress,
            )
        self._stages[key].append(stage)
        return self._sources[key]

    def _stages_of(self, source: ReadSource) -> Iterable[str]:
        return self._stages[source.source.model_dump_json(exclude={"weight"})]

    def _preview(self, model: EmbeddingModel, stage: Stage, sources: Sequence[ReadSource]) -> tuple[PreviewBatch, ...]:
        if any(source.broken for source in sources):
            return ()
        try:
            # As training opens it, so that the order is training's own; bad rows are noted elsewhere.
            mixture = open_data(self.recipe, stage, BadRows(1.0))
        except CocoaError as error:
            where = error.where or f"stage {stage.name}"
            self.findings += find(error.code, [Example(where, error.message)], [stage.name], tables={})
            return ()
        return preview(model, stage, mixture)

    def _note_bad_rows(self, sources: Sequence[ReadSource], measured: Measured, stage: Stage) -> None:
        """An error where training would end, a warning where it would leave the rows out."""
        distinct = _distinct(sources)
        broken = [row for source in distinct for row in source.broken]
        self._note_rows(broken, stage.name, "error", "The whole source cannot be read.")
        bad = [row for source in distinct for row in (*source.refused, *source.bad)]
        bad += [row for _, row in measured.unfit]
        allowed = self.recipe.max_bad_rate
        if allowed is None:
            self._note_rows(bad, stage.name, "error", "Training ends at the first; see max_bad_rate.")
            return
        rate = _bad_rate(sources, measured)
        sampled = any(source.num_read < len(source.pairs) for source in sources)
        said = f"{'about ' if sampled else ''}{rate:.2%} of the rows, {allowed:.2%} are allowed."
        if rate <= allowed:
            self._note_rows(bad, stage.name, "warning", f"Training leaves them out: {said}")
        else:
            self._note_rows(bad, stage.name, "error", f"Training ends: {said}")

    def _note_rows(self, rows: Iterable[BadRow], stage: str, level: Level, detail: str) -> None:
        groups: defaultdict[str, list[Example]] = defaultdict(list)
        for row in rows:
            groups[row.code].append(Example(row.where, row.message))
        for code, examples in groups.items():
            self.findings += find(code, examples, [stage], level=level, detail=detail)

    def _note_picture_targets(self, sources: Sequence[ReadSource], stage: Stage) -> None:
        tables = [source.pairs for source in sources if source.source.kind == "mmeb_train"]
        found = [pair for pairs in tables for pair in map(pairs.__getitem__, range(len(pairs))) if pair.target.images]
        examples = [
            Example(
                pair.query.where,
                "the target is a picture",
                (Shown.of(pair.query, "query"), Shown.of(pair.target, "target")),
            )
            for pair in found[:MOST_EXAMPLES]
        ]
        counts = Counter(table_of(pair.query.where) for pair in found)
        self.findings += find("PICTURE_TARGET", examples, [stage.name], count=len(found), tables=dict(counts))

    def _note_cuts(self, measured: Measured, stage: Stage) -> None:
        tables: defaultdict[str, int] = defaultdict(int)
        for source, number in measured.cut:
            tables[table_of(source.pairs[number].query.where)] += 1
        examples = []
        for source, number in measured.cut[:MOST_EXAMPLES]:
            pair = source.pairs[number]
            shown = (Shown.of(pair.query, "query"), Shown.of(pair.target, "target"))
            examples.append(Example(pair.query.where, f"longer than {self.recipe.max_tokens} tokens", shown))
        lengths = measured.lengths
        detail = f"{lengths.num_cut:,} of {lengths.num_texts:,} texts ({lengths.cut_rate:.2%}) lose their end."
        self.findings += find(
            "TEXT_CUT", examples, [stage.name], detail=detail, count=len(measured.cut), tables=dict(tables)
        )


def _distinct(sources: Sequence[ReadSource]) -> list[ReadSource]:
    """The sources without repeats: one that a stage lists twice has its rows once."""
    return list({id(source): source for source in sources}.values())


def _bad_rate(sources: Sequence[ReadSource], measured: Measured) -> float:
    """The rate of bad rows that a stage of these sources comes to as training counts them.

    Rows of which no pair was made stand beside the pairs, those that do not open or fit are among them: what was found
    in a sample is taken for the like share of all pairs.
    """
    unfit = Counter(id(source) for source, _ in measured.unfit)
    expected, total = 0.0, 0
    for source in sources:
        found = len(source.bad) + unfit[id(source)]
        expected += len(source.refused) + found * len(source.pairs) / max(1, source.num_read)
        total += len(source.pairs) + len(source.refused)
    return expected / max(1, total)


def _tables(data: Sequence[Source], sources: Sequence[ReadSource]) -> tuple[Table, ...]:
    """The tables of a stage with their shares, by the rule of `Mixture`: its pairs times the weight, at least one."""
    drawn = [
        (name, size, max(1, round(option.weight * size)) if size else 0)
        for option, source in zip(data, sources, strict=True)
        for name, size in source.tables
    ]
    total = max(1, sum(count for _, _, count in drawn))
    return tuple(Table(name, size, count / total) for name, size, count in drawn)


def _name(source: Source) -> str:
    return str(source.path) if source.kind != "scene_pairs" else f"generated scenes, seed {source.seed}"
