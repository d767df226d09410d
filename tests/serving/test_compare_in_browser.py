"""Two models side by side on the page, as people compare them."""

from __future__ import annotations

from looking import answer, ask, expect, needs_browser
from seeing import CONTRASTS, NAMELESS

pytestmark = needs_browser


def pane(page, place):
    return page.get_by_role("region", name=("Left side", "Right side")[place]).locator(".row")


def ids(page, place):
    return pane(page, place).evaluate_all("rows => rows.map((row) => row.dataset.id)")


def is_quiet(page):
    page.wait_for_function("() => !document.querySelector('[aria-busy]')")


def test_the_two_models_come_first_and_any_length_of_either_can_be_chosen(visit, two, name):
    page = visit(at=two)
    ask(page, "a red apple")
    page.get_by_role("button", name="Compare").click()
    expect(pane(page, 1)).to_have_count(24)
    here, there = answer(two, text="a red apple"), answer(two, text="a red apple", model=name)
    assert here != there
    assert (ids(page, 0), ids(page, 1)) == (here, there)
    shared = len(set(here) & set(there))
    expect(page.locator(".summary")).to_contain_text(f"{shared} of 24" if shared < 24 else "The same 24")
    ways = page.locator("#way-1 option").evaluate_all("ways => ways.map((way) => way.value)")
    assert ways == ["cocoa:32", "cocoa:16", "cocoa:8", f"{name}:64", f"{name}:16"]
    page.locator("#way-0").select_option(f"{name}:16")
    page.wait_for_function("way => document.querySelector('#way-0')?.value === way", arg=f"{name}:16")
    is_quiet(page)
    assert ids(page, 0) == answer(two, text="a red apple", model=name, dimensions=16)
    assert ids(page, 1) == there
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate(CONTRASTS) == []


def test_a_hit_is_opened_and_explained_by_the_model_that_found_it(visit, two, name):
    page = visit("/?text=a+red+apple&compare=", at=two)
    expect(pane(page, 1)).to_have_count(24)
    hits = two.post("/v1/search", {"text": "a red apple", "k": 24, "model": name}).json()["hits"]
    on_the_left = set(ids(page, 0))
    place = next(place for place, hit in enumerate(hits) if hit["image"] and hit["id"] in on_the_left)
    row = pane(page, 1).nth(place)
    row.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".place")).to_have_text(f"{24 + place + 1} of 48")
    expect(dialog).to_contain_text(f"{name}, 64 dimensions")
    expect(dialog.locator(".score.large")).to_contain_text(f"{hits[place]['score']:.3f}".replace("-", "−"))
    with page.expect_request("**/v1/explain") as sent:
        page.get_by_role("button", name="Why this match?").click()
    assert sent.value.post_data_json["model"] == name
    expect(page.locator("canvas.heat")).to_be_visible()
    # The link leads to the same side, and closing back to the same row.
    again = visit(page.url.removeprefix(two.url), at=two)
    expect(again.locator("dialog .place")).to_have_text(f"{24 + place + 1} of 48")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert page.evaluate("[document.activeElement.dataset.id, document.activeElement.dataset.side]") == [
        hits[place]["id"],
        "1",
    ]


def test_what_only_one_model_knows_is_told_beside_what_the_other_found(visit, two, rows):
    """The other model's index does not have this document, so it cannot search for more like it."""
    page = visit(at=two)
    page.goto(f"/?like={rows[1].id.replace('/', '%2F')}&compare=")
    expect(pane(page, 0)).to_have_count(24)
    expect(page.get_by_role("region", name="Right side")).to_contain_text("no longer in the index")
    expect(page.locator(".summary")).to_have_text("One side only.")
    page.locator("#way-1").select_option("cocoa:8")
    expect(pane(page, 1)).to_have_count(24)


def test_on_a_phone_both_fit(visit, two, name):
    page = visit("/?text=a+red+apple&compare=", at=two, width=360, height=740)
    expect(pane(page, 1)).to_have_count(24)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for place in (0, 1):
        box = page.locator(f"#way-{place}").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        assert box["height"] >= 24
