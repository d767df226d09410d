"""The page's files and the routes that only it needs: what is there, what is never given out."""

from __future__ import annotations

import io
import json
import threading
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from gallery import COLUMNS, ODD_IDS, Row, index_of, scenes
from PIL import Image
from running import StubForward, running, until

from cocoa.corpus.index import MAX_K
from cocoa.explanation import explain
from cocoa.prompts import prompted
from cocoa.sample import Sample
from cocoa.serving import explaining
from cocoa.serving.app import create_app
from cocoa.serving.documents import document_key, id_of
from cocoa.serving.engine import Engine
from cocoa.serving.forward import Forward
from cocoa.serving.keys import ApiKeys
from cocoa.serving.metrics import Metrics
from cocoa.serving.nearest import nearest
from cocoa.serving.problems import RequestError
from cocoa.serving.served import Served
from cocoa.serving.service import json_reply
from cocoa.serving.settings import RequestLimits, ServeSettings


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    Image.new("RGB", (90, 60), "green").save(folder.parent / f"{folder.name}-outside.png")
    return folder


@pytest.fixture(scope="module")
def rows(pictures):
    (pictures / "damaged.png").write_bytes((pictures.parent / f"{pictures.name}-outside.png").read_bytes()[:60])
    strange = {
        "outside": pictures.parent / f"{pictures.name}-outside.png",
        "sneaky": pictures / ".." / f"{pictures.name}-outside.png",
        "gone": pictures / "gone.png",
        "damaged": pictures / "damaged.png",
    }
    made = scenes(pictures)
    return made + [replace(made[0], id=name, image=str(path)) for name, path in strange.items()]


@pytest.fixture(scope="module")
def gallery(embedder, rows, tmp_path_factory):
    return index_of(embedder, rows, tmp_path_factory.mktemp("index") / "embeddings")


def app_of(embedder, index, pictures, keys=None):
    settings = ServeSettings(port=0, roots=(pictures,))
    return create_app(settings, Engine(Forward(embedder, max_batch_tokens=2048), settings, Metrics()), index, keys=keys)


@pytest.fixture(scope="module")
def server(embedder, gallery, pictures):
    with running(app_of(embedder, gallery, pictures)) as here:
        yield here


def test_a_number_that_json_has_not_is_null_in_an_answer():
    def refuse(name):
        raise AssertionError(name)

    answer = json_reply({"hits": [{"columns": {"price": float("inf")}}], "score": float("nan")})
    assert json.loads(answer.body, parse_constant=refuse) == {"hits": [{"columns": {"price": None}}], "score": None}


def picture_at(server, name, **query):
    return server.client.get(f"/v1/documents/{document_key(name)}/image", params=query)


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.inline = [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.found += [value for name, value in attributes if name in ("src", "href") and not value.startswith("#")]
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)


def test_the_page_names_only_files_that_it_has_and_holds_no_code_or_style_inline(server):
    answer = server.client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    links = Links()
    links.feed(answer.text)
    assert links.inline == []
    own = [link for link in links.found if link not in ("./", "docs")]
    assert len(own) > 5
    assert all(link.startswith("page/") for link in own)
    for link in own:
        assert server.client.get(f"/{link}").status_code == 200, link


def test_no_file_of_the_page_names_another_host():
    for file in (files("cocoa.serving") / "page").iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text, file.name
        assert "https:" not in text, file.name
        assert "innerHTML" not in text, file.name


def test_the_page_runs_under_a_policy_that_lets_nothing_else_in(server):
    headers = server.client.get("/").headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_an_unchanged_file_is_not_sent_again(server):
    first = server.client.get("/page/app.js")
    again = server.client.get("/page/app.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path", ["/page/", "/page/app.py", "/page/../page.py", "/page/..%2fpage.py", "/page/%2e%2e/app.py"]
)
def test_nothing_else_of_the_package_can_be_read(server, path):
    answer = server.client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "E_REQUEST_ROUTE"


def test_every_route_of_the_page_wants_the_key(embedder, gallery, pictures):
    with running(app_of(embedder, gallery, pictures, ApiKeys.of("secret"))) as here:
        for path in ("/", "/page/app.js", "/v1/index", f"/v1/documents/{document_key('scene-5')}/image"):
            refused = here.client.get(path)
            assert refused.status_code == 401
            assert "Basic" in refused.headers["www-authenticate"]
            assert here.client.get(path, auth=("anyone", "secret")).status_code == 200


