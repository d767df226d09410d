"""The page of an evaluation: every task with its interval, the means, published rows beside them, hits and misses."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup
from PIL import Image

from cocoa.data.mmeb_v1 import TASKS
from cocoa.images import ImageSource, image_key, open_rgb
from cocoa.report.charts import MAX_SERIES, bar_chart
from cocoa.report.comparison import guessing
from cocoa.report.page import _environment
from cocoa.report.sentences import listed
from cocoa.sample import IMAGE_PLACEHOLDER, META_TASKS, Sample

MEANS = (*META_TASKS, "ind", "ood", "overall")
"""The means of a summary, in the order in which they are shown."""

_COMPARED = ("CoCoA (Qwen2-VL)", "CoCoA (Qwen2.5-VL)", "MoCa (Qwen2.5-VL)", "VLM2Vec (Qwen2-VL)")
"""The published models that the bars stand beside; all of them are in the table."""
_THUMBNAIL_PIXELS = 112
_MOST_CHARACTERS = 240
_NAMED = 5
"""So many missing tasks are named; all of them are in `results.json`."""


@dataclass(frozen=True)
class Example:
    """One question as the model answered it; scores are cosines, `rank` that of the right one of `candidates`."""

    query: Sample
    right: Sample
    first: Sample
    right_score: float
    first_score: float
    rank: int
    candidates: int


@dataclass(frozen=True)
class TaskExamples:
    """Some questions of a task that the model got right, and some that it got wrong."""

    name: str
    hits: Sequence[Example]
    misses: Sequence[Example]


@dataclass(frozen=True)
class _Side:
    """One side of an example, ready to be placed."""

    text: str
    pictures: Sequence[str]


@cache
def published() -> Mapping[str, Any]:
    """Returns the published MMEB-V1 scores that ship with the package, with their sources."""
    content: Mapping[str, Any] = json.loads((files("cocoa") / "assets" / "mmeb_published.json").read_text("utf-8"))
    return content


def evaluation_page(results: Mapping[str, Any], examples: Sequence[TaskExamples] = ()) -> str:
    """Returns the HTML of an evaluation: `results` is the content of `results.json`."""
    tasks: Mapping[str, Mapping[str, Any]] = results["tasks"]
    summary: Mapping[str, float] = results["summary"]
    is_mmeb = results["complete"] and set(tasks) == set(TASKS)
    thumbnails = _Thumbnails()
    return (
        _environment()
        .get_template("evaluation.html.j2")
        .render(
            results=results,
            tasks=tasks,
            means={name: (summary[name], _count(tasks, name)) for name in MEANS if name in summary},
            chance=guessing(tasks),
            headline=_headline(summary, tasks),
            lead=_lead(results),
            charts=_task_charts(tasks),
            comparison=_comparison(str(results["model"]), tasks) if is_mmeb else None,
            single=_single_tasks(tasks),
            examples=[_shown(each, tasks[each.name], thumbnails) for each in examples],
        )
    )


def _headline(summary: Mapping[str, float], tasks: Mapping[str, Any]) -> str:
    if "overall" in summary:
        return f"{summary['overall']:.1%} of first answers are right"
    return f"{len(tasks)} {'task' if len(tasks) == 1 else 'tasks'}, a part of the set"


def _lead(results: Mapping[str, Any]) -> str:
    tasks = results["tasks"].values()
    queries = sum(task["queries"] for task in tasks)
    said = f"Model {results['model']}, {queries:,} queries in {len(tasks)} {'task' if len(tasks) == 1 else 'tasks'}."
    if results["complete"]:
        return f"{said} Mean over tasks; a tie counts as wrong."
    missing = results["missing"]
    named = listed(missing) if len(missing) <= _NAMED else f"{len(missing)} of its {len(TASKS)} tasks"
    rest = f" Missing of MMEB-V1: {named}." if missing else ""
    return f"{said} No mean is given over a part of a set.{rest}"


def _count(tasks: Mapping[str, Mapping[str, Any]], name: str) -> int:
    return (
        len(tasks) if name == "overall" else sum(name in (task["meta_task"], task["split"]) for task in tasks.values())
    )


def _task_charts(tasks: Mapping[str, Mapping[str, Any]]) -> list[Markup]:
    """A chart for each meta-task that is there."""
    charts = []
    for meta_task in META_TASKS:
        rows = {name: task for name, task in tasks.items() if task["meta_task"] == meta_task}
        if rows:
            charts.append(interval_chart(rows, title=meta_task))
    return charts


_WIDTH, _ROW = 380, 40


def interval_chart(tasks: Mapping[str, Mapping[str, Any]], *, title: str) -> Markup:
    """Returns bars of hit@1 from 0 to 100 % with their 95 % intervals and what guessing gives, as inline SVG."""
    top = 34
    height = top + _ROW * len(tasks) + 18
    parts = [Markup('<text class="chart-title" x="0" y="15">{}</text>').format(title)]
    for tick in range(0, 101, 25):
        x = _x(tick / 100)
        line = Markup('<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>')
        label = Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{}%</text>')
        anchor = "start" if tick == 0 else "end" if tick == 100 else "middle"
        parts += [line.format(x, top - 4, height - 16), label.format(x, height - 2, anchor, tick)]
    described = []
    for place, (name, task) in enumerate(tasks.items()):
        y = top + _ROW * place
        rate, (low, high) = task["hit_at_1"], task["ci95"]
        parts += [
            Markup('<text class="label halo" x="0" y="{}">{}</text>').format(y + 11, name),
            Markup('<text class="value halo" x="{}" y="{}" text-anchor="end">{}</text>').format(
                _WIDTH, y + 11, f"{rate:.1%} ({100 * low:.1f}–{100 * high:.1f})"
            ),
            Markup('<rect class="bar" x="0" y="{}" width="{}" height="11" rx="2"/>').format(y + 18, _x(rate)),
            Markup('<path class="interval" d="M{0} {2}V{3}M{1} {2}V{3}M{0} {4}H{1}"/>').format(
                _x(low), _x(high), y + 19.5, y + 27.5, y + 23.5
            ),
        ]
        if task["chance"] is not None:
            guess = Markup('<line class="{0}" x1="{1}" x2="{1}" y1="{2}" y2="{3}"/>')
            where = (_x(task["chance"]), y + 15, y + 32)
            parts += [guess.format("marker-halo", *where), guess.format("marker", *where)]
        described.append(f"{name}: {rate:.1%}, 95 % interval {low:.1%} to {high:.1%}")
    start = Markup('<svg class="chart tasks" viewBox="0 0 {} {}" role="img"><title>{}</title><desc>{}</desc>')
    return start.format(_WIDTH, height, title, "; ".join(described)) + Markup("").join(parts) + Markup("</svg>")


def _x(rate: float) -> str:
    return f"{rate * _WIDTH:.1f}".removesuffix(".0")


@dataclass(frozen=True)
class _Comparison:
    """All published rows and this model's, by their overall mean, and bars of some of them."""

    bars: Markup
    rows: Sequence[Mapping[str, Any]]
    sources: Sequence[str]


