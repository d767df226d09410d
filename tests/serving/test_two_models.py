"""Two models behind one address: each has its own engine and index, and a request says which it means."""

from __future__ import annotations

import base64
import threading
from pathlib import Path

import numpy as np
import openai
import pytest
from running import DecodeHere, StubForward, of_text, running, stub_app, until
from typer.testing import CliRunner

from cocoa import Index
from cocoa.cli import app
from cocoa.errors import CocoaError, UsageError
from cocoa.serving.engine import Engine
from cocoa.serving.keys import ApiKeys
from cocoa.serving.metrics import Metrics
from cocoa.serving.served import Served, named
from cocoa.serving.server import open_app
from cocoa.serving.settings import ServeSettings


def found(here, **body):
    return here.post("/v1/search", {"text": "a red apple", "k": 10} | body).json()


def test_both_are_listed_and_a_request_says_which_it_means(two, embedder, other, name):
    with openai.OpenAI(api_key="any", base_url=two.url + "/v1", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["cocoa", name]
        for model, expected in (("cocoa", embedder), (name, other)):
            [row] = client.embeddings.create(model=model, input="two cats").data
            np.testing.assert_allclose(row.embedding, expected.encode(["two cats"])[0], atol=1e-5)
        with pytest.raises(openai.NotFoundError) as caught:
            client.embeddings.create(model="third", input="a cat")
    assert (caught.value.code, caught.value.param) == ("E_REQUEST_MODEL", "model")
    assert name in caught.value.message


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "a"}),
        ("/v2/embed", {"texts": ["a"]}),
        ("/v1/multimodalembeddings", {"inputs": [{"content": [{"type": "text", "text": "a"}]}]}),
        ("/v1/search", {"text": "a"}),
        ("/v1/search", {"like": ["scene-6"]}),
        ("/v1/explain", {"text": "a", "id": "scene-6"}),
    ],
)
def test_no_route_takes_a_model_that_is_not_there(two, path, body):
    answer = two.post(path, {"model": "third"} | body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "E_REQUEST_MODEL")
    for address in ("/v1/index?model=third", "/v1/documents/_YQ/image?model=third"):
        assert two.client.get(address).status_code == 404


def test_each_searches_its_own_index(two, embedder, other, rows, name, folders):
    for model, who, (_, uri) in zip(("cocoa", name), (embedder, other), folders, strict=True):
        answer = found(two, model=model)
        [expected] = Index.open(uri).search_vectors(who.encode_query(["a red apple"]), 10)
        assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in expected]
        assert answer["model"] == model
    assert found(two)["model"] == "cocoa"
    here = two.post("/v1/search", {"like": [rows[0].id]})
    there = two.post("/v1/search", {"like": [rows[0].id], "model": name})
    assert (here.status_code, there.status_code) == (200, 404), "the other index does not have it"


def test_each_shows_and_explains_its_own_documents(two, rows, name):
    hits = [hit for hit in found(two, model=name, k=50)["hits"] if hit["image"]]
    assert all(two.client.get(hit["image"]).status_code == 200 for hit in hits[:3])
    assert f"model={name.replace('/', '%2F')}" in hits[0]["image"]
    told = {
        model: two.post("/v1/explain", {"text": "a red apple", "id": hits[0]["id"], "model": model}).json()
        for model in ("cocoa", name)
    }
    scores = {model: {hit["id"]: hit["score"] for hit in found(two, model=model, k=50)["hits"]} for model in told}
    for model, answer in told.items():
        assert answer["score"] == pytest.approx(scores[model][hits[0]["id"]], abs=1e-5)
    missing = two.post("/v1/explain", {"text": "a", "id": rows[0].id, "model": name})
    assert missing.json()["error"]["code"] == "E_REQUEST_DOCUMENT"


