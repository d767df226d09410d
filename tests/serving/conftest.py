"""What the tests of the server share."""

from __future__ import annotations

import pytest
from running import running, stub_app

from cocoa import Embedder
from cocoa.model import EmbeddingModel
from cocoa.serving.app import create_app
from cocoa.serving.engine import Engine
from cocoa.serving.forward import Forward
from cocoa.serving.metrics import Metrics
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
