"""The search page when something fails, on a phone, in the dark: every trouble has its words, all can be read."""

from __future__ import annotations

import io
from functools import partial

import pytest
from gallery import index_of
from looking import answer, ask, expect, expect_ids, needs_browser, shown
from PIL import Image
from seeing import CONTRASTS, DROP, NAMELESS, SMALL

from cocoa.serving.keys import ApiKeys
from cocoa.serving.settings import RequestLimits

pytestmark = needs_browser


def picture_file(width, height):
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(stream, "PNG")
    return stream.getvalue()


def test_a_bad_file_is_told_in_words_and_can_be_taken_out(visit):
    page = visit()
    for content, said in (
        (b"this is no picture", "This file is not a picture"),
        (b"%PDF-1.7 and more", "This kind of picture is not read here"),
        (b"", "This file is not a picture"),
        (picture_file(80, 80)[:90], "This picture is damaged"),
        (picture_file(3000, 3), "This picture is too long and thin"),
    ):
        page.locator("#file").set_input_files({"name": "owl.png", "mimeType": "image/png", "buffer": content})
        expect(page.get_by_role("alert")).to_contain_text(said)
        assert "E_" not in page.get_by_role("alert").inner_text()
        page.get_by_role("button", name="Remove owl.png").click()
        expect(page.get_by_role("alert")).to_have_count(0)


def test_more_than_the_server_takes_is_told_in_words(visit, serve, gallery):
    with serve(gallery, limits=RequestLimits(max_image_bytes=1000, max_characters=50, max_body_bytes=4000)) as here:
        page = visit(at=here)
        for size, said in ((1001, "This picture is too large"), (4001, "This is more than the server takes")):
            page.locator("#file").set_input_files({"name": "big.png", "mimeType": "image/png", "buffer": bytes(size)})
            expect(page.get_by_role("alert")).to_contain_text(said)
        page.get_by_role("button", name="Remove big.png").click()
        page.get_by_label("Words to search for").fill("many words " * 5)
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("This is too long a text")


def test_no_more_hits_are_asked_for_than_the_server_gives(visit, serve, gallery):
    with serve(gallery, limits=RequestLimits(max_k=27)) as here:
        page = visit(at=here)
        ask(page, "a red apple")
        page.get_by_role("button", name="Show more").click()
        expect_ids(page, answer(here, text="a red apple", k=27))
        expect(page.get_by_role("button", name="Show more")).to_have_count(0)
        page.goto("/?text=a red apple&size=240")
        expect_ids(page, answer(here, text="a red apple", k=27))
        page.get_by_role("button", name="Compare").click()
        expect(page.locator(".pane")).to_have_count(2)


@pytest.mark.parametrize("wish", ["null", "5", '"cat"', "true"])
def test_a_filter_of_an_address_that_cannot_be_read_is_left_out(visit, page_server, wish):
    page = visit('/?text=a red apple&filter={"ground":' + wish + "}")
    expect_ids(page, answer(page_server, text="a red apple"))


def test_a_server_that_is_gone_can_be_tried_again(visit, serve, gallery):
    with serve(gallery) as here:
        page = visit(at=here)
        ask(page, "a red apple")
        ids = shown(page)
        port = here.port
    page.get_by_label("Words to search for").fill("an owl")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    with serve(gallery, port=port) as here:
        page.get_by_role("button", name="Try again").click()
        expect(page.locator(".summary")).to_be_visible()
        expect_ids(page, answer(here, text="an owl"))
        page.go_back()
        expect_ids(page, ids)


def test_a_search_asks_again_what_there_is_where_that_could_not_be_had(visit, page_server):
    page = visit("/docs")
    page.route("**/v1/index", lambda route: route.fulfill(status=503, json={}))
    page.goto("/")
    expect(page.get_by_role("alert")).to_contain_text("The server is busy")
    page.unroute("**/v1/index")
    ask(page, "an owl")
    expect_ids(page, answer(page_server, text="an owl"))
    expect(page.get_by_role("alert")).to_have_count(0)


def test_what_cannot_be_stopped_offers_no_way_to_stop_it(visit):
    page = visit("/docs")
    page.route("**/v1/index", lambda route: None)
    page.goto("/")
    expect(page.get_by_text("Still searching")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)


def test_a_folder_that_is_dropped_is_told_in_words(visit):
    page = visit()
    expect(page.locator(".card:not(.blank)").first).to_be_visible()
    page.evaluate("() => { File.prototype.arrayBuffer = () => Promise.reject(new DOMException('a folder')); }")
    page.evaluate(DROP, [[1], "folder"])
    expect(page.get_by_text("This file cannot be read")).to_be_visible()


def test_a_slow_model_says_so_and_can_be_stopped(visit, page_server):
    page = visit()
    held = []
    page.route("**/v1/search", lambda route: held.append(route))
    page.get_by_label("Words to search for").fill("a red apple")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Still searching")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("The search was cancelled")).to_be_visible()
    page.unroute("**/v1/search")
    page.get_by_role("button", name="Search again").click()
    expect_ids(page, answer(page_server, text="a red apple"))


