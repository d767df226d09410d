"""The two pages: a training run, and the quickstart; templates only place what is computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cocoa.layouts import LAYOUTS
from cocoa.recipe import Recipe
from cocoa.report import comparison, curves, sentences
from cocoa.report.charts import MAX_SERIES, bar_chart, line_chart
from cocoa.report.content import HiddenWord, QuickstartContent
from cocoa.report.layout_drawing import layout_svg
from cocoa.report.pictures import data_url


@dataclass(frozen=True)
class _StageRow:
    name: str
    layout: str
    objectives: str
    steps: int
    batch_size: int
    seconds: float | None


def train_page(recipe: Recipe, records: Sequence[Mapping[str, Any]]) -> str:
    """Returns the HTML of a training run's report: what ran, its losses, its speed, its layouts, its recipe."""
    losses = curves.stage_losses(records)
    layouts = dict.fromkeys(stage.layout for stage in recipe.stages)
    return (
        _environment()
        .get_template("train.html.j2")
        .render(
            recipe=recipe,
            stages=_stage_rows(recipe, records),
            seconds=sum(record["seconds"] for record in records),
            charts=_loss_charts(losses),
            speed=curves.throughput_sentence(records),
            starts=curves.stage_starts(records),
            speed_chart=line_chart(
                {"tokens a second": curves.throughput(records)},
                title="Throughput",
                x_label="step of the run",
                y_label="tokens a second",
            ),
            layouts=[(name, LAYOUTS[name]) for name in layouts],
        )
    )


def quickstart_page(content: QuickstartContent) -> str:
    """Returns the HTML of the quickstart's report: the result first, then how the model came to it."""
    variants = content.variants
    chance = comparison.guessing(variants[-1].tasks) if variants else {}
    names = comparison.columns(variants)
    groups = {name: {each.title: each.summary[name] for each in variants if name in each.summary} for name in names}
    return (
        _environment()
        .get_template("quickstart.html.j2")
        .render(
            content=content,
            variants=variants,
            columns=names,
            chance=chance,
            splits=comparison.tasks_by_split(variants),
            bars=bar_chart(groups, title="Right answers in first place", chance=chance),
            charts=_loss_charts(curves.shared_losses([(each.title, each.records) for each in variants])),
            bridged_right=sentences.rebuilt(word for each in content.bridged for word in each.truth),
            bridged_wrong=sentences.rebuilt(word for each in content.bridged for word in each.shuffled),
            words_right=sentences.rebuilt(word for each in content.words for word in each.words),
        )
    )


def _stage_rows(recipe: Recipe, records: Sequence[Mapping[str, Any]]) -> list[_StageRow]:
    rows = []
    for stage in recipe.stages:
        seconds = [record["seconds"] for record in records if record["stage"] == stage.name]
        objectives = sentences.listed([curves.in_words(objective.kind) for objective in stage.objectives])
        # A stage without records did not run; that is not the same as having taken no time.
        total = sum(seconds) if seconds else None
        rows.append(_StageRow(stage.name, stage.layout, objectives, stage.steps, stage.batch_size, total))
    return rows


def _loss_charts(stages: Mapping[str, Mapping[str, curves.Points]]) -> list[Markup]:
    charts = []
    for stage, series in stages.items():
        named = list(series.items())
        for start in range(0, len(named), MAX_SERIES):
            part = dict(named[start : start + MAX_SERIES])
            charts.append(line_chart(part, title=stage, x_label="step", y_label="loss"))
    return charts


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.1%}"


def _points(difference: float | None) -> str:
    return "–" if difference is None else sentences.signed(difference)


def _sign(difference: float | None) -> str:
    return "" if not difference else "better" if difference > 0 else "worse"


def _lead_space(word: HiddenWord) -> str:
    """The white space before a word, which must not be marked with it."""
    return word.text[: len(word.text) - len(word.text.lstrip())]


def _shown(text: str) -> str:
    """A token as a reader can see it: line ends and lone spaces are drawn."""
    return text.strip() or text.replace("\n", "⏎").replace(" ", "␣") or "∅"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cocoa.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "signed_points": _points,
        "sign": _sign,
        "duration": sentences.duration,
        "data_url": data_url,
        "lead_space": _lead_space,
        "shown": _shown,
    }
    environment.globals |= {
        "points": comparison.points,
        "sentences": sentences,
        "layout_svg": layout_svg,
    }
    return environment
