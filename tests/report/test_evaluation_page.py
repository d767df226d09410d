"""The page of an evaluation holds every number and picture, names its sources, and gives no mean over a part."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_pages import check_whole

from cocoa.data.mmeb_v1 import TASKS
from cocoa.report.evaluation_page import Example, TaskExamples, evaluation_page, interval_chart, published
from cocoa.sample import IMAGE_PLACEHOLDER, Sample


def entry(meta_task="retrieval", hit=0.617, split=None, **changes):
    facts = {
        "meta_task": meta_task,
        "split": split,
        "chance": 0.01,
        "blind": None,
        "hit_at_1": hit,
        "official_hit_at_1": hit + 0.002,
        "hit_at_5": 0.812,
        "hit_at_10": 0.901,
        "mrr": 0.702,
        "ndcg_at_10": 0.744,
        "ci95": [hit - 0.031, hit + 0.029],
        "queries": 1000,
        "candidates": 100,
        "mean_candidates": 100.0,
        "ties": 2,
        "duplicates": 1,
    }
    return facts | changes


@pytest.fixture
def results():
    return {
        "model": "runs/<b>mine</b>",
        "tasks": {"pictures": entry(), "words": entry("vqa", 0.203, blind=0.181)},
        "summary": {"retrieval": 0.617, "vqa": 0.203, "overall": 0.41},
        "complete": True,
        "missing": [],
    }


@pytest.fixture
def mmeb():
    tasks = {name: entry(task.meta_task, 0.5, task.split) for name, task in TASKS.items()}
    means = ("classification", "vqa", "retrieval", "grounding", "ind", "ood", "overall")
    return {
        "model": "mine",
        "tasks": tasks,
        "summary": dict.fromkeys(means, 0.5),
        "complete": True,
        "missing": [],
    }


def example(picture, rank=1, text="what is <i>this</i>?"):
    query = Sample(f"{IMAGE_PLACEHOLDER}\n{text}", (picture(200, 100),))
    right, other = Sample("the right one"), Sample("another", (picture(40, 40, 1),))
    return Example(query, right, right if rank == 1 else other, 0.4375, 0.4375 if rank == 1 else 0.625, rank, 100)


def test_the_page_of_a_set_is_whole_and_holds_its_numbers(results, picture):
    examples = [TaskExamples("pictures", [example(picture)], [example(picture, 7)]), TaskExamples("words", [], [])]
    page = evaluation_page(results, examples)
    check_whole(page)
    for said in ("41.0% of first answers are right", "61.7%", "20.3%", "18.1%", "61.9%", "81.2%", "90.1%", "70.2%"):
        assert said in page, said
    for said in ("(58.6–64.6)", "2,000 queries in 2 tasks", "The right one is number 7 of 100.", "0.438", "0.625"):
        assert said in page, said
    assert page.count("Ranked first") == 1
    assert "Beside published models" not in page
    assert "Single tasks beside" not in page


def test_texts_are_escaped_and_placeholders_left_out(results, picture):
    page = evaluation_page(results, [TaskExamples("pictures", [example(picture)], [])])
    assert "<b>mine" not in page
    assert "<i>this" not in page
    assert "what is &lt;i&gt;this&lt;/i&gt;?" in page
    assert "image_1" not in page


def test_a_long_text_is_cut_and_a_picture_is_small(results, picture):
    page = evaluation_page(results, [TaskExamples("pictures", [example(picture, text="word " * 400)], [])])
    assert page.count("word") < 60
    assert "word …" in page
    [url] = re.findall(r'src="data:image/webp;base64,([^"]*)"', page)
    assert len(url) < 12_000


def test_a_part_of_a_set_shows_no_mean(results):
    part = results | {"complete": False, "summary": {}, "missing": ["GQA", "EDIS"]}
    page = evaluation_page(part)
    check_whole(page)
    assert "2 tasks, a part of the set" in page
    assert "Missing of MMEB-V1: GQA and EDIS." in page
    assert "overall" not in page
    many = evaluation_page(part | {"missing": list(TASKS)[3:]})
    assert "33 of its 36 tasks" in many


def test_all_of_mmeb_stands_beside_published_models_with_their_sources(mmeb):
    page = evaluation_page(mmeb)
    check_whole(page)
    assert "Beside published models" in page
    assert "arXiv 2603.01471, main table" in page
    # By the official rule, as published scores are, not by the strict one of the headline.
    [row] = re.findall('<tr class="own">.*?</tr>', page)
    assert re.findall(r"[\d.]+%", row) == ["50.2%"] * 7
    for model in published()["models"]:
        if model["table"] == "main":
            assert f"{model['name']} {model['size']}" in page
    order = [
        float(rate)
        for rate in re.findall(r"([\d.]+)%</td></tr>", page.split("Published models")[1].split("</table>")[0])
    ]
    assert order == sorted(order, reverse=True)


def test_single_tasks_of_mmeb_stand_beside_published_scores(mmeb):
    part = mmeb | {"tasks": {"GQA": mmeb["tasks"]["GQA"]}, "complete": False, "summary": {}, "missing": []}
    page = evaluation_page(part)
    check_whole(page)
    row = page.split("Single tasks beside")[2].split("<tbody>")[1].split("</tbody>")[0]
    assert re.findall(r"[\d.]+%", row) == ["50.2%", "48.1%", "54.4%", "65.4%"]
    assert "github.com/TIGER-AI-Lab/VLM2Vec" in page


def test_what_ships_is_what_the_reference_holds():
    root = Path(__file__).parents[2]
    shipped = root / "src" / "cocoa" / "assets" / "mmeb_published.json"
    assert shipped.read_bytes() == (root / "reference" / "mmeb_published.json").read_bytes()


def test_bars_and_intervals_end_where_the_rates_are():
    chart = interval_chart({"a": entry(hit=0.5, chance=None), "b": entry(hit=0.25)}, title="made")
    assert re.findall(r'class="bar" x="0" y="\d+" width="([\d.]+)"', chart) == ["190", "95"]
    assert re.findall(r'class="interval" d="M([\d.]+) .*?M([\d.]+) ', chart) == [("178.2", "201"), ("83.2", "106")]
    assert chart.count('class="marker"') == 1
    assert "95 % interval 46.9% to 52.9%" in chart


def test_splits_are_explained_where_they_are_shown(results, mmeb):
    assert "ood: it does not" not in evaluation_page(results, [])
    assert "ood: it does not" in evaluation_page(mmeb, [])
