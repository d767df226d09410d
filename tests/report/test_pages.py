"""A page holds every number it was given, says honestly which way they went, and loads nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from PIL import Image

from cocoa.layouts import LAYOUTS
from cocoa.recipe import Recipe, parse_recipe
from cocoa.report import (
    BridgedWords,
    HiddenWord,
    QuickstartContent,
    RebuiltPicture,
    RebuiltWords,
    Search,
    SearchHit,
    VariantResult,
    quickstart_page,
    train_page,
)
from cocoa.report.sentences import bridge, duration, headline, lead, rebuilt

RECIPE = """
name: small
backbone: {name: nano}
stages:
  - name: bridge
    layout: eos_bridge
    objectives: [{kind: masked_text, rate: 0.7, roles: [target]}]
    data: [{kind: scene_pairs, num_pairs: 10}]
    steps: 40
    batch_size: 16
    learning_rate: 1.0e-3
"""


def records(stage: str, steps: int = 40, **losses: float) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "stage": stage,
            "losses": {name: loss / (step + 1) for name, loss in losses.items()},
            "learning_rate": 1e-3,
            "gradient_norm": 1.5,
            "pairs": 16,
            "skipped": int(step == 3),
            "cut_texts": 2,
            "tokens_per_second": 4321.0,
            "pad_rate": 0.125,
            "data_wait_seconds": 0.01,
            "memory_bytes": 23_400_000_000,
            "seconds": 0.25,
        }
        for step in range(steps)
    ]


def variant(name: str, title: str, overall: float, vqa: float = 0.471) -> VariantResult:
    tasks = {
        "scene_vqa_seen": {"meta_task": "vqa", "hit_at_1": vqa, "chance": 0.033, "blind": 0.214},
        "scene_t2i_unseen": {"meta_task": "retrieval", "hit_at_1": overall, "chance": 0.02, "blind": None},
    }
    summary = {"vqa": vqa, "retrieval": 0.382, "overall": overall}
    return VariantResult(name, title, summary, tasks, {"contrastive": 71.4}, records("contrastive", contrastive=4.0))


@pytest.fixture
def content() -> QuickstartContent:
    picture = Image.new("RGB", (84, 84), (200, 90, 80))
    words = [HiddenWord("a", False), HiddenWord(" cat", True, " cat"), HiddenWord(" <b>", True, " <i>")]
    return QuickstartContent(
        variants=[variant("contrastive_only", "Contrastive only", 0.5012), variant("cocoa", "CoCoA", 0.6134)],
        layouts=[("Bridge", LAYOUTS["eos_bridge"], "AAeBB")],
        pictures=[RebuiltPicture(picture, picture, picture)],
        words=[RebuiltWords(picture, words)],
        bridged=[BridgedWords(picture, picture, words, words)],
        bridge_loss_true=1.31,
        bridge_loss_shuffled=3.42,
        before_true=4.05,
        before_shuffled=4.07,
        searches=[Search("a <script> & a rose", picture, [SearchHit(picture, 0.8125, "a <em>rose</em>")])],
        seconds=412.4,
        num_train_pairs=1280,
        hardware="2 CPU cores",
    )


@pytest.fixture
def recipe() -> Recipe:
    return parse_recipe(RECIPE)


@pytest.fixture
def two_stages() -> Recipe:
    return parse_recipe(
        RECIPE
        + """
  - name: contrast
    layout: bidirectional
    objectives: [{kind: contrastive}]
    data: [{kind: scene_pairs, num_pairs: 10}]
    steps: 20
    batch_size: 16
    learning_rate: 1.0e-3