REFUSALS = [
    (401, "E_REQUEST_KEY", "a valid API key is needed", "This server asks for a key", ["Reload"]),
    (408, "E_REQUEST_SLOW", "slow", "The search did not arrive in time", ["Try again"]),
    (429, "E_SERVER_BUSY", "too many", "The server is busy", ["Try again"]),
    (503, "E_SERVER_DEADLINE", "late", "The server is busy", ["Try again"]),
    (500, "E_SERVER_FAILED", "failed", "Something went wrong on the server", ["Try again"]),
    (422, "E_DATA_TOO_LONG", "long", "This is too long for the model", []),
    (422, "E_NEW", "the moon is not full", "the moon is not full", []),
]


def fulfil(answered, route):
    route.fulfill(**answered)


def test_each_refusal_has_its_words(visit):
    page = visit()
    for status, code, message, said, buttons in REFUSALS:
        body = {"error": {"code": code, "message": message}}
        answered = {"status": status, "json": body, "headers": {"retry-after": "2"}}
        page.route("**/v1/search", partial(fulfil, answered))
        page.get_by_label("Words to search for").fill(code)
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text(said)
        assert page.get_by_role("alert").get_by_role("button").all_inner_texts() == buttons
        page.unroute("**/v1/search")


def test_a_key_opens_the_page_as_a_password(visit, serve, gallery):
    with serve(gallery, keys=ApiKeys.of("secret")) as here:
        page = visit(at=here, http_credentials={"username": "me", "password": "secret"})
        ask(page, "a red apple")
        assert len(shown(page)) == 24


def test_an_empty_index_and_none_at_all_say_what_to_do(visit, serve, embedder, tmp_path):
    with serve(index_of(embedder, [], tmp_path / "empty")) as here:
        expect(visit(at=here).get_by_text("The index is empty")).to_be_visible()
    with serve(None) as here:
        page = visit("/?text=owl", at=here)
        expect(page.get_by_text("There is nothing to search yet")).to_be_visible()


def test_a_card_whose_picture_is_not_shown_says_its_words_once(visit, serve, gallery, tmp_path):
    with serve(gallery, roots=(tmp_path,)) as here:
        page = visit(at=here)
        ask(page, "a tent")
        expect(page.locator(".grid img")).to_have_count(0)
        expect(page.locator(".grid .card:not(.of-words)")).to_have_count(0)
        for each in page.locator(".grid .open").all():
            assert each.locator("span.words").count() == 1
            assert each.locator(".caption").count() == 0


def test_a_picture_does_not_outlive_a_reload_and_the_page_says_so(visit, gallery):
    page = visit()
    page.locator("#file").set_input_files(gallery.get(["scene-6"])[0].image)
    expect(page.locator(".summary")).to_be_visible()
    page.reload()
    expect(page.get_by_text("The picture of this search was not kept")).to_be_visible()


def test_nothing_is_cut_off_on_a_phone(visit):
    width = 360
    page = visit(width=width, height=780, is_mobile=True, has_touch=True)

    def fits():
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    expect(page.locator(".card").first).to_be_visible()
    fits()
    ask(page, "a red apple " * 8)
    fits()
    page.get_by_role("button", name="Filters").tap()
    expect(page.get_by_label("things from")).to_be_visible()
    fits()
    page.get_by_role("button", name="Compare").tap()
    expect(page.locator(".pane")).to_have_count(2)
    fits()
    page.locator(".row").first.tap()
    expect(page.get_by_role("dialog")).to_be_visible()
    fits()
    assert page.get_by_role("dialog").evaluate("(dialog) => dialog.scrollWidth") <= width
    assert page.evaluate(SMALL) == [], "a finger needs 24 pixels"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read_in_light_and_dark_and_has_a_name(visit, gallery, scheme):
    page = visit(color_scheme=scheme)
    expect(page.locator(".card").first).to_be_visible()
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(ground[4:].split(",")[0]) > 128) == (scheme == "light")

    def check():
        assert page.evaluate(CONTRASTS) == []
        assert page.evaluate(NAMELESS) == []

    check()
    ask(page, "a red apple")
    page.locator(".card").nth(1).get_by_role("button", name="Less like this").click()
    expect(page.locator(".chip.against")).to_be_visible()
    check()
    page.locator(".open").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    check()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".pane")).to_have_count(2)
    check()
    page.locator("#file").set_input_files({"name": "owl.png", "mimeType": "image/png", "buffer": b"no"})
    expect(page.get_by_role("alert")).to_be_visible()
    check()


def test_a_chosen_theme_stays(visit):
    page = visit(color_scheme="light")
    button = page.get_by_role("button", name="Theme")
    button.click()
    button.click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    expect(page.get_by_role("button", name="Theme: Dark")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 19, 17)"


def test_nothing_moves_where_less_motion_is_wished_for(visit):
    page = visit(reduced_motion="reduce")
    page.route("**/v1/search", lambda _: None)
    page.get_by_label("Words to search for").fill("a red apple")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Still searching")).to_be_visible()
    assert page.evaluate("document.getAnimations().length") == 0