def test_the_index_is_described_by_what_can_be_chosen(server, gallery):
    described = server.client.get("/v1/index").json()
    assert described["count"] == len(gallery)
    assert described["columns"] == gallery.columns == COLUMNS
    assert described["dimensions"] == [32, 16, 8]
    assert described["max_k"] == 1000
    assert described["model"] == "cocoa"
    assert described["max_k"] == RequestLimits().max_k
    assert described["models"] == [{"name": "cocoa", "searchable": True, "dimensions": [32, 16, 8]}]
    ground = described["facets"]["ground"]
    assert {row["value"]: row["count"] for row in ground["values"]} == gallery.facets("ground", 100)
    assert described["facets"]["things"] == {"kind": "int", "min": 0, "max": 4}
    names = [hit["id"] for hit in described["examples"]]
    assert len(set(names)) == len(names) > 3


def test_a_column_with_many_values_offers_the_commonest_and_says_that_there_are_more(embedder, pictures, tmp_path):
    rows = [Row(f"{place}", "a text", columns={"name": f"name {place}", "year": place}) for place in range(21)]
    columns = {"name": "string", "year": "int"}
    with running(app_of(embedder, index_of(embedder, rows, tmp_path / "many", columns), pictures)) as here:
        facets = here.client.get("/v1/index").json()["facets"]
    assert (len(facets["name"]["values"]), facets["name"]["complete"]) == (20, False)
    assert facets["year"] == {"kind": "int", "min": 0, "max": 20}


def test_without_an_index_there_is_a_description_that_says_so(embedder, pictures):
    with running(app_of(embedder, None, pictures)) as here:
        described = here.client.get("/v1/index").json()
        assert (described["searchable"], described["count"], described["examples"]) == (False, 0, [])
        assert picture_at(here, "scene-5").status_code == 404


@pytest.mark.parametrize(
    ("dimensions", "trained", "offered"),
    [
        (1536, (), [1536, 768, 384, 192]),
        (32, (), [32, 16, 8]),
        (4, (), [4]),
        (1536, (128, 512), [1536, 512, 128]),
        (32, (4,), [32, 4]),
    ],
)
def test_the_lengths_that_a_model_was_trained_for_are_offered_or_else_halves(dimensions, trained, offered):
    forward, settings = StubForward(dimensions), ServeSettings()
    forward.matryoshka = trained
    assert Served("cocoa", Engine(forward, settings, Metrics())).lengths == offered


@pytest.mark.parametrize("name", [*ODD_IDS, "", "..", "%2e%2e", "a" * 300, "日本 🦉", "x\0y", "?q#f"])
def test_any_text_may_be_an_id_in_a_path(name):
    key = document_key(name)
    assert key.replace("_", "").replace("-", "").isalnum() or key == "_"
    assert id_of(key) == name


@pytest.mark.parametrize("key", ["", "_", "_a", "_!!!!", "YQ", "_YR", "_YQ==", "_gICA"])
def test_a_key_that_is_none_names_no_document(server, key):
    if key != "_":  # That is the empty id.
        with pytest.raises(RequestError, match="no such document"):
            id_of(key)
    assert server.client.get(f"/v1/documents/{key}/image").status_code == 404


@pytest.mark.parametrize("name", [*ODD_IDS, "scene-7"])
def test_the_picture_of_a_hit_is_drawn_anew(server, gallery, pictures, name):
    [row] = gallery.get([name])
    answer = picture_at(server, name)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["cache-control"] == "private, no-cache"
    assert answer.content != Path(row.image).read_bytes()
    shown, original = Image.open(io.BytesIO(answer.content)), Image.open(row.image)
    assert shown.size == original.size
    assert np.abs(np.asarray(shown.convert("RGB"), int) - np.asarray(original.convert("RGB"), int)).mean() < 8


