"""A page of numbers on a phone: it never scrolls sideways; a table that is too wide does, in a region of its own."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from cocoa.report import QuickstartContent, VariantResult, quickstart_page

CHROMIUM = shutil.which("chromium")
playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BEYOND = """() => [...document.querySelectorAll("body *")]
  .filter((one) => !one.closest("svg") && one.getBoundingClientRect().right > innerWidth + 1)
  .filter((one) => !one.closest(".scroll") || one.matches(".scroll"))
  .map((one) => one.outerHTML.slice(0, 100))"""
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


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; see `make browser`")
@pytest.mark.parametrize("titles", [["Contrastive only", "CoCoA"], ["Contrastive only", "CoCoA", "CoCoA-plus"]])
def test_the_quickstart_page_is_as_wide_as_the_phone_and_cuts_no_name_of_a_column(titles: list[str]) -> None:
    with playwright_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 360, "height": 800})
        page.set_content(page_of(*titles))
        assert page.evaluate(BEYOND) == []
        assert page.evaluate(CUT_NAMES) == []
        results = page.locator(".scroll").first
        has_more = results.evaluate("one => one.scrollWidth > one.clientWidth")
        assert has_more == (len(titles) > 2), "two variants fit"
        browser.close()
