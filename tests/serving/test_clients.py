"""Clients that exist speak to the server as they are, and get what the library itself would give them."""

from __future__ import annotations

import base64

import numpy as np
import openai
import pytest
from running import data_url


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(api_key="any", base_url=server.url + "/v1", max_retries=0) as client:
        yield client


def assert_same(got, expected):
    np.testing.assert_allclose(np.array(got, np.float32), expected, atol=1e-5)


def test_the_openai_client_embeds_a_text_and_a_list_of_texts(client, embedder):
    # Without a word about it this client asks for base64 and decodes it.
    answer = client.embeddings.create(model="cocoa", input=["a red apple", "two cats"])
    assert_same([row.embedding for row in answer.data], embedder.encode(["a red apple", "two cats"]))
    assert [row.index for row in answer.data] == [0, 1]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 4
    one = client.embeddings.create(model="cocoa", input="a red apple", encoding_format="float", dimensions=8, user="me")
    assert_same(one.data[0].embedding, embedder.encode(["a red apple"], dimensions=8)[0])


def test_the_openai_client_lists_the_model_and_reads_errors(client):
    assert [model.id for model in client.models.list()] == ["cocoa"]
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="another", input="a cat")
    assert caught.value.code == "E_REQUEST_MODEL"
    with pytest.raises(openai.UnprocessableEntityError, match="token ids") as caught:
        client.embeddings.create(model="cocoa", input=[[1, 2, 3]])
    assert caught.value.param == "input"
    with pytest.raises(openai.UnprocessableEntityError, match="token ids"):
        client.embeddings.create(model="cocoa", input=[1, 2, 3])


def test_the_openai_client_asks_for_one_model(client):
    assert client.models.retrieve("cocoa").id == "cocoa"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("another")
    assert caught.value.code == "E_REQUEST_MODEL"


def test_fields_that_ask_for_what_is_done_anyway_are_taken(server, embedder):
    expected = embedder.encode(["an owl"])
    for more in (
        {"encoding_format": None},
        {"embedding_type": "float"},
        {"late_chunking": False, "normalized": True},
        {"task": "text-matching"},
        {"task": "classification"},
        {"task": "separation"},
    ):
        assert_same(server.embed("an owl", **more), expected)


@pytest.mark.parametrize(
    ("path", "more", "field"),
    [
        ("/v1/embeddings", {"input": "a", "late_chunking": True}, "late_chunking"),
        ("/v2/embed", {"texts": ["a"], "truncate": "START"}, "truncate"),
        ("/v2/embed", {"texts": ["a"], "max_tokens": 10}, "max_tokens"),
    ],
)
def test_fields_that_ask_for_what_is_not_done_are_refused_by_name(server, path, more, field):
    answer = server.post(path, {"model": "cocoa"} | more)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, field)


def test_a_field_that_is_missing_is_named(server):
    answer = server.post("/v1/embeddings", {"input": "a cat"})
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["message"], error["param"]) == ("E_REQUEST_FIELD", "the field is missing", "model")


def test_queries_and_documents_get_their_prompts(server, embedder):
    assert_same(server.embed("an owl", input_type="query"), embedder.encode_query(["an owl"]))
    assert_same(server.embed("an owl", task="retrieval.query"), embedder.encode_query(["an owl"]))
    assert_same(server.embed("an owl", input_type="document"), embedder.encode_document(["an owl"]))


def test_vllm_messages_are_one_item(server, embedder, picture):
    parts = [{"type": "image_url", "image_url": {"url": data_url(picture(60, 40, 1))}}, {"type": "text", "text": "x"}]
    body = {"model": "cocoa", "messages": [{"role": "user", "content": parts}], "encoding_format": "float"}
    [row] = server.post("/v1/embeddings", body).json()["data"]
    assert_same(row["embedding"], embedder.encode([{"text": "x", "image": picture(60, 40, 1)}])[0])


def test_an_empty_text_among_others_is_no_line(server, embedder):
    turns = [{"role": "system", "content": "an owl"}, {"role": "user", "content": "at night"}]
    empty = {"role": "assistant", "content": [{"type": "text", "text": ""}]}
    expected = embedder.encode(["an owl\nat night"])[0]
    for messages in (turns, [*turns, empty], [turns[0], empty, turns[1]]):
        [row] = server.post("/v1/embeddings", {"model": "cocoa", "messages": messages}).json()["data"]
        assert_same(row["embedding"], expected)
    nothing = server.post("/v1/embeddings", {"model": "cocoa", "messages": [empty]})
    assert nothing.json()["error"]["code"] == "E_DATA_EMPTY"


def test_jina_and_sglang_items_mix_texts_and_pictures(server, embedder, picture):
    url = data_url(picture(50, 70, 2))
    items = [{"text": "a cat"}, {"image": url}, {"image": url.partition(",")[2]}, {"text": "both", "image": url}, "str"]
    rows = server.post("/v1/embeddings", {"model": "cocoa", "input": items}).json()["data"]
    image = picture(50, 70, 2)
    expected = embedder.encode(["a cat", image, image, {"text": "both", "image": image}, "str"])
    assert_same([row["embedding"] for row in rows], expected)


