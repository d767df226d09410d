"""What the benchmarks measure with and what they say, where it can be checked without measuring."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from benchmarks import index
from benchmarks.outcome import HEAD, REFERENCE, Case, Targets, kept, outcome, rows_of
from scripts import write_performance

ROOT = Path(index.__file__).parents[1]
BENCHMARKS = sorted(Path(index.__file__).parent.glob("*.py"))
NAMES = {"encode", "warmup_step", "bridge_step", "contrastive_step", "evaluate", "index", "serve", "images", "growth"}


def test_the_rate_of_memory_is_that_of_reading_once_and_of_the_median(monkeypatch):
    # The fourth of seven takes a minute.
    clock = iter([0, 1, 1, 2, 2, 3, 3, 63, 63, 64, 64, 65, 65, 66])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert index.read_rate(np.ones(1000, np.float32)) == 4000


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.name)
def test_operations_are_counted_with_those_of_the_fused_attention(path):
    text = path.read_text()
    assert text.count("FlopCounterMode(") == text.count("custom_mapping=FUSED")


def test_the_worst_case_stands_on_top_for_each_figure_by_itself():
    fast, lean = Case("fast", 3.0, (2.5, 3.5), 0.4, 0.9), Case("lean", 1.5, (1.4, 1.6), 0.7, 0.2)
    found = outcome("one", "peer", "ceiling", [fast, lean], Targets(2.0, 0.6))
    assert (found["ratio"], found["ceiling_share"], found["memory_ratio"]) == (1.5, 0.4, 0.9)


def test_a_case_without_a_peer_takes_no_ratio_from_the_others():
    alone, compared = Case("alone", None, None, 0.5), Case("compared", 2.5, None, 0.6)
    assert outcome("one", "peer", "ceiling", [alone, compared], Targets(2.0))["ratio"] == 2.5
    assert outcome("one", "peer", "ceiling", [alone], Targets(2.0))["ratio"] is None


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (Case("a", 2.0, None, 0.5, 0.6), ["2.00 x", "2: reached", "0.60 x", "0.6: reached", "0.5: reached"]),
        (
            Case("a", 1.99, (1.9, 2.1), 0.49, 0.61),
            ["1.99 x (1.90 to 2.10)", "2: **not** reached", "0.61 x", "0.6: **not** reached", "0.5: **not** reached"],
        ),
        (Case("a", None, None, 0.5), ["–", "–", "–", "–", "0.5: reached"]),
    ],
)
def test_a_target_is_reached_by_as_much_speed_and_share_and_by_no_more_memory(case, said):
    [row] = rows_of(outcome("one", "peer", "rate", [case], Targets(2.0, 0.6, 0.5)))
    assert len(row) == len(HEAD)
    assert [*row[3:7], row[8]] == said


@pytest.mark.parametrize("folder", [REFERENCE, REFERENCE / "gpu"], ids=lambda folder: folder.name)
def test_every_kept_benchmark_begins_with_the_same_figures(folder):
    for found in kept(folder):
        assert list(found)[:6] == ["name", "peer", "ratio", "target", "ceiling", "ceiling_share"]
        assert found["ratio"] == min((case["ratio"] for case in found["cases"] if case["ratio"]), default=None)
        assert found["command"].startswith(f"python -m benchmarks.{found['name']}")
        assert found["date"]


def test_each_benchmark_is_kept():
    assert {found["name"] for found in kept()} >= NAMES


def test_the_page_says_at_a_glance_what_is_kept():
    page = (ROOT / "docs" / "performance.md").read_text()
    glance = page.partition("<!-- summary -->\n")[2].partition("<!-- end -->")[0]
    rows = [row for folder in (REFERENCE, REFERENCE / "gpu") for found in kept(folder) for row in rows_of(found)]
    assert [line for line in glance.splitlines() if line][2:] == ["| " + " | ".join(row) + " |" for row in rows]


@pytest.mark.parametrize("path", write_performance.PAGES, ids=lambda path: path.name)
def test_tables_and_figures_of_a_page_are_those_of_the_kept_files(path):
    page = path.read_text()
    assert "<!-- end -->" in page
    assert write_performance.filled(page) == page


def test_a_figure_that_is_out_of_date_is_written_again():
    right = f"as <!-- serve-times -->{write_performance.times('serve')}<!-- end --> times"
    assert write_performance.filled("as <!-- serve-times -->99<!-- end --> times") == right
    assert write_performance.filled("<!-- serve -->\n<!-- end -->").startswith("<!-- serve -->\n| server |")


def test_the_plots_are_those_of_the_kept_files():
    for name, drawn in write_performance.plots().items():
        assert (ROOT / "docs" / f"{name}.svg").read_text() == drawn, name


def test_a_benchmark_compares_equal_steps_and_writes_what_it_found(tmp_path):
    file = tmp_path / "bridge.json"
    command = [sys.executable, "-m", "benchmarks.bridge_step", "--backbone", "nano", "--batch-size", "4"]
    command += ["--repeats", "1", "--threads", "1", "--sets", str(tmp_path), "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(file.read_text())
    assert (found["name"], found["peer"], found["target"], found["memory_target"]) == (
        "bridge_step",
        "plain step",
        2.0,
        0.6,
    )
    assert found["backbones"]["nano"]["largest_gradient_difference"] < 1e-4
    assert found["cases"][0]["name"] == "nano, 4 pairs"
    assert f"{found['ratio']:.2f} x as fast" in done.stdout


def test_our_step_is_taken_alone_where_there_is_no_room_for_the_plain_one(tmp_path):
    file = tmp_path / "bridge.json"
    command = [sys.executable, "-m", "benchmarks.bridge_step", "--backbone", "nano", "--batch-size", "4", "--alone"]
    command += ["--repeats", "1", "--threads", "1", "--sets", str(tmp_path), "--json", str(file)]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(file.read_text())
    assert found["ratio"] is None
    assert 0 < found["ceiling_share"] < 1.5
    shown = subprocess.run(
        [sys.executable, "-m", "benchmarks", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert shown.startswith("bridge_step, nano, 4 pairs: –")
