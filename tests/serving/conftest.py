"""What the tests of the server share."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from gallery import index_of, scenes
from running import DecodeHere, running, stub_app

from cocoa import Embedder
from cocoa.model import EmbeddingModel
from cocoa.serving.app import create_app
from cocoa.serving.engine import Engine
from cocoa.serving.forward import Forward
from cocoa.serving.keys import ApiKeys
from cocoa.serving.metrics import Metrics
from cocoa.serving.server import open_app
from cocoa.serving.settings import ServeSettings


@pytest.fixture(scope="module")
def embedder(tiny, tmp_path_factory) -> Embedder:
    """A tiny model in a folder of its own."""
    folder = tmp_path_factory.mktemp("serving") / "cocoa"
    EmbeddingModel(tiny(), max_tokens=512).save(folder)
    return Embedder.load(folder)


@pytest.fixture(scope="module")
def server(embedder):
    """A server of the tiny model."""
    settings = ServeSettings(port=0)
    with running(create_app(settings, Engine(Forward(embedder, max_batch_tokens=2048), settings, Metrics()))) as here:
        yield here


@pytest.fixture
def stub():
    """A server over a stub that cannot be held up."""
    with running(stub_app()) as here:
        yield here


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The folder of the gallery's pictures."""
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def gallery(embedder, pictures, tmp_path_factory):
    """A small index of scenes and texts."""
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
def page_server(serve, gallery):
    """A server over the gallery."""
    with serve(gallery) as here:
        yield here


@pytest.fixture(scope="module")
def other(tiny, tmp_path_factory):
    """A model of another shape, in a folder of the same name."""
    folder = tmp_path_factory.mktemp("other") / "cocoa"
    model = EmbeddingModel(tiny(hidden_size=64), max_tokens=512, matryoshka=(16,))
    model.save(folder)
    return Embedder.load(folder)


@pytest.fixture(scope="module")
def rows(pictures):
    """Documents of both indexes."""
    return scenes(pictures)


@pytest.fixture(scope="module")
def folders(embedder, other, rows, tmp_path_factory):
    """Each model's folder and index; the other's index has not all of the documents."""
    place = tmp_path_factory.mktemp("indexes")
    index_of(embedder, rows, place / "one")
    index_of(other, rows[3:], place / "other")
    return [(embedder.folder, str(place / "one")), (other.folder, str(place / "other"))]


@pytest.fixture(scope="module")
def two(folders, pictures):
    """A server of both models."""
    with running(open_app(folders, ServeSettings(port=0, roots=(pictures,)), ApiKeys())) as here:
        yield here


@pytest.fixture(scope="module")
def name(other):
    """What the server calls the other model: the folders have one name."""
    return f"{other.folder.parent.name}/cocoa"


@pytest.fixture(scope="module")
def browser():
    """Chromium with a fresh profile."""
    from looking import CHROMIUM, QUIET, playwright_api

    with playwright_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, page_server):
    """Opens the page as somebody would: `visit(path="/", width=1280, at=page_server, **context)`.

    At the end of a test no visit may have seen an error in the page's code, a breach of its policy or another host.
    """
    visits, hosts, complaints = [], set(), []

    def opened(path="/", *, width=1280, height=800, at=page_server, **context):
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