def _comparison(model: str, tasks: Mapping[str, Mapping[str, Any]]) -> _Comparison:
    """How the model stands beside published ones, by the official rule, in which a tie counts as right."""
    own: dict[str, Any] = {"name": model, "size": "", "is_own": True}
    for name in MEANS:
        rates = [
            task["official_hit_at_1"]
            for task in tasks.values()
            if name in ("overall", task["meta_task"], task["split"])
        ]
        own[name] = sum(rates) / len(rates)
    rows = [row for row in published()["models"] if row["table"] == "main"]
    chosen = [row for row in rows if row["name"] in _COMPARED and None not in [row[name] for name in MEANS]]
    beside = sorted(chosen, key=lambda row: -row["overall"])[: MAX_SERIES - 1]
    series = {"this model": own} | {f"{row['name']} {row['size']}": row for row in beside}
    groups = {name: {label: row[name] for label, row in series.items()} for name in MEANS}
    every = sorted([own, *rows], key=lambda row: -row["overall"])
    return _Comparison(bar_chart(groups, title="hit@1 beside published models"), every, _sources(rows))


@dataclass(frozen=True)
class _SingleTasks:
    """Tasks of MMEB-V1 that are here, with the published rates of each model."""

    models: Sequence[str]
    rows: Mapping[str, Sequence[float]]
    sources: Sequence[str]


def _single_tasks(tasks: Mapping[str, Mapping[str, Any]]) -> _SingleTasks | None:
    models = published()["tasks"]
    rows = {
        name: [task["official_hit_at_1"], *(model["hit_at_1"][name] for model in models.values())]
        for name, task in tasks.items()
        if name in TASKS
    }
    return _SingleTasks(list(models), rows, _sources(models.values())) if rows else None


def _sources(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Where published numbers are from, in words, each source once."""
    known = published()["sources"]
    return list(dict.fromkeys(known.get(row["source"], row["source"]) for row in rows))


def _shown(examples: TaskExamples, task: Mapping[str, Any], thumbnail: Callable[[ImageSource], str]) -> dict[str, Any]:
    def side(sample: Sample) -> _Side:
        text = sample.text.replace(IMAGE_PLACEHOLDER, "").strip()
        cut = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS].rstrip()} …"
        return _Side(cut, [thumbnail(image) for image in sample.images])

    def rows(each: Sequence[Example]) -> list[dict[str, Any]]:
        return [
            {
                "query": side(one.query),
                "right": side(one.right),
                "first": side(one.first) if one.rank > 1 else None,
                "example": one,
            }
            for one in each
        ]

    return {"name": examples.name, "task": task, "hits": rows(examples.hits), "misses": rows(examples.misses)}


class _Thumbnails:
    """Small pictures as data URLs; a picture that is shown often is decoded once."""

    def __init__(self) -> None:
        self._made: dict[str, str] = {}

    def __call__(self, source: ImageSource) -> str:
        key = image_key(source)
        if key not in self._made:
            picture = open_rgb(source)
            picture.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
            stream = io.BytesIO()
            # A page may show thousands of them, so they are small before they are exact.
            picture.save(stream, "WEBP", quality=75, method=4)
            self._made[key] = "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
        return self._made[key]