def test_cohere_asks_for_texts_pictures_or_both_in_several_types(server, embedder, picture):
    url = data_url(picture(50, 70, 3))
    body = {"model": "cocoa", "texts": ["an owl", "a cat"], "input_type": "search_query"}
    answer = server.post(
        "/v2/embed", body | {"embedding_types": ["float", "int8", "uint8", "binary", "ubinary"]}
    ).json()
    expected = embedder.encode_query(["an owl", "a cat"])
    assert_same(answer["embeddings"]["float"], expected)
    small = np.array(answer["embeddings"]["int8"])
    np.testing.assert_array_equal(small, np.rint(127 * expected / np.abs(expected).max(axis=1, keepdims=True)))
    np.testing.assert_array_equal(np.array(answer["embeddings"]["uint8"]) - 128, small)
    bits = np.packbits(expected > 0, axis=1)
    np.testing.assert_array_equal(answer["embeddings"]["ubinary"], bits)
    np.testing.assert_array_equal(answer["embeddings"]["binary"], bits.astype(int) - 128)
    assert answer["meta"]["billed_units"]["input_tokens"] > 0

    body = {"model": "cocoa", "input_type": "image", "images": [url], "output_dimension": 16}
    image = picture(50, 70, 3)
    assert_same(server.post("/v2/embed", body).json()["embeddings"]["float"], embedder.encode([image], dimensions=16))

    parts = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": url}}]
    body = {"model": "cocoa", "input_type": "search_document", "inputs": [{"content": parts}]}
    expected = embedder.encode_document([{"text": "x", "image": image}])
    assert_same(server.post("/v2/embed", body).json()["embeddings"]["float"], expected)


def test_voyage_sends_content_lists(server, embedder, picture):
    url = data_url(picture(50, 70, 4))
    inputs = [
        {"content": [{"type": "text", "text": "a cat"}]},
        {"content": [{"type": "image_base64", "image_base64": url}, {"type": "text", "text": "below"}]},
        {"content": [{"type": "image_url", "image_url": url}]},
    ]
    body = {"model": "cocoa", "inputs": inputs, "input_type": "document"}
    answer = server.post("/v1/multimodalembeddings", body).json()
    image = picture(50, 70, 4)
    expected = embedder.encode_document(["a cat", {"text": "below", "image": image}, image])
    assert_same([row["embedding"] for row in answer["data"]], expected)
    assert answer["usage"]["image_pixels"] == 2 * 50 * 70
    packed = server.post("/v1/multimodalembeddings", body | {"output_encoding": "base64"}).json()
    first = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    assert_same(first, expected[0])


def test_voyage_s_own_client_says_more_than_its_manual(server, embedder):
    """What voyageai 0.5.0 puts into a body, whoever asks for what, and reads in the answer."""
    always = {"model": "cocoa", "truncation": True, "output_dtype": None, "encoding_format": "base64"}
    inputs = [{"content": [{"type": "text", "text": "a cat"}]}]
    asked = [
        ("/v1/multimodalembeddings", {"inputs": inputs, "input_type": None, "output_dimension": None}, None),
        ("/v1/multimodalembeddings", {"inputs": inputs, "input_type": "query", "output_dimension": 16}, 16),
        ("/v1/embeddings", {"input": ["a cat"], "input_type": None, "output_dimension": None}, None),
        ("/v1/embeddings", {"input": ["a cat"], "input_type": "query", "output_dimension": 16}, 16),
    ]
    for path, body, dimensions in asked:
        answer = server.post(path, always | body)
        assert answer.status_code == 200, answer.text
        answer = answer.json()
        vector = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
        encode = embedder.encode_query if body["input_type"] else embedder.encode
        assert_same(vector, encode(["a cat"], dimensions=dimensions)[0])
        assert answer["usage"]["total_tokens"] > 0
        if path == "/v1/multimodalembeddings":
            assert (answer["usage"]["image_pixels"], answer["usage"]["video_pixels"]) == (0, 0)
    long = always | {"input": ["two cats and a dog " * 400], "input_type": None, "output_dimension": None}
    assert server.post("/v1/embeddings", long).status_code == 200
    refused = server.post("/v1/embeddings", long | {"truncation": False})
    # Without a `detail` this client finds no error in an answer, and does not come again after a 429.
    assert (refused.status_code, refused.json()["detail"]) == (422, refused.json()["error"]["message"])


@pytest.mark.parametrize(
    ("path", "more", "field"),
    [
        ("/v1/embeddings", {"input": "a cat", "dimensions": 1000}, "dimensions"),
        ("/v2/embed", {"texts": ["a cat"], "output_dimension": 1000}, "output_dimension"),
        (
            "/v1/multimodalembeddings",
            {"inputs": [{"content": [{"type": "text", "text": "a"}]}], "output_dimension": 1000},
            "output_dimension",
        ),
    ],
)
def test_a_length_that_the_model_has_not_is_told_by_the_name_that_the_client_used(server, path, more, field):
    error = server.post(path, {"model": "cocoa"} | more).json()["error"]
    assert (error["code"], error["param"]) == ("E_LIMIT_DIMENSIONS", field)


def test_a_text_that_is_too_long_is_refused_unless_it_may_be_cut(server, embedder):
    words = "two cats and a dog " * 400
    answer = server.post("/v1/embeddings", {"model": "cocoa", "input": words})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "E_DATA_TOO_LONG")
    assert_same(server.embed(words, truncate=True), embedder.encode([words]))
