"""The two pages: a training run, and the quickstart; templates only place what is computed here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cocoa.layouts import LAYOUTS
from cocoa.recipe import Recipe, Stage
from cocoa.report import comparison, curves, sentences
from cocoa.report.charts import MAX_SERIES, bar_chart, line_chart, smoothed
from cocoa.report.content import HiddenWord, QuickstartContent
from cocoa.report.layout_drawing import layout_svg
from cocoa.report.pictures import data_url
from cocoa.report.totals import Totals, total


@dataclass(frozen=True)
class _StageRow:
    """A stage of the recipe, what its steps add up to (None: it did not run), and its last losses."""

    stage: Stage
    totals: Totals | None
    losses: str


def train_page(recipe: Recipe, records: Sequence[Mapping[str, Any]]) -> str:
    """Returns the HTML of a training run's report: what ran, its losses, its cost, its layouts, its recipe."""
    losses = curves.stage_losses(records)
    layouts = dict.fromkeys((stage.layout, stage.letters) for stage in recipe.stages)
    return (
        _environment()
        .get_template("train.html.j2")
        .render(
            recipe=recipe,
            rows=_stage_rows(recipe, records, losses),
            whole=total(records),
            charts=_loss_charts(losses),
            run_charts=_run_charts(records),
            layouts=[(name, LAYOUTS[name], letters) for name, letters in layouts],
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


def _stage_rows(
    recipe: Recipe, records: Sequence[Mapping[str, Any]], losses: Mapping[str, Mapping[str, curves.Points]]
) -> list[_StageRow]:
    rows = []
    for stage in recipe.stages:
        own = [record for record in records if record["stage"] == stage.name]
        named = [curves.in_words(objective.kind) for objective in stage.objectives]
        # The same running mean as the chart's legend gives.
        last = [f"{name} {smoothed(points)[-1][1]:.3g}" for name, points in losses.get(stage.name, {}).items()]
        # A stage without records did not run; that is not the same as having taken no time.
        rows.append(_StageRow(stage, total(own) if own else None, ", ".join(last or named)))
    return rows


def _loss_charts(stages: Mapping[str, Mapping[str, curves.Points]]) -> list[Markup]:
    return [
        line_chart(part, title=stage, x_label="step", y_label="loss")
        for stage, series in stages.items()
        for part in _parts(series)
    ]


def _run_charts(records: Sequence[Mapping[str, Any]]) -> list[Markup]:
    return [
        line_chart(part, title=curve.title, x_label="step of the run", y_label=curve.unit, noisy=curve.noisy)
        for curve in curves.run_curves(records)
        for part in _parts(curve.series)
    ]


def _parts(series: Mapping[str, curves.Points]) -> Iterator[dict[str, curves.Points]]:
    """The series, as many at a time as one chart can show."""
    named = list(series.items())
    for start in range(0, len(named), MAX_SERIES):
        yield dict(named[start : start + MAX_SERIES])


def _large(number: float) -> str:
    """A large count as people write it: `950`, `38,400`, `12.3 M`, `4.56 G`."""
    if number < 1e6:
        return f"{number:,.0f}"
    return f"{number / 1e6:.3g} M" if number < 999.5e6 else f"{number / 1e9:,.3g} G"


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
        "large": _large,
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
