"""Pages on a phone: none scrolls sideways; a table that is too wide does, in a region of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from cocoa.report import QuickstartContent, VariantResult, quickstart_page
from cocoa.report.search_page import Asked, Found, search_page

CHROMIUM = shutil.which("chromium")
playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BEYOND = """() => [...document.querySelectorAll("body *")]
  .filter((one) => !one.closest("svg") && one.getBoundingClientRect().right > innerWidth + 1)
  .filter((one) => !one.closest(".scroll") || one.matches(".scroll"))
  .map((one) => one.outerHTML.slice(0, 100))"""
OUT_OF_CARD = """() => [...document.querySelectorAll(".found > li")].flatMap((card) => [...card.querySelectorAll("*")]
  .filter((one) => one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).display !== "inline"
    || one.getBoundingClientRect().right > card.getBoundingClientRect().right)
  .map((one) => one.outerHTML.slice(0, 100)))"""
CUT_NAMES = """() => [...document.querySelectorAll("table.turn th")]
  .filter((one) => one.scrollHeight > one.clientHeight + 1)
  .map((one) => one.textContent)"""


def page_of(*titles: str) -> str:
    rates = {"classification": 0.125, "vqa": 0.352, "retrieval": 0.23, "grounding": 0.325, "overall": 0.261}
    tasks = {"scene_grounding_combination": {"meta_task": "grounding", "hit_at_1": 0.3, "chance": 0.1, "blind": 0.2}}
    variants = [VariantResult(title, title, rates, tasks, {"contrastive": 112.0}, []) for title in titles]
    losses = dict.fromkeys(("bridge_loss_true", "bridge_loss_shuffled", "before_true", "before_shuffled"), 1.0)
    none: dict[str, list[Any]] = {"layouts": [], "pictures": [], "words": [], "bridged": [], "searches": []}
    return quickstart_page(
        QuickstartContent(variants, **none, **losses, seconds=1.0, num_train_pairs=1, hardware="a phone")
    )


@pytest.fixture
def phone() -> Iterator[Any]:
    """A page in a browser that is 360 pixels wide."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium; see `make browser`")
    with playwright_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 360, "height": 800})
        browser.close()


@pytest.mark.parametrize("titles", [["Contrastive only", "CoCoA"], ["Contrastive only", "CoCoA", "CoCoA-plus"]])
def test_the_quickstart_page_is_as_wide_as_the_phone_and_cuts_no_name_of_a_column(
    phone: Any, titles: list[str]
) -> None:
    phone.set_content(page_of(*titles))
    assert phone.evaluate(BEYOND) == []
    assert phone.evaluate(CUT_NAMES) == []
    has_more = phone.locator(".scroll").first.evaluate("one => one.scrollWidth > one.clientWidth")
    assert has_more == (len(titles) > 2), "two variants fit"


def test_words_without_an_end_do_not_widen_the_page_of_a_search_nor_leave_their_card(phone: Any) -> None:
    endless = 120 * "x"
    found = [Found(endless, 0.9, endless, None, columns={endless: endless, "price": 42.333333333333336})] * 2
    asked = Asked(endless, like=[(endless, None)], where=f"kind = {endless}")
    phone.set_content(search_page(asked, found, place=endless, documents=2, how="searched exactly", seconds=0.1))
    assert phone.evaluate("document.documentElement.scrollWidth") == 360
    assert phone.evaluate(OUT_OF_CARD) == []
