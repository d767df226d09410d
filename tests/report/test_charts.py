"""A chart puts each point where its scale says, and stands empty, short and broken input."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from cocoa.layouts import LAYOUTS
from cocoa.report.charts import bar_chart, line_chart, smoothed, standalone
from cocoa.report.layout_drawing import layout_svg
from cocoa.report.scale import scale_for
from cocoa.report.study_page import interval_chart


def ticks(svg: ElementTree.Element, axis: str) -> list[tuple[float, float]]:
    """(value written, pixel) of each tick of an axis."""
    found = [text for text in svg.iter("text") if text.get("class") == f"tick {axis}"]
    # A label of the upright axis stands a little below its line, so that their middles agree.
    return [(float(text.text.replace("−", "-")), float(text.get(axis)) - (4.5 if axis == "y" else 0)) for text in found]


def pixel(marks: list[tuple[float, float]], value: float) -> float:
    """Where a reader finds a value who has only the ticks."""
    (low, start), (high, end) = marks[0], marks[-1]
    return start + (value - low) / (high - low) * (end - start)


@pytest.mark.parametrize("offset", [0.0, -3.0, 1000.0])
def test_points_are_where_the_ticks_say(offset: float) -> None:
    points = [(float(step), offset + 5 / (step + 1)) for step in range(12)]
    svg = ElementTree.fromstring(line_chart({"loss": points}, title="t", x_label="x", y_label="y"))
    drawn = [tuple(map(float, place.split(","))) for place in svg.find("polyline").get("points").split()]
    x_ticks, y_ticks = ticks(svg, "x"), ticks(svg, "y")
    assert len(drawn) == len(points)
    for (x, y), (at_x, at_y) in zip(points, drawn, strict=True):
        assert at_x == pytest.approx(pixel(x_ticks, x), abs=0.2)
        assert at_y == pytest.approx(pixel(y_ticks, y), abs=0.2)


def test_ticks_that_have_names_stand_at_their_values_and_the_line_runs_from_first_to_last() -> None:
    points = [(5.0, 1.0), (8.0, 3.0), (11.0, 2.0)]
    names = {5.0: "32", 8.0: "256", 11.0: "2,048"}
    chart = line_chart({"a": points}, title="t", x_label="x", y_label="y", noisy=False, x_names=names)
    svg = ElementTree.fromstring(chart)
    drawn = [float(place.split(",")[0]) for place in svg.find("polyline").get("points").split()]
    marks = [(text.text, float(text.get("x"))) for text in svg.iter("text") if text.get("class") == "tick x"]
    assert [name for name, _ in marks] == ["32", "256", "2,048"]
    assert [at for _, at in marks] == pytest.approx(drawn, abs=0.2)


@pytest.mark.parametrize("values", [[], [0.0], [7.0], [-2.0, -2.0], [1e-5, 3e-5], [0.0, 123456.0], [-3.0, 5.0]])
@pytest.mark.parametrize("tight", [False, True])
def test_ticks_are_round_few_and_in_reach(values: list[float], tight: bool) -> None:
    scale = scale_for(values, 0, 100, tight=tight)
    assert 2 <= len(scale.ticks) <= 7
    assert len(set(scale.labels())) == len(scale.ticks)
    assert all(-0.01 <= scale(tick) <= 100.01 for tick in scale.ticks)
    assert all(-0.01 <= scale(value) <= 100.01 for value in values)


def test_a_noisy_series_is_shown_raw_and_smoothed() -> None:
    noisy = [(float(step), 2.0 + (-1) ** step) for step in range(1000)]
    svg = ElementTree.fromstring(line_chart({"loss": noisy}, title="t", x_label="x", y_label="y"))
    assert [line.get("class") for line in svg.iter("polyline")] == ["line faint", "line"]
    assert all(abs(y - 2.0) < 0.2 for _, y in smoothed(noisy)[10:])
    assert len(smoothed(noisy)) == len(noisy)


def test_a_spike_survives_thinning() -> None:
    spiky = [(float(step), 50.0 if step == 7777 else 1.0) for step in range(20_000)]
    svg = ElementTree.fromstring(line_chart({"loss": spiky}, title="t", x_label="x", y_label="y"))
    raw, strong = (line.get("points").split() for line in svg.iter("polyline"))
    assert len(raw) < 1000
    assert len(strong) < 1000
    assert min(float(place.split(",")[1]) for place in raw) == pytest.approx(pixel(ticks(svg, "y"), 50.0), abs=0.2)


@pytest.mark.parametrize("points", [[], [(0.0, 1.0)], [(0.0, math.nan)], [(0.0, 1.0), (1.0, math.inf)]])
def test_short_and_broken_series_are_drawn_without_nan(points: list[tuple[float, float]]) -> None:
    chart = line_chart({"loss": points, "other": [(0.0, 2.0)]}, title="t", x_label="x", y_label="y")
    only = line_chart({"loss": points}, title="t", x_label="x", y_label="y")
    for svg in (chart, only):
        ElementTree.fromstring(svg)
        assert not re.search(r"\b(nan|inf)\b", svg)


def test_no_series_and_too_many() -> None:
    assert "no points" in line_chart({}, title="t", x_label="x", y_label="y")
    with pytest.raises(ValueError, match="7 series"):
        line_chart({str(n): [] for n in range(7)}, title="t", x_label="x", y_label="y")


def test_bars_are_as_long_as_their_rates() -> None:
    groups = {"vqa": {"a": 0.25, "b": 0.5}, "grounding": {"a": 1.0, "b": 0.0}}
    svg = ElementTree.fromstring(bar_chart(groups, title="t", chance={"vqa": 0.1}))
    widths = [float(bar.get("width")) for bar in svg.iter("rect") if bar.get("class") == "bar"]
    assert widths == pytest.approx([0.25 * widths[2], 0.5 * widths[2], widths[2], 0.0], abs=0.2)
    assert "vqa, guessing: 10.0%" in svg.find("desc").text


def test_names_are_escaped() -> None:
    for svg in (
        line_chart({"<b>": [(0, 1)]}, title="<i>&", x_label="<u>", y_label='"'),
        bar_chart({"<b>": {"<i>": 0.5}}, title="<u>"),
    ):
        ElementTree.fromstring(svg)
        assert not re.search("<[biu]>", svg)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_drawn_layout_fills_the_cells_that_look(name: str) -> None:
    figure = ElementTree.fromstring(layout_svg(LAYOUTS[name], "AAeBB"))
    filled = [rect.get("class") != "cell" for rect in figure.iter("rect")]
    looks = "".join(line.replace(" ", "")[1:] for line in LAYOUTS[name].draw("AAeBB").splitlines()[1:])
    assert filled == [cell == "#" for cell in looks]


def test_the_bridge_is_explained() -> None:
    assert "What B needs from A can only come through e." in layout_svg(LAYOUTS["eos_bridge"])
    assert "can only" not in layout_svg(LAYOUTS["bidirectional"])


def test_a_chart_as_a_file_is_no_larger_than_drawn_and_cuts_no_text_off() -> None:
    """Letters are 12 pixels of 380, so a phone shows them as large as its own."""
    names = {5.0: "32", 11.0: "2,048,000"}
    points = [(5.0, 1.0), (11.0, 2.0)]
    long = "captioned pictures and labelled pairs mixed in one stage, 885 steps"
    for chart in (
        line_chart({"a": points}, title="t", x_label="x", y_label="y", noisy=False, x_names=names),
        interval_chart([(long, 0.25, 0.05), ("b", 0.5, None)], title="t"),
        interval_chart([(long, -0.25, 0.05), ("b", 0.5, None)], title="t", zero=True),
    ):
        svg = ElementTree.fromstring(standalone(chart))
        assert svg.get("width") == "380"
        assert svg.get("viewBox") == f"0 0 380 {svg.get('height')}"
        for text in svg.iter("{http://www.w3.org/2000/svg}text"):
            width, at = 7.2 * len(text.text), float(text.get("x"))
            left = at - {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor")] * width
            assert left >= -1 and left + width <= 381, text.text
        assert "stroke:#fff" in standalone(chart), "it has paper of its own"


def test_an_interval_is_where_its_numbers_are() -> None:
    svg = ElementTree.fromstring(interval_chart([("a", 0.25, 0.05), ("b", 0.5, None)], title="t"))
    grid = [float(line.get("x1")) for line in svg.iter("line") if line.get("class") == "grid"]
    values = [float(text.text) for text in svg.iter("text") if text.get("class") == "tick"]
    pixels = (grid[-1] - grid[0]) / (values[-1] - values[0])
    dots = [float(dot.get("cx")) for dot in svg.iter("circle")]
    [line] = [line for line in svg.iter("line") if line.get("class") is None]
    expected = [grid[0] + pixels * (value - values[0]) for value in (25, 50, 20, 30)]
    assert [*dots, float(line.get("x1")), float(line.get("x2"))] == pytest.approx(expected, abs=0.2)
