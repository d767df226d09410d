"""The page of a study: each budget's arms with intervals and tests, their costs, and few-shot curves."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from markupsafe import Markup

from cocoa.report.charts import MAX_SERIES, WIDTH, _px, _svg, _text, line_chart
from cocoa.report.page import _environment
from cocoa.report.scale import scale_for

Result = Mapping[str, Any]
Curves = dict[str, list[tuple[float, float]]]
_EDGE = 14
"""Between the ends of a scale and the edge: half of a label."""
_ROW, _LINE = 38, 16
"""Pixels of a row, and of a line of its name."""
_CHARACTERS = 46
"""Of a line of a name; the number of the row stands behind it."""
_BY_LAYER = {
    "hit_at_1": ("hit@1 in %", 100.0),
    "effective_rank": ("effective rank", 1.0),
    "content_to_e": ("attention of content to e, in %", 100.0),
}
"""The measures of layers that have charts: what stands on the axis, and what they are multiplied by."""


def study_page(result: Result) -> str:
    """Returns the HTML of a study's result, given as its `results.json`."""
    charts = study_charts(result)
    layers = {
        budget["budget"]: [
            chart
            for name, chart in charts.items()
            if re.fullmatch(rf"layers-\w+-{re.escape(budget['budget'])}-\d+", name)
        ]
        for budget in result["budgets"]
    }
    return _environment().get_template("study.html.j2").render(result=result, charts=charts, layers=layers)


def study_charts(result: Result) -> dict[str, Markup]:
    """Returns the charts of a study by name: scores, differences and layers of each budget, and few-shot curves."""
    charts: dict[str, Markup] = {}
    for budget in result["budgets"]:
        name, arms = budget["budget"], budget["arms"]
        if not arms:
            continue
        scores = [(arm["title"], arm["score"], arm["half"]) for arm in arms]
        charts[f"scores-{name}"] = interval_chart(scores, title=f"hit@1, {name}")
        differences = [(a["title"], a["difference"], a["difference_half"]) for a in arms if a["difference"] is not None]
        if differences:
            title = f"Difference to {result['baseline']}, {name}"
            charts[f"differences-{name}"] = interval_chart(differences, title=title, zero=True)
        for key, (title, scale) in _BY_LAYER.items():
            charts |= _parts(f"layers-{key}-{name}", _by_layer(arms, key, scale), f"{title}, {name}", "layer", title)
    curves = _few_shot(result)
    powers = sorted({power for points in curves.values() for power, _ in points})
    names = {power: f"{round(2**power):,}" for power in powers}
    title, label = "hit@1 by labelled pairs", "labelled pairs of each task"
    return charts | _parts("few-shot", curves, title, label, "hit@1 in %", names)


def _parts(
    name: str, curves: Curves, title: str, x_label: str, y_label: str, x_names: Mapping[float, str] | None = None
) -> dict[str, Markup]:
    """Line charts by name, as many as are needed to tell the series apart."""
    charts = {}
    for number, start in enumerate(range(0, len(curves), MAX_SERIES), start=1):
        names = list(curves)[start : start + MAX_SERIES]
        charts[f"{name}-{number}"] = line_chart(
            {each: curves[each] for each in names},
            title=title,
            x_label=x_label,
            y_label=y_label,
            noisy=False,
            x_names=x_names,
        )
    return charts


def interval_chart(rows: Sequence[tuple[str, float, float | None]], *, title: str, zero: bool = False) -> Markup:
    """Returns points with their intervals, a row each, in percent points, as inline SVG; `zero` marks no difference.

    Names stand above their lines: beside them they would take half of a phone's width.
    """
    ends = [100 * (rate + sign * (half or 0.0)) for _, rate, half in rows for sign in (1, -1)]
    scale = scale_for([*ends, *([0.0] if zero else [])], _EDGE, WIDTH - _EDGE)
    names = [wrap(name, _CHARACTERS) or [""] for name, _, _ in rows]
    top = 32
    bottom = top + sum(_ROW + _LINE * (len(lines) - 1) for lines in names)
    parts = [_text(0, 15, title, "chart-title")]
    rule = Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    for tick, label in zip(scale.ticks, scale.labels(), strict=True):
        parts.append(rule.format("grid", _px(scale(tick)), _px(scale(tick)), top - 4, bottom))
        parts.append(_text(scale(tick), bottom + 16, label, "tick", "middle"))
    if zero:
        parts.append(rule.format("marker", _px(scale(0.0)), _px(scale(0.0)), top - 4, bottom))
    said, y = [], float(top)
    for lines, (name, rate, half) in zip(names, rows, strict=True):
        value = 100 * rate
        shown = f"{value:+.1f}" if zero else f"{value:.1f}"
        parts.append(_text(WIDTH, y + 12, shown.replace("-", "−"), "value halo", "end"))
        for line in lines:
            parts.append(_text(0, y + 12, line, "label halo"))
            y += _LINE
        middle = y + 7
        if half is not None:
            low, high = scale(value - 100 * half), scale(value + 100 * half)
            drawn = Markup('<line x1="{}" x2="{}" y1="{}" y2="{}" style="stroke:var(--series-2);stroke-width:2"/>')
            parts.append(drawn.format(_px(low), _px(high), _px(middle), _px(middle)))
        dot = Markup('<circle cx="{}" cy="{}" r="4" style="fill:var(--series-2)"/>')
        parts.append(dot.format(_px(scale(value)), _px(middle)))
        said.append(f"{name}: {shown}" + (f" ± {100 * half:.1f}" if half is not None else ""))
        y += _ROW - _LINE
    return _svg(bottom + 22, title, "; ".join(said), parts)


def _by_layer(arms: Sequence[Mapping[str, Any]], key: str, scale: float) -> Curves:
    """Each arm's (layer, measure), of the arms whose layers were measured."""
    return {
        arm["title"]: [(float(number), scale * layer[key]) for number, layer in enumerate(arm["layers"], start=1)]
        for arm in arms
        if arm.get("layers") and all(key in layer for layer in arm["layers"])
    }


def _few_shot(result: Result) -> Curves:
    """Each arm's (log2 of labelled pairs, hit@1 in %), of the budgets that say how many there are."""
    curves: Curves = {}
    for budget in sorted((b for b in result["budgets"] if b["labelled"]), key=lambda b: int(b["labelled"])):
        for arm in budget["arms"]:
            power = math.log2(budget["labelled"])
            curves.setdefault(arm["title"], []).append((power, 100 * arm["score"]))
    # Two budgets may stand for as many pairs: a curve is of several sizes.
    return {name: points for name, points in curves.items() if len({power for power, _ in points}) > 1}
