"""The search page as people use it, in a real browser, by hand and by keyboard.

Debian's chromium opens it (`make browser`); without it these tests are skipped. Nothing here waits for a time, only for
what must be seen.
"""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from gallery import MARKUP
from looking import answer, ask, expect, expect_ids, needs_browser, shown
from seeing import DROP, FOCUS, FOCUS_IS_SEEN, PASTE

pytestmark = needs_browser


def test_before_anything_is_asked_there_is_something_to_start_from(visit, page_server, gallery):
    page = visit()
    expect(page.get_by_role("heading", name="What are you looking for?")).to_be_visible()
    expect(page.locator("#count")).to_have_text(f"{len(gallery)} documents")
    names = [hit["id"] for hit in page_server.client.get("/v1/index").json()["examples"]]
    expect_ids(page, names)
    expect(page.locator("#side")).to_be_hidden()


def test_words_show_what_the_index_finds_best_first_with_scores(visit, page_server):
    page = visit()
    ask(page, "a red apple")
    hits = page_server.post("/v1/search", {"text": "a red apple", "k": 24}).json()["hits"]
    expect_ids(page, [hit["id"] for hit in hits])
    scores = page.locator(".card .score").all_inner_texts()
    assert scores == [f"{hit['score']:.3f}".replace("-", "−") for hit in hits]
    first = next(place for place, hit in enumerate(hits) if hit["image"])
    page.wait_for_function(
        "place => document.querySelectorAll('.card')[place].querySelector('img').naturalWidth > 0", arg=first
    )
    page.get_by_role("button", name="Show more").click()
    expect_ids(page, answer(page_server, text="a red apple", k=48))


def test_words_that_are_typed_before_the_index_is_known_are_kept_and_searched_for(visit, page_server):
    page = visit()
    for presses_enter in (False, True):
        # Held until it is let go below.
        page.route("**/v1/index", lambda route: None)
        page.goto("/")
        page.get_by_label("Words to search for").fill("an owl")
        if presses_enter:
            page.keyboard.press("Enter")
        page.unroute("**/v1/index")
        expect(page.locator(".card:not(.blank)").first).to_be_visible()
        expect(page.get_by_label("Words to search for")).to_have_value("an owl")
    expect_ids(page, answer(page_server, text="an owl"))


@pytest.mark.parametrize("way", ["choose", "drop", "paste"])
def test_a_picture_can_be_chosen_dropped_or_pasted(visit, page_server, gallery, way):
    page = visit()
    path = gallery.get(["scene-6"])[0].image
    content = Path(path).read_bytes()
    if way == "choose":
        page.locator("#file").set_input_files(path)
    else:
        page.evaluate(DROP if way == "drop" else PASTE, [list(content), "owl.png"])
    chip = page.locator(".chip")
    expect(chip).to_contain_text("6.png" if way == "choose" else "owl.png")
    page.wait_for_function("document.querySelector('.chip img').naturalWidth > 0")
    expect_ids(page, answer(page_server, image="data:image/png;base64," + base64.b64encode(content).decode()))
    chip.get_by_role("button", name="Remove").click()
    expect(page.get_by_role("heading", name="What are you looking for?")).to_be_visible()


def test_words_and_a_picture_go_together(visit, page_server, gallery):
    page = visit()
    page.locator("#file").set_input_files(gallery.get(["scene-6"])[0].image)
    expect(page.locator(".summary")).to_be_visible()
    with page.expect_request("**/v1/search") as sent:
        page.get_by_label("Words to search for").fill("on a red ground")
        page.get_by_role("button", name="Search", exact=True).click()
    body = sent.value.post_data_json
    assert (body["text"], body["image"][:22]) == ("on a red ground", "data:image/png;base64,")
    expect_ids(page, answer(page_server, **{name: body[name] for name in ("text", "image")}))


@pytest.mark.parametrize("before", ["hits", "no hits", "examples"])
@pytest.mark.parametrize("way", ["back", "home"])
def test_a_search_that_is_left_does_not_come_onto_another_view(visit, page_server, before, way):
    examples = [hit["id"] for hit in page_server.client.get("/v1/index").json()["examples"]]
    query = {"hits": "?text=an owl", "no hits": '?text=an owl&filter={"things":{"from":100}}', "examples": ""}
    page = visit("/" + query[before])
    cards = page.locator(".card:not(.blank)").first
    nothing = page.get_by_text("Nothing passes these filters")
    expect(nothing if before == "no hits" else cards).to_be_visible()
    ids = shown(page)
    held = []
    page.route("**/v1/search", lambda route: held.append(route))
    page.get_by_label("Words to search for").fill("a red apple")
    page.keyboard.press("Enter")
    expect(page.locator("[aria-busy]")).to_have_count(1)
    page.wait_for_timeout(100)
    if way == "back":
        page.go_back()
    else:
        page.locator("#home").click()
    expect(page.locator("[aria-busy]")).to_have_count(0)
    for route in held:
        route.continue_()
    page.wait_for_timeout(500)
    if way == "home" or before == "examples":
        assert shown(page) == examples
    elif before == "hits":
        assert shown(page) == ids
    else:
        expect(nothing).to_be_visible()
    expect(page.get_by_text("Stopped")).to_have_count(0)