"""
    )


class Tags(HTMLParser):
    """Every tag and whether what was opened is closed."""

    VOID = ("meta", "img")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def check_whole(page: str) -> None:
    """The page is well formed, accessible in the large, and loads nothing."""
    tags = Tags(page).found
    names = [name for name, _ in tags]
    assert "script" not in names
    assert "link" not in names
    assert not re.search(r"https?://|url\(|@import", page)
    assert names.count("h1") == 1
    for name, attributes in tags:
        if name == "img":
            assert attributes["alt"]
            assert attributes["src"].startswith("data:image/webp;base64,")
        if name == "th":
            assert attributes["scope"]
        if name == "svg":
            assert attributes["role"] == "img"


def test_the_quickstart_page_is_whole(content: QuickstartContent) -> None:
    page = quickstart_page(content)
    check_whole(page)
    numbers = ["50.1%", "61.3%", "47.1%", "38.2%", "+11.2", "71 s", "1.31", "3.42", "4.05", "4.07", "0.812"]
    for number in [*numbers, "3.3%", "2.0%", "21.4%", "1,280", "412 s", "2 CPU cores", "CoCoA gains 11.2 points"]:
        assert number in page, number


def test_texts_are_escaped(content: QuickstartContent) -> None:
    page = quickstart_page(replace(content, hardware="<script>", layouts=[("<script>", LAYOUTS["causal"], "AABB")]))
    assert "<script" not in page
    assert "<em>" not in page
    assert "<i>" not in page
    assert "a &lt;script&gt; &amp; a rose" in page


def test_hidden_words_show_what_came_back(content: QuickstartContent) -> None:
    page = quickstart_page(content)
    assert 'rebuilt right">cat</span>' in page
    assert "<s>&lt;i&gt;</s><b>&lt;b&gt;</b>" in page
    assert rebuilt(content.words[0].words) == "1 of 2 hidden words right"


@pytest.mark.parametrize(
    ("cocoa", "said"),
    [(0.6134, "CoCoA gains 11.2 points"), (0.4, "CoCoA loses 10.1 points"), (0.5014, "CoCoA makes no difference")],
)
def test_the_headline_is_honest(content: QuickstartContent, cocoa: float, said: str) -> None:
    changed = replace(content, variants=[content.variants[0], variant("cocoa", "CoCoA", cocoa)])
    assert headline(changed) == said
    assert f"<h1>{said}</h1>" in quickstart_page(changed)


def test_each_way_is_told_against_the_first(content: QuickstartContent) -> None:
    three = replace(content, variants=[*content.variants, variant("cocoa_plus", "CoCoA-plus", 0.45)])
    assert headline(three) == "CoCoA gains 11.2 points and CoCoA-plus loses 5.1 points"
    assert "trained in three ways" in lead(three)
    assert "CoCoA-plus 45.0%, CoCoA 61.3%, Contrastive only 50.1%" in lead(three)
    page = quickstart_page(three)
    assert '<th scope="row">CoCoA-plus, difference, points</th>' in page


def test_the_lead_names_what_got_worse_and_what_is_a_guess(content: QuickstartContent) -> None:
    worse = replace(content, variants=[content.variants[0], variant("cocoa", "CoCoA", 0.02, vqa=0.1)])
    assert "CoCoA is worse in vqa, equal in retrieval." in lead(worse)
    assert "CoCoA is no better than guessing." in lead(worse)
    assert "guessing" not in lead(content)


def test_the_bridge_sentence_is_honest(content: QuickstartContent) -> None:
    assert "lowers the loss of a hidden word by 2.11. Before the bridge stage the difference was +0.02." in bridge(
        content
    )
    assert "does not help: another picture's does as well" in bridge(replace(content, bridge_loss_shuffled=1.31))
    assert "another picture's does better, by 0.11" in bridge(replace(content, bridge_loss_shuffled=1.20))
    assert "the difference was −1.05." in bridge(replace(content, before_shuffled=3.0))


def test_an_empty_quickstart_is_still_a_page(content: QuickstartContent) -> None:
    empty = replace(content, variants=[], layouts=[], pictures=[], words=[], bridged=[], searches=[])
    check_whole(quickstart_page(empty))
    check_whole(quickstart_page(replace(content, variants=content.variants[:1])))


def test_more_than_two_variants_have_a_difference_each(content: QuickstartContent) -> None:
    page = quickstart_page(replace(content, variants=[*content.variants, variant("bridge", "Bridge only", 0.45)]))
    check_whole(page)
    assert "CoCoA, difference, points" in page
    assert "−5.1" in page


def test_the_training_page_is_whole(recipe: Recipe) -> None:
    page = train_page(recipe, records("bridge", masked_text=4.0))
    check_whole(page)
    for said in (
        "small",
        "nano",
        "eos_bridge",
        "hidden words",
        "40",
        "16",
        "10 s",
        "4,321 tokens",
        "4.0%",
        "rate: 0.7",
    ):
        assert said in page, said


def test_the_training_page_says_what_each_stage_took_and_what_the_whole_run_did(two_stages: Recipe) -> None:
    page = train_page(two_stages, [*records("bridge", masked_text=4.0), *records("contrast", 10, contrastive=2.0)])
    check_whole(page)
    tables = [
        [[re.sub("<.*?>", "", cell) for cell in re.findall("<t[hd].*?</t[hd]>", row)] for row in rows]
        for rows in (re.findall("<tr>.*?</tr>", table) for table in re.findall("<tbody>.*?</tbody>", page, re.DOTALL))
    ]
    what, cost = tables
    assert [row[0] for row in what] == ["bridge", "contrast"]
    assert what[1][-1] == "contrastive 0.2"
    shared = ["4,321", "12.5%", "4.0%", "23.4 GB"]
    assert cost == [
        ["bridge", "40", "640", "43,210", "10\u00a0s", *shared, "1", "80"],
        ["contrast", "10 of 20", "160", "10,802", "2.5\u00a0s", *shared, "1", "20"],
        ["Whole run", "50 of 60", "800", "54,012", "12\u00a0s", *shared, "2", "100"],
    ]
    assert "2 rows were left out, 100 texts were cut." in page


def test_stages_are_drawn_one_after_another_on_one_axis(two_stages: Recipe) -> None:
    page = train_page(two_stages, [*records("bridge", masked_text=4.0), *records("contrast", 10, contrastive=2.0)])
    charts = {re.search("<title>(.*?)</title>", chart)[1]: chart for chart in re.findall("<svg.*?</svg>", page)}
    for title in ("Learning rate", "Gradient norm", "Speed", "Padding", "Waiting for data", "Memory"):
        lines = re.findall('<polyline class="line" points="(.*?)"', charts[title])
        first, second = ([float(place.split(",")[0]) for place in line.split()] for line in lines)
        assert (len(first), len(second)) == (40, 10), title
        assert first[-1] < second[0] == pytest.approx(first[-1] + (first[-1] - first[0]) / 39, abs=0.2), title
    assert "× 10⁻³" in charts["Learning rate"]


def test_a_run_without_steps_says_so(recipe: Recipe) -> None:
    page = train_page(recipe, [])
    check_whole(page)
    assert "did not run" in page


def test_durations_read_well() -> None:
    assert [duration(each) for each in (8.24, 74, 320, 300, 7500)] == [
        "8.2 s",
        "74 s",
        "5 min 20 s",
        "5 min",
        "2 h 5 min",
    ]
