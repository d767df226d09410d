"""A browser that looks at the page: what it is asked, and what it must see."""

from __future__ import annotations

import json
import shutil

import pytest

CHROMIUM = shutil.which("chromium")
playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; see `make browser`")
expect = playwright_api.expect
expect.set_options(timeout=60_000)
QUIET = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def ask(page, text):
    page.get_by_label("Words to search for").fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(".summary")).to_be_visible()


def shown(page):
    """The ids on the screen, in order."""
    return page.locator(".grid .open").evaluate_all("cards => cards.map((card) => card.dataset.id)")


def answer(server, **query):
    """The ids that the API finds."""
    return [hit["id"] for hit in server.post("/v1/search", {"k": 24} | query).json()["hits"]]


def expect_ids(page, ids):
    page.wait_for_function(
        "(ids) => JSON.stringify([...document.querySelectorAll('.grid .open')].map((card) => card.dataset.id)) === ids",
        arg=json.dumps(ids, separators=(",", ":"), ensure_ascii=False),
    )