def test_filters_narrow_down_and_can_be_taken_out(visit, page_server, gallery):
    page = visit()
    ask(page, "a red apple")
    values = list(gallery.facets("ground", 2))
    for value in values:
        page.get_by_role("checkbox", name=value).check()
    grounds = {"column": "ground", "op": "in", "value": values}
    expect_ids(page, answer(page_server, text="a red apple", filter=grounds))
    page.get_by_label("things from").fill("2")
    page.keyboard.press("Enter")
    both = {"and": [grounds, {"column": "things", "op": ">=", "value": 2}]}
    expect_ids(page, answer(page_server, text="a red apple", filter=both))
    page.get_by_label("things from").fill("100")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Nothing passes these filters")).to_be_visible()
    page.get_by_role("button", name="Clear the filters").click()
    expect_ids(page, answer(page_server, text="a red apple"))
    assert not page.get_by_role("checkbox", name=values[0]).is_checked()


def test_more_like_this_and_less_like_that(visit, page_server):
    page = visit()
    ask(page, "a red apple")
    first, second = shown(page)[:2]
    page.locator(".card").first.get_by_role("button", name="More like this").click()
    expect_ids(page, answer(page_server, like=[first]))
    expect(page.locator(".chip")).to_contain_text("Like")
    expect(page.get_by_label("Words to search for")).to_have_value("")
    page.locator(f'.card:has([data-id="{second}"])').get_by_role("button", name="Less like this").click()
    expect_ids(page, answer(page_server, like=[first], unlike=[second]))
    page.go_back()
    expect_ids(page, answer(page_server, like=[first]))
    page.go_back()
    expect_ids(page, answer(page_server, text="a red apple"))
    expect(page.get_by_label("Words to search for")).to_have_value("a red apple")


def test_a_link_brings_the_same_view_again(visit, page_server, gallery):
    page = visit()
    ask(page, "a red apple")
    value = next(iter(gallery.facets("ground", 1)))
    page.get_by_role("checkbox", name=value).check()
    ids = answer(page_server, text="a red apple", filter={"column": "ground", "op": "in", "value": [value]})
    expect_ids(page, ids)
    page.locator(".open").nth(1).click()
    expect(page.locator("dialog")).to_be_visible()
    other = visit(page.url.removeprefix(page_server.url))
    expect(other.locator("dialog .place")).to_have_text(f"2 of {len(ids)}")
    assert shown(other) == ids
    assert other.get_by_role("checkbox", name=value).is_checked()