def test_a_large_picture_is_shrunk_and_an_unchanged_one_is_not_sent_again(embedder, pictures, tmp_path):
    Image.new("RGB", (3000, 1500), "red").save(pictures / "large.png")
    row = Row("large", "a text", str(pictures / "large.png"))
    with running(app_of(embedder, index_of(embedder, [row], tmp_path / "large", {}), pictures)) as here:
        sizes = {
            size: Image.open(io.BytesIO(picture_at(here, "large", size=size).content)).size
            for size in ("small", "large")
        }
        assert sizes == {"small": (384, 192), "large": (1280, 640)}
        assert picture_at(here, "large", size="huge").status_code == 422
        first = picture_at(here, "large")
        again = here.client.get(first.url.path, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        # Another picture of the same name is seen at once, whatever a browser has kept.
        Image.new("RGB", (3000, 1500), "blue").save(pictures / "large.png")
        other = here.client.get(first.url.path, headers={"if-none-match": first.headers["etag"]})
        assert (other.status_code, other.headers["cache-control"]) == (200, "private, no-cache")
        assert other.headers["etag"] != first.headers["etag"]


def test_whether_a_picture_is_still_the_same_is_answered_without_decoding_it(server, monkeypatch):
    first = picture_at(server, "scene-7")
    large = picture_at(server, "scene-7", size="large")
    assert first.headers["etag"] != large.headers["etag"]
    monkeypatch.setattr(Engine, "decode", None)
    again = server.client.get(first.url.path, headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("name", ["outside", "sneaky", "gone", "note", "never heard of"])
def test_no_picture_is_given_out_that_does_not_lie_inside_the_roots(server, name):
    """One answer for all, so that nobody learns what lies elsewhere on the disk."""
    answer = picture_at(server, name)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "E_REQUEST_DOCUMENT"
    assert "pictures" not in answer.text.replace("no picture here", "")


def test_who_runs_the_server_is_told_once_why_pictures_are_not_shown(embedder, gallery, tmp_path, caplog):
    """A forgotten --root, or a link on the way, looks to clients like a document without a picture."""
    with running(app_of(embedder, gallery, tmp_path)) as here:
        assert [picture_at(here, name).status_code for name in ("scene-5", "scene-6", "note")] == [404] * 3
    [said] = [record for record in caplog.records if "--root" in record.getMessage()]
    assert said.levelname == "WARNING" and "5.png" in said.getMessage()


def test_a_damaged_picture_is_told_as_such(server):
    answer = picture_at(server, "damaged")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "E_IMAGE_TRUNCATED")


def test_a_hit_names_its_picture_by_an_address_of_this_server(server, gallery):
    hits = server.post("/v1/search", {"text": "a red apple", "k": 50}).json()["hits"]
    with_picture = [hit for hit in hits if hit["image"]]
    assert len(with_picture) == len(gallery) - 3
    address = with_picture[0]["image"]
    assert address == f"/v1/documents/{document_key(with_picture[0]['id'])}/image"
    assert {hit["id"] for hit in hits if not hit["image"]} == {"note", "long", "markup"}


def test_more_like_a_document_and_less_like_another(server, gallery):
    def order(**query):
        return [hit["id"] for hit in server.post("/v1/search", {"k": 50} | query).json()["hits"]]

    [liked, unliked] = gallery.get(["scene-9", "scene-12"])
    more = order(like=["scene-9"])
    assert more == [hit.id for hit in gallery.search_vectors(liked.vector[None], 50)[0] if hit.id != "scene-9"]
    away = liked.vector - 0.5 * unliked.vector
    expected = gallery.search_vectors(away[None] / np.linalg.norm(away), 50)[0]
    assert order(like=["scene-9"], unlike=["scene-12"]) == [
        hit.id for hit in expected if hit.id not in ("scene-9", "scene-12")
    ]
    owls = {"column": "things", "op": ">=", "value": 3}
    few = order(like=["scene-9"], filter=owls)
    assert few == [name for name in more if gallery.get([name])[0].columns["things"] >= 3]


def test_what_is_liked_must_be_there_and_leave_something(server):
    unknown = server.post("/v1/search", {"like": ["nothing"]})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "E_INDEX_ID")
    nothing = server.post("/v1/search", {})
    assert nothing.json()["error"]["code"] == "E_REQUEST_QUERY"
    both = server.post("/v1/search", {"like": ["scene-9"], "unlike": ["scene-9"], "k": 3})
    assert both.status_code == 200, "half of it is left"
    many = server.post("/v1/search", {"text": "a", "like": ["scene-9"] * 33})
    assert many.json()["error"]["code"] == "E_LIMIT_LIKES"


def test_a_shorter_search_equals_one_over_shorter_vectors(gallery):
    names = [hit.id for hit in gallery.search_vectors(np.eye(1, gallery.dimensions, dtype=np.float32), 100)[0]]
    every = np.stack([row.vector for row in gallery.get(names)])
    vector = every[3] + 0.5 * every[8]
    vector /= np.linalg.norm(vector)
    all_vectors = every[:, :8]
    scores = all_vectors @ vector[:8] / np.linalg.norm(all_vectors, axis=1) / np.linalg.norm(vector[:8])
    expected = np.argsort(-scores, kind="stable")[:10]
    found = nearest(gallery, vector, 10, None, 8)
    assert [hit.score for hit in found] == pytest.approx(scores[expected].tolist(), abs=1e-5)
    whole = nearest(gallery, vector, 10)
    assert whole == gallery.search_vectors(vector[None], 10)[0] == nearest(gallery, vector, 10, None, 32)


