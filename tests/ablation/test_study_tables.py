"""docs/study.md has no number that was typed by hand: its tables are written from records, between markers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from studying import TEXT

from cocoa.ablation.analysis import analyse
from cocoa.ablation.study import load_study
from cocoa.ablation.writing import markdown, put_between
from cocoa.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "study.md"


def record(arm, seed, score, budget="short"):
    cost = {"steps": 2, "pairs": 8, "tokens": 100, "seconds": 1.0, "flops": 2e12}
    tasks = {"one": {"meta_task": "vqa", "hit_at_1": score}}
    return {
        "arm": arm,
        "budget": budget,
        "seed": seed,
        "score": score,
        "tasks": tasks,
        "summary": {"vqa": score, "overall": score},
        "cost": cost,
        "factors": {"contrastive": 1.0},
        "probes": None,
    }


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "study.yaml").write_text(TEXT)
    study = load_study(tmp_path / "study.yaml")
    out = tmp_path / "out"
    out.mkdir()
    (out / "study.json").write_text(json.dumps(study.model_dump(mode="json", exclude={"machine"})))
    for arm, base in (("plain", 0.4), ("light", 0.5)):
        for seed in (0, 1):
            path = out / "runs" / arm / "short" / f"{seed}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record(arm, seed, base + 0.01 * seed * (1 if arm == "plain" else 2))))
    return out


def test_tables_come_from_the_records_and_stand_between_their_markers(folder, tmp_path):
    spec = importlib.util.spec_from_file_location("write_study_tables", ROOT / "scripts" / "write_study_tables.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = "before\n<!-- study:tiny -->\nold 99.9\n<!-- /study:tiny -->\nafter\n"
    once = script.with_tables(page, folder)
    assert script.with_tables(once, folder) == once
    assert once.startswith("before\n<!-- study:tiny -->\n") and once.endswith("<!-- /study:tiny -->\nafter\n")
    assert "99.9" not in once
    # Means 40.5 and 51.0; differences 10.0 and 11.0, of which t(1) makes 10.5 ± 6.4 and p 0.0303.
    assert "| plain | 2 | 40.5 ± 6.4 | – | – | – | – | 40.5 |" in once
    assert "| light decoder | 2 | 51.0 ± 12.7 | +10.5 ± 6.4 | 0.0303 | 0.0303 | 0.5000 | 51.0 |" in once
    assert "| light decoder | 2 | 8 | 100 | 2.00 | 1 | contrastive 1 |" in once
    assert "nothing here is a result yet" in once, "one arm and one budget are missing"


def test_holm_corrects_for_the_arms_of_a_budget(tmp_path):
    (tmp_path / "study.yaml").write_text(TEXT)
    study = load_study(tmp_path / "study.yaml")
    records = [
        record(arm, seed, base + step * seed)
        for arm, base, step in (("plain", 0.4, 0.0), ("light", 0.5, 0.01), ("mean", 0.41, 0.02))
        for seed in (0, 1)
    ]
    plain, light, mean = analyse(study, records).budgets[0].arms
    assert plain.p is None and plain.p_holm is None
    assert light.p < mean.p
    assert light.p_holm == pytest.approx(2 * light.p)
    assert mean.p_holm == max(mean.p, light.p_holm)


def test_a_page_without_the_markers_is_refused():
    with pytest.raises(DataError, match="no place for a study"):
        put_between("a page", "tiny", "table", "page.md")


def test_the_page_has_a_place_for_each_study_that_is_evidence_and_says_that_results_are_not_in():
    page = PAGE.read_text()
    for name in ("nano-core", "nano-full", "nano-few-shot"):
        assert put_between(page, name, "None yet.", str(PAGE)) == page, "no number before the runs"
    assert "There are no results yet" in page


def test_a_study_without_any_run_has_tables_that_say_so(tmp_path):
    (tmp_path / "study.yaml").write_text(TEXT)
    said = markdown(analyse(load_study(tmp_path / "study.yaml"), []))
    assert "nothing here is a result yet" in said
    assert "0 of 6 runs" in said
