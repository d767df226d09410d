"""The page of a data check: what was found, with the samples side by side, and what each stage will read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from markupsafe import Markup
from PIL import Image

from cocoa.report.charts import _LEFT, _PLOT_HEIGHT, _RIGHT, WIDTH, _axes, _px, _svg, _text
from cocoa.report.page import _environment
from cocoa.report.scale import scale_for
from cocoa.report.sentences import listed

SHOWN = 4
"""Examples of a finding that are shown with their samples; the others are in the list."""
_LEAST_SCALE = 20
_LEVELS = ("error", "warning", "note")


def check_page(check: Mapping[str, Any], pictures: Mapping[str, Image.Image]) -> str:
    """Returns the HTML of a check, given as its `check.json`; `pictures` are those of the named ones that open."""
    environment = _environment()
    return environment.get_template("check.html.j2").render(
        check=check,
        pictures=pictures,
        headline=headline(check["findings"]),
        lead=_lead(check),
        home=_home(check),
        shown=SHOWN,
        charts={stage["name"]: _charts(stage) for stage in check["stages"]},
    )


def headline(findings: Sequence[Mapping[str, Any]]) -> str:
    """Returns how many findings of each level there are, in words."""
    counts = {level: sum(finding["level"] == level for finding in findings) for level in _LEVELS}
    said = [f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts.items() if count]
    return listed(said) if said else "Nothing found"


def _lead(check: Mapping[str, Any]) -> str:
    rows = [f"{stage['num_read']:,} of {stage['num_pairs']:,} rows of {stage['name']}" for stage in check["stages"]]
    looked = "All rows" if check["sample"] is None else f"A sample ({listed(rows)})"
    tasks = check["tasks"]
    against = "no evaluation" if tasks is None else f"{len(tasks)} task{'' if len(tasks) == 1 else 's'}"
    return f"{looked} and {check['num_pictures']:,} pictures were looked at, and compared with {against}."


def _home(check: Mapping[str, Any]) -> str:
    """The folder that all tables lie in, with its last slash, to be left out of every path; '' without one."""
    names = {table["name"] for stage in check["stages"] for table in stage["tables"]}
    names |= {name for finding in check["findings"] for name in finding["tables"]}
    folders = [PurePath(name).parent for name in names if PurePath(name).is_absolute()]
    shared = (
        [home for home in (folders[0], *folders[0].parents) if all(each.is_relative_to(home) for each in folders)]
        if folders
        else []
    )
    return f"{shared[0]}{os.sep}" if shared and len(shared[0].parts) > 1 else ""


def _charts(stage: Mapping[str, Any]) -> list[Markup]:
    lengths = stage["lengths"]
    kinds = (
        ("text", "Text of a sample", "text tokens", None),
        ("visual", "A picture", "visual tokens", None),
        ("row", "A whole row", "tokens", stage["max_tokens"]),
    )
    return [
        histogram(lengths[kind], title=title, x_label=label, limit=limit)
        for kind, title, label, limit in kinds
        if sum(lengths[kind]["counts"])
    ]


def histogram(bars: Mapping[str, Any], *, title: str, x_label: str, limit: int | None = None) -> Markup:
    """Returns bars over evenly spaced `edges`, as inline SVG; a `limit` that is in reach is marked."""
    edges, counts = bars["edges"], bars["counts"]
    top, bottom = 44, 44 + _PLOT_HEIGHT
    # Tokens are whole: a scale of less than this would have halves on it.
    x_scale = scale_for([0, max(edges[-1], _LEAST_SCALE)], _LEFT, WIDTH - _RIGHT, tight=True)
    y_scale = scale_for([0, max(counts)], bottom, top)
    parts = [_text(0, 15, title, "chart-title"), _axes(x_scale, y_scale)]
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        left, right, height = x_scale(low), x_scale(high), bottom - y_scale(count)
        bar = Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}" style="fill:var(--series-3)"/>')
        if count:
            # A bar of few is still to be seen.
            height = max(1.5, height)
            parts.append(bar.format(_px(left + 0.5), _px(bottom - height), _px(max(1, right - left - 1)), _px(height)))
    if limit is not None and limit <= max(edges[-1], _LEAST_SCALE):
        rule = Markup('<line class="marker" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>')
        parts.append(rule.format(_px(x_scale(limit)), top, bottom))
        parts.append(_text(x_scale(limit) - 5, top + 10, f"max_tokens {limit:,}", "value", "end"))
    said = f"mean {bars['mean']:,.1f}, longest {bars['longest']:,}"
    parts.append(_text(_LEFT, bottom + 36, said, "tick"))
    parts.append(_text(WIDTH - _RIGHT, bottom + 36, x_label, "tick", "end"))
    return _svg(bottom + 42, title, f"{sum(counts):,} values, {said} {x_label}", parts)
