"""The search page as people use it, in a real browser: by hand, by keyboard, in the dark, on a phone, when it fails.

Debian's chromium opens it (`make browser`); without it these tests are skipped. Nothing here waits for a time, only for
what must be seen.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from gallery import MARKUP, index_of, scenes
from PIL import Image
from running import DecodeHere, running
from seeing import CONTRASTS, DROP, FOCUS, FOCUS_IS_SEEN, NAMELESS, PASTE, SMALL

from cocoa.serving.app import create_app
from cocoa.serving.engine import Engine
from cocoa.serving.forward import Forward
from cocoa.serving.keys import ApiKeys
from cocoa.serving.metrics import Metrics
from cocoa.serving.settings import RequestLimits, ServeSettings

CHROMIUM = shutil.which("chromium")
playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; see `make browser`")
expect = playwright_api.expect
expect.set_options(timeout=60_000)
QUIET = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def gallery(embedder, pictures, tmp_path_factory):
    return index_of(embedder, scenes(pictures), tmp_path_factory.mktemp("index") / "embeddings")


@pytest.fixture(scope="module")
def serve(embedder, pictures):
    """Runs a server over an index: `with serve(index, keys=None, **settings) as here`."""

    def serving(index, keys=None, **changes):
        settings = ServeSettings(**{"port": 0, "roots": (pictures,)} | changes)
        engine = Engine(Forward(embedder, max_batch_tokens=2048), settings, Metrics(), DecodeHere())
        return running(create_app(settings, engine, index, keys=keys))

    return serving


@pytest.fixture(scope="module")
def server(serve, gallery):
    with serve(gallery) as here:
        yield here


@pytest.fixture(scope="module")
def browser():
    with playwright_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, server):
    """Opens the page as somebody would: `visit(path="/", width=1280, at=server, **context)`.

    At the end of a test no visit may have seen an error in the page's code, a breach of its policy or another host.
    """
    visits, hosts, complaints = [], set(), []

    def opened(path="/", *, width=1280, height=800, at=server, **context):
        visitor = browser.new_context(viewport={"width": width, "height": height}, base_url=at.url, **context)
        visits.append(visitor)
        page = visitor.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname or request.url[:5]))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console", lambda said: complaints.append(said.text) if "Failed to load resource" not in said.text else None
        )
        page.goto(path)
        return page

    yield opened
    for visitor in visits:
        visitor.close()
    assert complaints == []
    assert hosts <= {"127.0.0.1", "blob:"}


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


def test_before_anything_is_asked_there_is_something_to_start_from(visit, server, gallery):
    page = visit()
    expect(page.get_by_role("heading", name="What are you looking for?")).to_be_visible()
    expect(page.locator("#count")).to_have_text(f"{len(gallery)} documents")
    names = [hit["id"] for hit in server.client.get("/v1/index").json()["examples"]]
    expect_ids(page, names)
    expect(page.locator("#side")).to_be_hidden()


def test_words_show_what_the_index_finds_best_first_with_scores(visit, server):
    page = visit()
    ask(page, "a red apple")
    hits = server.post("/v1/search", {"text": "a red apple", "k": 24}).json()["hits"]
    expect_ids(page, [hit["id"] for hit in hits])
    scores = page.locator(".card .score").all_inner_texts()
    assert scores == [f"{hit['score']:.3f}".replace("-", "−") for hit in hits]
    first = next(place for place, hit in enumerate(hits) if hit["image"])
    page.wait_for_function(
        "place => document.querySelectorAll('.card')[place].querySelector('img').naturalWidth > 0", arg=first
    )
    page.get_by_role("button", name="Show more").click()
    expect_ids(page, answer(server, text="a red apple", k=48))


@pytest.mark.parametrize("way", ["choose", "drop", "paste"])
def test_a_picture_can_be_chosen_dropped_or_pasted(visit, server, gallery, way):
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
    expect_ids(page, answer(server, image="data:image/png;base64," + base64.b64encode(content).decode()))
    chip.get_by_role("button", name="Remove").click()
    expect(page.get_by_role("heading", name="What are you looking for?")).to_be_visible()


def test_words_and_a_picture_go_together(visit, server, gallery):
    page = visit()
    page.locator("#file").set_input_files(gallery.get(["scene-6"])[0].image)
    expect(page.locator(".summary")).to_be_visible()
    with page.expect_request("**/v1/search") as sent:
        page.get_by_label("Words to search for").fill("on a red ground")
        page.get_by_role("button", name="Search", exact=True).click()
    body = sent.value.post_data_json
    assert (body["text"], body["image"][:22]) == ("on a red ground", "data:image/png;base64,")
    expect_ids(page, answer(server, **{name: body[name] for name in ("text", "image")}))


def test_filters_narrow_down_and_can_be_taken_out(visit, server, gallery):
    page = visit()
    ask(page, "a red apple")
    values = list(gallery.facets("ground", 2))
    for value in values:
        page.get_by_role("checkbox", name=value).check()
    grounds = {"column": "ground", "op": "in", "value": values}
    expect_ids(page, answer(server, text="a red apple", filter=grounds))
    page.get_by_label("things from").fill("2")
    page.keyboard.press("Enter")
    both = {"and": [grounds, {"column": "things", "op": ">=", "value": 2}]}
    expect_ids(page, answer(server, text="a red apple", filter=both))
    page.get_by_label("things from").fill("100")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Nothing passes these filters")).to_be_visible()
    page.get_by_role("button", name="Clear the filters").click()
    expect_ids(page, answer(server, text="a red apple"))
    assert not page.get_by_role("checkbox", name=values[0]).is_checked()


def test_more_like_this_and_less_like_that(visit, server):
    page = visit()
    ask(page, "a red apple")
    first, second = shown(page)[:2]
    page.locator(".card").first.get_by_role("button", name="More like this").click()
    expect_ids(page, answer(server, like=[first]))
    expect(page.locator(".chip")).to_contain_text("Like")
    expect(page.get_by_label("Words to search for")).to_have_value("")
    page.locator(f'.card:has([data-id="{second}"])').get_by_role("button", name="Less like this").click()
    expect_ids(page, answer(server, like=[first], unlike=[second]))
    page.go_back()
    expect_ids(page, answer(server, like=[first]))
    page.go_back()
    expect_ids(page, answer(server, text="a red apple"))
    expect(page.get_by_label("Words to search for")).to_have_value("a red apple")


def test_a_link_brings_the_same_view_again(visit, server, gallery):
    page = visit()
    ask(page, "a red apple")
    value = next(iter(gallery.facets("ground", 1)))
    page.get_by_role("checkbox", name=value).check()
    ids = answer(server, text="a red apple", filter={"column": "ground", "op": "in", "value": [value]})
    expect_ids(page, ids)
    page.locator(".open").nth(1).click()
    expect(page.locator("dialog")).to_be_visible()
    other = visit(page.url.removeprefix(server.url))
    expect(other.locator("dialog .place")).to_have_text(f"2 of {len(ids)}")
    assert shown(other) == ids
    assert other.get_by_role("checkbox", name=value).is_checked()


def test_a_hit_can_be_looked_at_and_its_id_copied(visit, server, gallery):
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
    page.go_back()
    expect(dialog).to_be_hidden()


def test_why_a_match_is_shown_over_its_picture(visit, server, gallery):
    page = visit()
    ask(page, "a red apple")
    name = next(name for name in shown(page) if gallery.get([name])[0].image)
    page.locator(f'[data-id="{name}"]').click()
    why = page.get_by_role("button", name="Why this match?")
    why.click()
    heat = page.locator("canvas.heat")
    expect(heat).to_be_visible()
    told = server.post("/v1/explain", {"text": "a red apple", "k": 24, "id": name}).json()
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


def test_words_have_no_map(visit, gallery):
    page = visit("/?like=note&size=48")
    page.locator('[data-id="long"]').click()
    expect(page.get_by_role("dialog")).to_contain_text("a long note")
    expect(page.get_by_role("button", name="Why this match?")).to_have_count(0)


def test_two_lengths_of_vector_side_by_side(visit, server):
    page = visit()
    ask(page, "a red apple")
    page.get_by_role("button", name="Compare").click()

    def pane(name):
        return page.get_by_role("region", name=name).locator(".row")

    def ids(name):
        return pane(name).evaluate_all("rows => rows.map((row) => row.dataset.id)")

    expect(pane("Right side")).to_have_count(24)
    whole, short = answer(server, text="a red apple", dimensions=32), answer(server, text="a red apple", dimensions=8)
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
    assert ids("Right side") == answer(server, text="a red apple", dimensions=16)
    pane("Left side").first.click()
    expect(page.get_by_role("dialog").locator(".id")).to_have_text(whole[0])
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Compare").click()
    expect_ids(page, answer(server, text="a red apple"))


def test_all_of_it_by_keyboard(visit, server):
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
    ids = answer(server, text="a red apple")
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
    expect_ids(page, answer(server, like=[ids[1]]))


def test_a_text_of_a_document_stays_text(visit):
    page = visit("/?text=note&size=48")
    expect(page.locator('[data-id="markup"]')).to_contain_text(MARKUP)
    page.locator('[data-id="markup"]').click()
    expect(page.locator("#detail-title")).to_have_text(MARKUP)
    assert page.title() == "note · cocoa"


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


def test_a_slow_model_says_so_and_can_be_stopped(visit, server):
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
    expect_ids(page, answer(server, text="a red apple"))


REFUSALS = [
    (401, "E_REQUEST_KEY", "a valid API key is needed", "This server asks for a key", ["Reload"]),
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
