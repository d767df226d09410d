"""Golden vectors against this package and against a server: the smallest cosine of each kind of input, and why not."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cocoa import CocoaError, Embedder
from cocoa.cli import app
from cocoa.errors import ModelError, UsageError
from cocoa.files import MANIFEST, sha256
from cocoa.model import EmbeddingModel
from cocoa.model.golden import KINDS
from cocoa.pooling import Pooling
from cocoa.verification import verify


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify") / "model"
    EmbeddingModel(tiny(), max_tokens=128).save(folder)
    return folder


@pytest.fixture(scope="module")
def worse(tiny, folder, tmp_path_factory):
    """Another model with the golden vectors and a manifest of the first."""
    other = tmp_path_factory.mktemp("worse") / "model"
    EmbeddingModel(tiny(), max_tokens=128).save(other)
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if "visual.merger" in name and weights[name].ndim == 2)
    weights[name] = weights[name] * 1.5
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    manifest = json.loads((other / MANIFEST).read_text())
    manifest["files"]["model.safetensors"]["sha256"] = sha256(other / "model.safetensors")
    (other / MANIFEST).write_text(json.dumps(manifest))
    return other


def by_kind(result):
    return {kind.kind: kind for kind in result.kinds}


def test_a_folder_gives_its_own_golden_vectors(folder):
    result = verify(folder)
    assert result.passed
    assert set(by_kind(result)) == set(KINDS)
    assert all(kind.smallest_cosine > 1 - 1e-9 for kind in result.kinds)


def test_what_is_wrong_with_pictures_shows_in_pictures_alone(worse):
    kinds = by_kind(verify(worse))
    assert not verify(worse).passed
    assert kinds["text"].smallest_cosine > 1 - 1e-9
    assert all(kinds[kind].smallest_cosine < 0.9999 for kind in ("image", "both", "several"))
    assert verify(worse, threshold=-1).passed


def test_a_flipped_bit_in_the_weights_is_found_before_anything_is_compared(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    data = bytearray((broken / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (broken / "model.safetensors").write_bytes(data)
    with pytest.raises(CocoaError) as caught:
        verify(broken)
    assert caught.value.code == "E_MODEL_INCOMPLETE"


def test_the_command_says_the_cosines_and_exits_1_where_one_is_too_small(folder, worse, tmp_path):
    good = CliRunner().invoke(app, ["verify", str(folder), "--json", str(tmp_path / "good.json")])
    assert good.exit_code == 0
    assert "several" in good.output
    bad = CliRunner().invoke(app, ["verify", str(worse), "--json", str(tmp_path / "bad.json")])
    assert bad.exit_code == 1
    assert "not the golden vectors" in bad.stderr and "not the golden vectors" not in bad.stdout
    content = json.loads((tmp_path / "bad.json").read_text())
    assert content["passed"] is False
    assert content["kinds"]["image"]["smallest_cosine"] < 0.9999
    assert json.loads((tmp_path / "good.json").read_text())["passed"] is True


@pytest.mark.parametrize("name", ["mean", "bridge-4"])
def test_a_model_that_pools_otherwise_gives_its_golden_vectors_and_is_not_asked_of_stock_code(tiny, tmp_path, name):
    EmbeddingModel(tiny(), pooling=Pooling.named(name)).save(tmp_path / "model")
    assert CliRunner().invoke(app, ["verify", str(tmp_path / "model")]).exit_code == 0
    assert CliRunner().invoke(app, ["export", str(tmp_path / "model"), "--out", str(tmp_path / "out")]).exit_code == 0
    assert EmbeddingModel.load(tmp_path / "out").pooling.name == name
    answer = CliRunner().invoke(app, ["verify", str(tmp_path / "model"), "--against", "sentence-transformers"])
    assert isinstance(answer.exception, ModelError) and answer.exception.code == "E_MODEL_STOCK"
    assert "no stock module" in str(answer.exception)


def test_what_sentence_transformers_lacks_is_said_without_advice_that_would_break_torch(folder, monkeypatch):
    def lacks(*given, **how):
        raise ImportError("\nModalityNotAvailable needs torchvision\n")

    found = ModuleType("sentence_transformers")
    found.SentenceTransformer = lacks
    monkeypatch.setitem(sys.modules, "sentence_transformers", found)
    with pytest.raises(UsageError, match="a torchvision of the same build as torch") as caught:
        verify(folder, against="sentence-transformers")
    assert caught.value.code == "E_USAGE_EXTRA"
    assert "pip install" not in caught.value.message and "needs torchvision" in caught.value.message


def test_who_cannot_be_asked_is_said(folder):
    with pytest.raises(CocoaError) as caught:
        verify(folder, against="onnx")
    assert caught.value.code == "E_USAGE_AGAINST"
    with pytest.raises(CocoaError) as caught:
        verify(folder, against="http://127.0.0.1:9/")
    assert caught.value.code == "E_MODEL_SERVER"


class Server(ThreadingHTTPServer):
    """Answers `/v1/models` and `/v1/embeddings` with an embedder's vectors, and remembers what it was sent."""

    def __init__(self, embedder, *, refuses=(), noise=0.0, key=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.embedder, self.refuses, self.noise, self.key = embedder, refuses, noise, key
        self.bodies = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def allowed(self):
        return self.server.key in (None, self.headers.get("authorization", "").removeprefix("Bearer "))

    def do_GET(self):
        if not self.allowed():
            self.answer(401, {"error": {"message": "who are you"}})
        else:
            self.answer(200, {"data": [{"id": "owls"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append((self.path, body))
        if any(key in item for item in body["input"] for key in self.server.refuses):
            self.answer(400, {"error": {"message": "one picture at most"}})
            return
        vectors = self.server.embedder.encode(body["input"])
        vectors += self.server.noise * np.random.default_rng(0).normal(size=vectors.shape).astype(np.float32)
        rows = [{"index": number, "embedding": vector.tolist()} for number, vector in enumerate(vectors)]
        self.answer(200, {"data": rows[::-1]})


@pytest.mark.parametrize("tail", ["", "/", "/v1", "/v1/"])
def test_a_server_that_serves_the_model_passes(folder, tail):
    with Server(Embedder.load(folder), key="secret") as server:
        result = verify(folder, against=server.url + tail, api_key="secret")
        assert result.passed
        assert {kind.kind for kind in result.kinds} == set(KINDS)
        assert {path for path, _ in server.bodies} == {"/v1/embeddings"}
        keys = {frozenset(item) for _, body in server.bodies for item in body["input"]}
        assert {frozenset({"text"}), frozenset({"image"}), frozenset({"text", "images"})} <= keys
        assert all(body["model"] == "owls" for _, body in server.bodies)


def test_a_server_with_other_vectors_does_not_pass(folder, worse):
    with Server(Embedder.load(folder), noise=0.01) as server:
        assert not verify(folder, against=server.url).passed
    with Server(Embedder.load(worse, self_test=False)) as server:
        kinds = by_kind(verify(folder, against=server.url))
        assert kinds["text"].smallest_cosine > 1 - 1e-9 > kinds["image"].smallest_cosine


def test_a_kind_that_a_server_refuses_has_its_reason_and_does_not_pass(folder):
    with Server(Embedder.load(folder), refuses=("images",)) as server:
        result = verify(folder, against=server.url)
    assert not result.passed
    kinds = by_kind(result)
    assert kinds["several"].smallest_cosine is None
    assert "one picture at most" in kinds["several"].reason
    assert kinds["both"].smallest_cosine > 1 - 1e-9


def test_a_server_that_wants_a_key_says_so(folder):
    with Server(None, key="secret") as server, pytest.raises(CocoaError) as caught:
        verify(folder, against=server.url)
    assert caught.value.code == "E_MODEL_SERVER"
    assert "401" in caught.value.message