@pytest.mark.parametrize("path", ["/v1/search", "/v1/explain"])
@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        ({"image": "junk!"}, "E_REQUEST_IMAGE", "image"),
        ({"image": "data:image/png;base64,AAAA"}, "E_IMAGE_OPEN", "image"),
        ({"image": "data:image/png;base64,AAAA", "text": "an owl"}, "E_IMAGE_OPEN", "image"),
        ({"text": "owl " * 30_000}, "E_LIMIT_CHARACTERS", "text"),
        ({"text": "owl " * 30_000, "image": "junk!"}, "E_LIMIT_CHARACTERS", "text"),
        ({"text": "owl " * 5_000}, "E_DATA_TOO_LONG", "text"),
        ({"text": "an owl", "dimensions": 1000}, "E_LIMIT_DIMENSIONS", "dimensions"),
    ],
)
def test_what_is_wrong_with_a_query_is_told_by_its_field(server, path, query, code, field):
    error = server.post(path, query | ({"id": "scene-7"} if path == "/v1/explain" else {})).json()["error"]
    assert (error["code"], error["param"]) == (code, field)


@pytest.mark.parametrize("k", [2475, 2476, MAX_K])
def test_a_shorter_search_asks_for_no_more_candidates_than_an_index_gives(gallery, k):
    vector = gallery.get(["scene-9"])[0].vector
    assert len(nearest(gallery, vector, k, None, 8)) == len(gallery)


def test_a_document_that_is_deleted_while_a_shorter_search_looks_is_left_out(gallery):
    class Changing:
        def search_vectors(self, *args, **how):
            return gallery.search_vectors(*args, **how)

        def known(self, ids):
            return {name: row for name, row in gallery.known(ids).items() if name != "scene-9"}

    vector = gallery.get(["scene-9"])[0].vector
    before = nearest(gallery, vector, 5, None, 8)
    assert before[0].id == "scene-9"
    assert nearest(Changing(), vector, 4, None, 8) == before[1:]


@pytest.mark.parametrize("dimensions", [None, 8])
def test_a_match_is_explained_as_the_library_does(server, embedder, gallery, dimensions):
    query = {"text": "an owl on a red ground"} | ({"dimensions": dimensions} if dimensions else {})
    answer = server.post("/v1/explain", query | {"id": "scene-8"}).json()
    [row] = gallery.get(["scene-8"])
    vector = embedder.encode_query(["an owl on a red ground"], dimensions=dimensions)[0]
    expected = explain(embedder.model, prompted(Sample(row.text, (row.image,)), "document"), vector)
    assert (answer["rows"], answer["columns"]) == expected.values.shape
    assert answer["values"] == pytest.approx(expected.values, abs=1e-4)
    assert answer["score"] == pytest.approx(expected.score, abs=1e-5)
    hits = server.post("/v1/search", query | {"k": 50}).json()["hits"]
    [found] = [hit["score"] for hit in hits if hit["id"] == "scene-8"]
    assert answer["score"] == pytest.approx(found, abs=1e-5), "what is explained is the score that was shown"


def test_what_cannot_be_explained_is_told(server):
    text = server.post("/v1/explain", {"text": "a", "id": "note"})
    assert (text.status_code, text.json()["error"]["code"]) == (422, "E_DATA_NO_PICTURE")
    unknown = server.post("/v1/explain", {"text": "a", "id": "nothing"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "E_REQUEST_DOCUMENT")
    outside = server.post("/v1/explain", {"text": "a", "id": "outside"})
    assert (outside.status_code, outside.json()["error"]["code"]) == (404, "E_REQUEST_DOCUMENT")


def test_explanations_wait_beside_the_event_loop_and_only_so_many_of_them(server, monkeypatch):
    go = threading.Event()
    real = explaining.explain

    def held(*arguments):
        assert go.wait(60)
        return real(*arguments)

    monkeypatch.setattr(explaining, "explain", held)
    statuses = []

    def ask():
        statuses.append(server.post("/v1/explain", {"text": "a", "id": "scene-8"}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(explaining.MOST_WAITING + 2)]
    for thread in threads:
        thread.start()
    until(lambda: len(statuses) == 2)
    assert statuses == [429, 429]
    assert server.client.get("/livez").status_code == 200, "the event loop is free"
    go.set()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] * explaining.MOST_WAITING + [429, 429]