def test_the_index_is_described_for_each(two, rows, name):
    first = two.client.get("/v1/index").json()
    second = two.client.get("/v1/index", params={"model": name}).json()
    assert (first["model"], first["count"]) == ("cocoa", len(rows))
    assert (second["model"], second["count"]) == (name, len(rows) - 3)
    assert first["models"] == second["models"]
    assert [model["dimensions"] for model in first["models"]] == [[32, 16, 8], [64, 16]]


def test_a_length_is_held_to_what_the_model_was_trained_for(two, embedder, other, name):
    def ask(model, dimensions):
        return two.post("/v1/embeddings", {"model": model, "input": "a", "dimensions": dimensions})

    np.testing.assert_allclose(
        ask(name, 16).json()["data"][0]["embedding"], other.encode(["a"], dimensions=16)[0], atol=1e-5
    )
    assert ask(name, 64).status_code == ask("cocoa", 17).status_code == 200
    for answer in (ask(name, 17), two.post("/v1/search", {"model": name, "text": "a", "dimensions": 17})):
        assert answer.status_code == 422
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("E_LIMIT_DIMENSIONS", "dimensions")
        assert "16 or 64" in error["message"]
    for model, too_many in (("cocoa", 33), (name, 65)):
        assert ask(model, too_many).json()["error"]["code"] == "E_LIMIT_DIMENSIONS"


def test_one_that_is_held_up_does_not_hold_up_the_other_and_is_not_ready():
    settings, metrics = ServeSettings(ready_seconds=0.5), Metrics()
    held = StubForward(16)
    held.go.clear()
    second = Served("second", Engine(held, settings, metrics, DecodeHere(), name="second"))
    with running(stub_app(ready_seconds=0.5, compared=[second], metrics=metrics)) as here:
        answers = []
        body = {"model": "second", "input": "waits"}
        waiting = threading.Thread(target=lambda: answers.append(here.post("/v1/embeddings", body)))
        waiting.start()
        until(lambda: here.metric('cocoa_held{model="second",what="items"}') == 1)
        np.testing.assert_allclose(here.embed("goes on")[0], of_text("goes on"), atol=1e-6)
        assert here.metric('cocoa_batch_items_count{model="cocoa"}') == 1
        assert here.client.get("/readyz").status_code == 503
        held.go.set()
        waiting.join()
        until(lambda: here.client.get("/readyz").status_code == 200)
        [row] = answers[0].json()["data"]
        np.testing.assert_allclose(row["embedding"], of_text("waits", dimensions=16), atol=1e-6)


def test_an_index_of_another_model_is_refused(folders):
    crossed = [folders[0], (folders[1][0], folders[0][1])]
    with pytest.raises(CocoaError, match="E_MODEL_OTHER"):
        open_app(crossed, ServeSettings(), ApiKeys())


def test_names_tell_models_apart(tmp_path):
    folders = [tmp_path / name for name in ("b/cocoa", "b/nano", "c/b/cocoa", "b/nano")]
    assert named("cocoa", folders) == ["cocoa", "b/cocoa", "nano", "c/b/cocoa", "b/nano"]
    with pytest.raises(UsageError, match="E_USAGE_MODEL"):
        named("cocoa", [Path("/a"), Path("/a")])


def test_the_command_line_takes_other_models_with_and_without_an_index(monkeypatch):
    seen = []
    monkeypatch.setattr("cocoa.serving.server.serve", lambda models, settings: seen.append(models))
    told = ["serve", "a", "--index", "here", "--compare", "b=milvus://x?y=z", "--compare", "c"]
    assert CliRunner().invoke(app, told).exit_code == 0
    assert seen == [[("a", "here"), ("b", "milvus://x?y=z"), ("c", None)]]


def test_a_picture_is_embedded_by_either(two, embedder, other, name, rows):
    content = Path(rows[6].image).read_bytes()
    image = "data:image/png;base64," + base64.b64encode(content).decode()
    for model, who in (("cocoa", embedder), (name, other)):
        [row] = two.post("/v1/embeddings", {"model": model, "input": [{"image": image}]}).json()["data"]
        np.testing.assert_allclose(row["embedding"], who.encode([{"image": content}])[0], atol=1e-5)