def test_a_hit_can_be_looked_at_and_its_id_copied(visit, page_server, gallery):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    ask(page, "a red apple")
    ids = shown(page)
    page.locator(".open").first.click()
    dialog = page.get_by_role("dialog")
    [row] = gallery.get([ids[0]])
    expect(dialog.locator(".id")).to_have_text(row.id)
    for name, value in row.columns.items():
        expect(dialog).to_contain_text(name.replace("_", " "))
        expect(dialog).to_contain_text(
            {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
        )
    dialog.get_by_role("button", name="Copy the id").click()
    expect(dialog.get_by_text("copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == row.id
    dialog.get_by_role("button", name="Next hit").click()
    expect(dialog.locator(".id")).to_have_text(ids[1])
    page.keyboard.press("ArrowLeft")
    expect(dialog.locator(".id")).to_have_text(ids[0])
    # With Alt they go through the browser's history.
    page.keyboard.press("Alt+ArrowRight")
    expect(dialog.locator(".id")).to_have_text(ids[0])
    page.go_back()
    expect(dialog).to_be_hidden()


def test_why_a_match_is_shown_over_its_picture(visit, page_server, gallery):
    page = visit()
    ask(page, "a red apple")
    name = next(name for name in shown(page) if gallery.get([name])[0].image)
    page.locator(f'[data-id="{name}"]').click()
    why = page.get_by_role("button", name="Why this match?")
    why.click()
    heat = page.locator("canvas.heat")
    expect(heat).to_be_visible()
    told = page_server.post("/v1/explain", {"text": "a red apple", "k": 24, "id": name}).json()
    drawn = heat.evaluate(
        "(map) => [map.width, map.height, [...map.getContext('2d').getImageData(0, 0, map.width, map.height).data]]"
    )
    assert drawn[:2] == [told["columns"], told["rows"]]
    strength = [alpha / 255 / 0.78 for alpha in drawn[2][3::4]]
    assert strength == pytest.approx([value for line in told["values"] for value in line], abs=0.01)
    # The map lies on the picture and nowhere else.
    box, picture = heat.bounding_box(), page.locator(".picture img").bounding_box()
    assert box == pytest.approx(picture, abs=1)
    assert "of the match" in (heat.get_attribute("aria-label") or "")
    why.click()
    expect(page.locator(".explained")).to_have_count(0)
    expect(heat).to_have_css("opacity", "0")


def test_words_have_no_map(visit, gallery):
    page = visit("/?like=note&size=48")
    page.locator('[data-id="long"]').click()
    expect(page.get_by_role("dialog")).to_contain_text("a long note")
    expect(page.get_by_role("button", name="Why this match?")).to_have_count(0)


def test_two_lengths_of_vector_side_by_side(visit, page_server):
    page = visit()
    ask(page, "a red apple")
    page.get_by_role("button", name="Compare").click()

    def pane(name):
        return page.get_by_role("region", name=name).locator(".row")

    def ids(name):
        return pane(name).evaluate_all("rows => rows.map((row) => row.dataset.id)")

    expect(pane("Right side")).to_have_count(24)
    whole, short = (
        answer(page_server, text="a red apple", dimensions=32),
        answer(page_server, text="a red apple", dimensions=8),
    )
    assert (ids("Left side"), ids("Right side")) == (whole, short)
    shared = len(set(whole) & set(short))
    expect(page.locator(".summary")).to_contain_text(f"{shared} of 24" if shared < 24 else "The same 24")
    mark = pane("Left side").first.locator(".moved")
    place = short.index(whole[0]) if whole[0] in short else None
    expect(mark).to_have_text("only here" if place is None else "=" if place == 0 else f"↑{place}")
    page.locator("#way-1").select_option("cocoa:16")
    page.wait_for_function(
        "() => document.querySelector('#way-1')?.value === 'cocoa:16' && !document.querySelector('[aria-busy]')"
    )
    assert ids("Right side") == answer(page_server, text="a red apple", dimensions=16)
    pane("Left side").first.click()
    expect(page.get_by_role("dialog").locator(".id")).to_have_text(whole[0])
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Compare").click()
    expect_ids(page, answer(page_server, text="a red apple"))


def test_all_of_it_by_keyboard(visit, page_server):
    page = visit()
    expect(page.locator(".card").first).to_be_visible()

    def focused():
        return page.evaluate(FOCUS)

    def tab_to(found, most=40):
        for _ in range(most):
            page.keyboard.press("Tab")
            if found(*focused()):
                # What has the focus must be seen to have it.
                assert page.evaluate(FOCUS_IS_SEEN)
                return
        raise AssertionError("the Tab key does not lead there")

    tab_to(lambda name, *_: name == "text")
    page.keyboard.type("a red apple")
    page.keyboard.press("Enter")
    ids = answer(page_server, text="a red apple")
    expect_ids(page, ids)
    tab_to(lambda _name, _label, card: card == ids[0])
    page.keyboard.press("ArrowRight")
    assert focused()[2] == ids[1]
    across = page.evaluate("getComputedStyle(document.querySelector('.grid')).gridTemplateColumns.split(' ').length")
    page.keyboard.press("ArrowDown")
    assert focused()[2] == ids[1 + across]
    page.keyboard.press("ArrowUp")
    page.keyboard.press("End")
    assert focused()[2] == ids[-1]
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert focused()[0] == "close-detail"
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert focused()[2] == ids[1], "the focus is where it was"
    page.keyboard.press("Tab")
    assert focused()[1].startswith("More like this")
    page.keyboard.press("Enter")
    expect_ids(page, answer(page_server, like=[ids[1]]))


def test_a_text_of_a_document_stays_text(visit):
    page = visit("/?text=note&size=48")
    expect(page.locator('[data-id="markup"]')).to_contain_text(MARKUP)
    page.locator('[data-id="markup"]').click()
    expect(page.locator("#detail-title")).to_have_text(MARKUP)
    assert page.title() == "note · cocoa"
