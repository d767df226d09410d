"""Charts as inline SVG: lines over steps, bars over groups; colours come from the page's CSS variables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from markupsafe import Markup

from cocoa.report.scale import Scale, scale_for

MAX_SERIES = 6
WIDTH = 380
"""Of every chart: narrow, so that text keeps its size when a phone shows it at full width."""
_PLOT_HEIGHT = 170
_LEFT, _RIGHT = 40, 12
_CHARACTER = 7.2  # mean width of a character of the legend, in pixels
_MANY = 30  # from so many points on, a series is taken as noisy
_MOST = 300  # more points than this do not show

Point = tuple[float, float]


def line_chart(
    series: Mapping[str, Sequence[Point]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    noisy: bool = True,
    x_names: Mapping[float, str] | None = None,
) -> Markup:
    """Returns the chart of 0 to 6 named series as inline SVG.

    A long series is drawn faint as it is and strong as its running mean; the legend gives the last value of the strong
    line. One that is not `noisy` is drawn as it is, without a last value. Points that are not finite are left out. With
    `x_names`, of two values or more, these are the ticks below.
    """
    if len(series) > MAX_SERIES:
        raise ValueError(f"{len(series)} series in one chart; at most {MAX_SERIES} can be told apart")
    finite = {
        name: [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])] for name, points in series.items()
    }
    smooth = {name: smoothed(points) if noisy else points for name, points in finite.items()}
    names = [f"{name} {_short(points[-1][1])}" if points else f"{name} –" for name, points in smooth.items()]
    legend, top = _legend(names if noisy else smooth)
    top += 26
    bottom = top + _PLOT_HEIGHT
    every = [point for points in finite.values() for point in points]
    if x_names:
        ends = min(x_names), max(x_names)
        # The last name must end inside: as a file of its own a chart shows nothing beyond its edge.
        right = max(_RIGHT, len(x_names[ends[1]]) * _CHARACTER / 2)
        x_scale = Scale(*ends, _LEFT, WIDTH - right, tuple(x_names), tuple(x_names.values()))
    else:
        x_scale = scale_for([x for x, _ in every], _LEFT, WIDTH - _RIGHT, tight=True)
    y_scale = scale_for([y for _, y in every], bottom, top)
    lines = []
    for number, (name, points) in enumerate(finite.items(), start=1):
        if smooth[name] is not points:
            lines.append(_line(_thinned(points), x_scale, y_scale, number, faint=True))
        lines.append(_line(_every(smooth[name]), x_scale, y_scale, number))
    if not every:
        lines.append(_text((_LEFT + WIDTH) / 2, (top + bottom) / 2, "no points", "tick", "middle"))
    parts = [
        _text(0, 15, title, "chart-title"),
        legend,
        _axes(x_scale, y_scale),
        _text(0, top - 12, y_label, "tick"),
        _text(WIDTH - _RIGHT, bottom + 36, x_label, "tick", "end"),
        *lines,
    ]
    described = "; ".join(f"last {name}" for name in names) or "no series"
    return _svg(bottom + 42, title, f"{y_label} by {x_label}: {described}", parts)


def bar_chart(
    groups: Mapping[str, Mapping[str, float]], *, title: str, chance: Mapping[str, float] | None = None
) -> Markup:
    """Returns horizontal bars of rates in [0, 1] from 0 to 100 %, group by group, as inline SVG.

    `chance` marks, for the groups that it names, what guessing gives.
    """
    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    if len(names) > MAX_SERIES:
        raise ValueError(f"{len(names)} bars in a group; at most {MAX_SERIES} can be told apart")
    legend, top = _legend(names, marker="guessing" if chance else None)
    top += 4
    thick, gap, left = 15, 14, 104
    x_scale = Scale(0.0, 1.0, left, WIDTH - 50, (0.0, 0.25, 0.5, 0.75, 1.0))
    parts, described, y = [_text(0, 15, title, "chart-title"), legend], [], top
    for group, bars in groups.items():
        height = thick * max(1, len(bars))
        parts.append(_text(left - 10, y + height / 2 + 4.5, group, "label", "end"))
        for place, (name, rate) in enumerate(bars.items()):
            end = x_scale(min(1.0, max(0.0, rate))) if math.isfinite(rate) else x_scale(0.0)
            percent = f"{rate:.1%}" if math.isfinite(rate) else "–"
            bar = Markup(
                '<rect class="bar" x="{}" y="{}" width="{}" height="{}" rx="2" style="fill:var(--series-{})"/>'
            )
            parts.append(bar.format(left, y + place * thick, _px(end - left), thick - 2, names.index(name) + 1))
            parts.append(_text(end + 6, y + place * thick + thick / 2 + 3.5, percent, "value"))
            described.append(f"{group}, {name}: {percent}")
        if chance and group in chance:
            parts.append(_marker(x_scale(chance[group]), y - 4, y + height + 2))
            described.append(f"{group}, guessing: {chance[group]:.1%}")
        y += height + gap
    ticks = [_vertical(x_scale(tick), top - 6, y - gap + 6, "grid") for tick in x_scale.ticks]
    ticks += [_text(x_scale(tick), y + 10, f"{tick:.0%}", "tick", "middle") for tick in x_scale.ticks]
    return _svg(y + 16, title, "; ".join(described) or "no bars", [*ticks, *parts])


def standalone(chart: Markup) -> str:
    """Returns a chart as a file of its own, with the colours of the pages, no larger than it is drawn."""
    height = chart.partition('viewBox="0 0 ')[2].partition('"')[0].split()[1]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" class="chart"'
    return str(chart).replace('<svg class="chart"', head, 1).replace("<title>", f"{_STYLE}<title>", 1) + "\n"


# On paper of its own: who shows it in the dark would have dark letters on dark ground.
_STYLE = (
    "<style>:root{--series-1:#7d8fa6;--series-2:#a8521d;--series-3:#2b7a58;--series-4:#7450a3;--series-5:#94731a;"
    "--series-6:#b3386b}svg{background:#fff}text{font:12px sans-serif;fill:#23211d}"
    ".chart-title{font-weight:600;font-size:14px}.tick,.value{fill:#635d54}.grid{stroke:#ece7dd}"
    ".halo{paint-order:stroke;stroke:#fff;stroke-width:4px}.marker{stroke:#23211d;stroke-dasharray:3 3}"
    ".line{fill:none;stroke-width:2}.faint{opacity:.35}</style>"
)


def smoothed(points: Sequence[Point]) -> Sequence[Point]:
    """Returns the running mean of a long series, and a short one as it is.

    The window narrows at the start, where a loss falls fast, and looks back only at the end, so that no end is noise.
    """
    if len(points) < _MANY:
        return points
    sums = list(accumulate((y for _, y in points), initial=0.0))
    reach, last = max(2, len(points) // 24), len(points) - 1
    result = []
    for place, (x, _) in enumerate(points):
        near = min(reach, place, last - place)
        low = place - near if place < last - reach else place - reach
        high = min(last, place + near)
        result.append((x, (sums[high + 1] - sums[low]) / (high + 1 - low)))
    return result


def _thinned(points: Sequence[Point]) -> list[Point]:
    """The least and the greatest of each stretch, so that a spike is never thinned away."""
    if len(points) <= 2 * _MOST:
        return list(points)
    size = math.ceil(len(points) / _MOST)
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    return [end for part in stretches for end in sorted({min(part, key=_y), max(part, key=_y)})]


def _every(points: Sequence[Point]) -> list[Point]:
    stride = math.ceil(len(points) / (2 * _MOST)) or 1
    return [*points[:-1:stride], *points[-1:]]


def _y(point: Point) -> float:
    return point[1]


def _line(points: Sequence[Point], x_scale: Scale, y_scale: Scale, number: int, *, faint: bool = False) -> Markup:
    places = [f"{_px(x_scale(x))},{_px(y_scale(y))}" for x, y in points]
    if len(places) == 1:
        x, y = places[0].split(",")
        return Markup('<circle class="line" cx="{}" cy="{}" r="4" style="fill:var(--series-{})"/>').format(x, y, number)
    line = Markup('<polyline class="{}" points="{}" style="stroke:var(--series-{})"/>')
    return line.format("line faint" if faint else "line", " ".join(places), number)


def _axes(x_scale: Scale, y_scale: Scale) -> Markup:
    parts = []
    for tick, label in zip(y_scale.ticks, y_scale.labels(), strict=True):
        y = _px(y_scale(tick))
        rule = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>')
        parts.append(rule.format(_LEFT, WIDTH - _RIGHT, y, y))
        parts.append(_text(_LEFT - 8, y_scale(tick) + 4.5, label, "tick y", "end"))
    for tick, label in zip(x_scale.ticks, x_scale.labels(), strict=True):
        parts.append(_text(x_scale(tick), y_scale.start + 18, label, "tick x", "middle"))
    return Markup("").join(parts)


def _legend(names: Iterable[str], *, marker: str | None = None) -> tuple[Markup, int]:
    """The legend under the title, wrapped to the width, and the y below it."""
    parts, x, y = [], 0.0, 38
    entries = [*((name, number) for number, name in enumerate(names, start=1)), *([(marker, 0)] if marker else [])]
    for name, number in entries:
        width = 18 + len(name) * _CHARACTER + 18
        if x and x + width > WIDTH:
            x, y = 0.0, y + 20
        swatch = Markup('<rect x="{}" y="{}" width="12" height="12" rx="2" style="fill:var(--series-{})"/>')
        parts.append(swatch.format(_px(x), y - 11, number) if number else _marker(x + 6, y - 13, y + 2))
        parts.append(_text(x + 18, y, name, "label"))
        x += width
    return Markup("").join(parts), y + 16 if parts else 30


def _marker(x: float, top: float, bottom: float) -> Markup:
    return _vertical(x, top, bottom, "marker-halo") + _vertical(x, top, bottom, "marker")


def _vertical(x: float, top: float, bottom: float, kind: str) -> Markup:
    rule = Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    return rule.format(kind, _px(x), _px(x), _px(top), _px(bottom))


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> Markup:
    tag = Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>')
    return tag.format(kind, _px(x), _px(y), anchor, text)


def _svg(height: float, title: str, described: str, parts: Sequence[Markup]) -> Markup:
    start = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img"><title>{}</title><desc>{}</desc>')
    return start.format(WIDTH, math.ceil(height), title, described) + Markup("").join(parts) + Markup("</svg>")


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _short(value: float) -> str:
    return f"{value:.3g}".replace("-", "−") if abs(value) < 1000 else f"{value:,.0f}"
