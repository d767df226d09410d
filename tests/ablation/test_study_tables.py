"""docs/study.md has no number that was typed by hand: its tables are written from records, between markers."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from studying import TEXT

from cocoa.ablation.analysis import analyse
from cocoa.ablation.job import scores
from cocoa.ablation.records import STUDY, read_records, read_study, said
from cocoa.ablation.statistics import half_width
from cocoa.ablation.study import load_study
from cocoa.ablation.writing import has_place, markdown, put_between, runs_of, write_results
from cocoa.errors import DataError, RecipeError
from cocoa.evaluation.runner import Evaluation
from cocoa.evaluation.scorer import score_task
from cocoa.report.study_page import study_page
from cocoa.sample import Question, Sample, Task

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "study.md"
KEPT = sorted(path.parent for path in (ROOT / "reference" / "studies").glob(f"*/{STUDY}"))
spec = importlib.util.spec_from_file_location("write_study_tables", ROOT / "scripts" / "write_study_tables.py")
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def record(arm, seed, score, budget="short", **more):
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
        **more,
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


def test_arms_are_tested_against_their_own_controls_too_and_all_tests_are_corrected_together(tmp_path):
    (tmp_path / "study.yaml").write_text(TEXT + "contrasts: [[light, mean]]\n")
    study = load_study(tmp_path / "study.yaml")
    records = [
        record(arm, seed, base + step * seed)
        for arm, base, step in (("plain", 0.4, 0.0), ("light", 0.5, 0.01), ("mean", 0.41, 0.02))
        for seed in (0, 1)
    ]
    result = analyse(study, records)
    budget = result.budgets[0]
    [contrast] = budget.contrasts
    # Differences 9.0 and 8.0.
    assert contrast.difference == pytest.approx(0.085)
    assert contrast.pairs == 2
    _, light, mean = budget.arms
    tests = {light.p: light.p_holm, mean.p: mean.p_holm, contrast.p: contrast.p_holm}
    assert tests[min(tests)] == pytest.approx(3 * min(tests)), "three tests, not two"
    assert "| light decoder | mean | 2 | +8.5 ± 6.4 |" in markdown(result)
    page = study_page(result.to_dict())
    assert (
        '<th scope="row">light decoder</th><td class="words">mean</td><td>2</td><td class="better">+8.5 ± 6.4</td>'
        in page
    )
    assert '<td class="better">+10.5 ± 6.4</td>' in page
    assert '<td class="">+2.0 ± 12.7</td>' in page, "no colour where the interval holds 0"
    assert "corrected by Holm for the number of tests of a budget" in page


@pytest.mark.parametrize(
    ("pair", "said"),
    [("light, light", "not of two arms"), ("light, nobody", "not of two arms"), ("light, plain", "baseline anyway")],
)
def test_a_contrast_is_of_two_arms_neither_of_which_is_the_baseline(tmp_path, pair, said):
    (tmp_path / "study.yaml").write_text(TEXT + f"contrasts: [[{pair}]]\n")
    with pytest.raises(RecipeError, match=said):
        load_study(tmp_path / "study.yaml")


def test_a_page_without_the_markers_is_refused():
    with pytest.raises(DataError, match="no place for a study"):
        put_between("a page", "tiny", "table", "page.md")


def test_the_page_has_a_place_for_each_study_that_is_evidence_and_says_so_where_results_are_not_in():
    page = PAGE.read_text()
    kept = [folder.name for folder in KEPT]
    for name in ("nano-core", "nano-full", "nano-few-shot"):
        assert has_place(page, name)
        assert name in kept or put_between(page, name, "None yet.", str(PAGE)) == page, "no number before the runs"


@pytest.mark.parametrize("kept", KEPT, ids=lambda folder: folder.name)
def test_a_kept_study_is_still_what_its_file_says_so_that_it_can_be_gone_on_with(kept):
    assert said(read_study(kept)) == said(load_study(ROOT / "studies" / f"{kept.name}.yaml"))


@pytest.mark.parametrize("kept", KEPT, ids=lambda folder: folder.name)
def test_a_kept_study_does_not_say_where_it_was_run(kept):
    assert not [path for path in kept.rglob("*.json") if re.search(r'"[^"]*"\s*:\s*"/', path.read_text())]


@pytest.mark.parametrize("kept", KEPT, ids=lambda folder: folder.name)
def test_every_number_of_the_page_is_that_of_the_kept_records(kept):
    page = PAGE.read_text()
    assert script.kept_folders(page) == [folder for folder in KEPT if has_place(page, folder.name)]
    if has_place(page, kept.name):
        assert script.with_tables(page, kept) == page, "python scripts/write_study_tables.py writes it again"
        for name, chart in script.charts_shown(page, kept).items():
            assert (PAGE.parent / name).read_text() == chart, "as above"


def test_every_figure_of_a_conclusion_stands_in_a_table_of_the_studies_that_it_names():
    page = PAGE.read_text()
    said = page.partition("## What this says so far")[2].partition("\n## ")[0]
    # A conclusion ends where the next one or a blank line begins.
    conclusions = [each.partition("\n\n")[0] for each in said.split("\n* ")[1:]]
    assert len(conclusions) >= 10
    tables = {kept.name: numbers(markdown(analyse(read_study(kept), read_records(kept)))) for kept in KEPT}
    few, many = (read_records(ROOT / "reference" / "studies" / name) for name in ("nano-few", "nano-many"))
    tables["nano-few"] |= falls(few, "pairs-2048") | costs(few)
    tables["nano-many"] |= falls([*few, *many], "pairs-4096")
    for conclusion in conclusions:
        named = [name for name in re.findall(r"`([\w-]+)`", conclusion) if name in tables]
        figures = re.findall(r"\d+\.\d+", conclusion)
        strange = [figure for figure in figures if not any(figure in tables[name] for name in named)]
        assert not strange, f"{strange} of: {conclusion[:80]}"


def numbers(table):
    """The numbers of a table as it has them, and its p values rounded."""
    found = set(re.findall(r"\d+(?:\.\d+)?", table))
    return found | {f"{float(p):.{places}f}" for p in found if re.fullmatch(r"0\.\d{4}", p) for places in (2, 3)}


def falls(records, most):
    """How much less an arm gains with the most labelled pairs than with 32, seed by seed, as written."""
    by_seed = {(each["arm"], each["budget"], each["seed"]): each for each in records}
    found = set()
    for arm in ("paper", "free-pairs"):

        def gains(budget, arm=arm):
            return [
                100 * (by_seed[arm, budget, seed]["score"] - by_seed["contrastive-only", budget, seed]["score"])
                for seed in sorted({each["seed"] for each in records})
            ]

        less = [few - many for few, many in zip(gains("pairs-32"), gains(most), strict=True)]
        found |= {f"{abs(sum(less) / len(less)):.1f}", f"{half_width(less):.1f}"}
    return found


def costs(records):
    """What captions first cost beside the baseline, as written."""
    by_seed = {(each["arm"], each["budget"], each["seed"]): each for each in records}
    found = set()
    for budget in ("pairs-32", "pairs-256", "pairs-2048"):
        flops = [by_seed[arm, budget, 60]["cost"]["flops"] for arm in ("free-pairs", "contrastive-only")]
        found.add(f"{flops[0] / flops[1]:.1f}")
    return found


def test_every_chart_of_the_page_is_made_from_records():
    page = PAGE.read_text()
    made = {name for kept in KEPT for name in script.charts_shown(page, kept)}
    assert made == set(re.findall(r"\]\(([\w-]+\.svg)\)", page))
    assert made, "there are some"


def test_an_unfinished_study_says_what_is_missing_and_compares_only_seeds_that_both_have(tmp_path):
    (tmp_path / "study.yaml").write_text(TEXT.replace("seeds: [0, 1]", "seeds: [0, 1, 2, 3, 4]"))
    study = load_study(tmp_path / "study.yaml")
    scores = {"plain": {0: 0.40, 1: 0.42, 2: 0.41}, "light": {1: 0.52, 2: 0.53, 4: 0.99}}
    records = [record(arm, seed, score) for arm, own in scores.items() for seed, score in own.items()]
    result = analyse(study, records)
    plain, light = result.budgets[0].arms
    assert not result.complete
    assert (plain.missing, light.missing, light.pairs) == ((3, 4), (0, 3), 2)
    # Seed 4 has no baseline: 52 - 42 and 53 - 41, and not what 99 would make of it.
    assert light.difference == pytest.approx(0.11)
    assert light.p == pytest.approx(analyse(study, [r for r in records if r["seed"] in (1, 2)]).budgets[0].arms[1].p)
    said = markdown(result)
    assert "**Not all runs are done: nothing here is a result yet.**" in said
    assert (
        "**Not there yet:** mean, plain (seeds 3–4), light decoder (seeds 0, 3); differences and tests are of" in said
    )
    assert "| plain | 3 (0–2) | 41.0 ± 2.5 | – |" in said
    assert "| light decoder | 3 (1–2, 4) | 68.0 ± 66.7 | +11.0 ± 12.7 (2) |" in said
    assert "6 of 15 runs" in said and "0 of 15 runs" in said
    write_results(result, records, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Not there yet: mean, plain (seeds 3, 4), light decoder (seeds 0, 3); differences" in page
    assert "3 of 5" in page and "Not there yet: plain, light decoder, mean." in page


@pytest.mark.parametrize(("sizes", "curves"), [((32, 32), 0), ((32, 64), 1)])
def test_budgets_of_one_size_make_no_curve(tmp_path, sizes, curves):
    text = TEXT.replace("{name: short}", f"{{name: short, labelled: {sizes[0]}}}")
    (tmp_path / "study.yaml").write_text(text.replace("equal: flops}", f"equal: flops, labelled: {sizes[1]}}}"))
    study = load_study(tmp_path / "study.yaml")
    records = [record(arm, 0, 0.4, budget) for arm in ("plain", "light") for budget in ("short", "long")]
    write_results(analyse(study, records), records, tmp_path / "out")
    assert len(list((tmp_path / "out" / "charts").glob("few-shot-*.svg"))) == curves


def test_a_table_without_means_of_meta_tasks_has_as_many_dashes_as_cells(tmp_path):
    (tmp_path / "study.yaml").write_text(TEXT)
    records = [record(arm, 0, 0.4, summary={}) for arm in ("plain", "light")]
    said = markdown(analyse(load_study(tmp_path / "study.yaml"), records)).splitlines()
    head = next(number for number, line in enumerate(said) if line.startswith("| arm"))
    assert said[head].count("|") == said[head + 1].count("|") == said[head + 2].count("|")


def test_some_tasks_of_a_set_have_their_means_in_a_study():
    questions = (Question(Sample("one"), (Sample("a"), Sample("b"))),)
    score = score_task(np.eye(2, dtype=np.float32)[:1], np.eye(2, dtype=np.float32), [np.array([0, 1])])
    found = Evaluation("model", (Task("OK-VQA", "vqa", questions),), (score,), complete=False)
    assert not found.summary
    assert scores(found)["summary"] == {"vqa": 1.0, "overall": 1.0}


def test_runs_of_numbers_are_written_as_people_do():
    assert runs_of([3, 0, 1, 2, 7, 9, 8]) == "0–3, 7–9"
    assert runs_of([5]) == "5" and runs_of([]) == ""


def test_layers_are_told_beside_the_scores(tmp_path):
    (tmp_path / "study.yaml").write_text(TEXT)
    study = load_study(tmp_path / "study.yaml")
    layers = [
        {"hit_at_1": 0.1, "effective_rank": 3.0, "content_to_e": 0.05, "e_to_image": 0.2},
        {"hit_at_1": 0.3, "effective_rank": 9.0, "content_to_e": 0.15, "e_to_image": 0.4},
    ]
    higher = [{key: 2 * value for key, value in layer.items()} for layer in layers]
    records = [
        record("plain", seed, 0.4, probes={"alignment": 0.5}, layers=own) for seed, own in ((0, layers), (1, higher))
    ]
    records.append(record("light", 0, 0.5))  # of an earlier version, which did not look at layers
    result = analyse(study, records)
    plain, light = result.budgets[0].arms
    assert [layer["effective_rank"] for layer in plain.layers] == [4.5, 13.5]
    assert light.layers == ()
    assert "| plain | 15.0 · 45.0 | 4.5 · 13.5 | 7.5 · 22.5 | 30.0 · 60.0 |" in markdown(result)
    write_results(result, records, tmp_path / "out")
    rows = (tmp_path / "out" / "layers.csv").read_text().splitlines()
    assert rows[0] == "budget,arm,layer,hit_at_1,effective_rank,content_to_e,e_to_image"
    assert [float(cell) for cell in rows[2].split(",")[2:]] == pytest.approx([2, 0.45, 13.5, 0.225, 0.6])
    assert (tmp_path / "out" / "charts" / "layers-hit_at_1-short-1.svg").is_file()
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("attention of content to e") >= 1
    assert "Layer by layer" in page


def test_a_study_without_any_run_has_tables_that_say_so(tmp_path):
    (tmp_path / "study.yaml").write_text(TEXT)
    said = markdown(analyse(load_study(tmp_path / "study.yaml"), []))
    assert "nothing here is a result yet" in said
    assert "0 of 6 runs" in said
