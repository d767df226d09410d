"""Every limit of a request at one less, at itself, and at one more; and bodies that mean nothing, or two things."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import psutil
import pytest
from PIL import Image
from running import StubForward, data_url, running, stub_app

from bad_inputs import BAD_INPUTS
from bad_requests import CONTROL_TOKENS
from cocoa.corpus.index import MAX_K
from cocoa.errors import UsageError
from cocoa.serving.app import create_app
from cocoa.serving.engine import Engine
from cocoa.serving.forward import Forward
from cocoa.serving.metrics import Metrics
from cocoa.serving.settings import RequestLimits, ServeSettings, settings_from

SMALL = RequestLimits(
    max_body_bytes=20_000,
    max_header_bytes=2_000,
    max_json_depth=6,
    max_json_values=60,
    max_items=5,
    max_characters=100,
    max_images=3,
    max_image_bytes=4_000,
    max_image_pixels=900,
    max_request_pixels=1_499,
    max_k=7,
    max_likes=2,
)
SIZES = {748: (22, 34), 749: (7, 107), 750: (25, 30), 899: (29, 31), 900: (30, 30), 901: (17, 53)}


@pytest.fixture(scope="module")
def small():
    """A server with small limits."""
    with running(stub_app(StubForward(dimensions=8), limits=SMALL)) as here:
        yield here


def asks(items: object, **more: object) -> bytes:
    return json.dumps({"model": "cocoa", "input": items} | more).encode()


def padded(num_bytes: int, picture) -> bytes:
    return asks("a") + b" " * (num_bytes - len(asks("a")))


def of_bytes(num_bytes: int, picture) -> bytes:
    file = io.BytesIO()
    picture(20, 20).save(file, "BMP")
    return asks([{"image": base64.b64encode(file.getvalue().ljust(num_bytes, b"\0")).decode()}])


def of_pixels(num_pixels: int, picture) -> bytes:
    return asks([{"image": data_url(picture(*SIZES[num_pixels]))}])


def of_pixels_together(num_pixels: int, picture) -> bytes:
    return asks([{"image": data_url(picture(*SIZES[n]))} for n in (750, num_pixels - 750)])


LIMITS = {
    "max_body_bytes": ("E_LIMIT_BODY", padded),
    "max_items": ("E_LIMIT_ITEMS", lambda n, _: asks(["a"] * n)),
    "max_characters": ("E_LIMIT_CHARACTERS", lambda n, _: asks(["x" * n])),
    "max_images": ("E_LIMIT_IMAGES", lambda n, picture: asks([{"images": [data_url(picture(9, 9))] * n}])),
    "max_image_bytes": ("E_LIMIT_IMAGE", of_bytes),
    "max_image_pixels": ("E_IMAGE_TOO_LARGE", of_pixels),
    "max_request_pixels": ("E_LIMIT_PIXELS", of_pixels_together),
    "dimensions": ("E_LIMIT_DIMENSIONS", lambda n, _: asks("a", dimensions=n)),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_holds_exactly(small, picture, name):
    code, make = LIMITS[name]
    limit = getattr(SMALL, name, 8)
    for number in (limit - 1, limit):
        answer = small.post("/v1/embeddings", make(number, picture))
        assert answer.status_code == 200, (number, answer.text)
    answer = small.post("/v1/embeddings", make(limit + 1, picture))
    assert answer.status_code in (413, 422)
    assert answer.json()["error"]["code"] == code
    assert code.startswith("E_IMAGE") or name in answer.text + "dimensions"


def test_a_limit_of_pixels_above_the_usual_one_has_its_effect(embedder):
    large = io.BytesIO()
    Image.new("1", (7100, 7100)).save(large, "PNG")
    settings = ServeSettings(port=0, limits=RequestLimits(max_image_pixels=51_000_000))
    with running(create_app(settings, Engine(Forward(embedder, max_batch_tokens=2048), settings, Metrics()))) as here:
        body = asks([{"image": base64.b64encode(large.getvalue()).decode()}])
        answer = here.post("/v1/embeddings", body)
        assert answer.status_code == 200, answer.text


def test_values_and_depth_of_a_body_hold_exactly(small):
    def status(body: bytes) -> tuple[int, str]:
        answer = small.post("/v1/embeddings", body)
        return answer.status_code, answer.json().get("error", {}).get("code", "")

    def values(number: int) -> bytes:
        # The object, its list and its two commas are four.
        return b'{"model":"cocoa","input":["a"],"x":[' + b",".join([b"1"] * (number - 4)) + b"]}"

    # Beyond this limit the field is unknown; what matters is who says no.
    assert status(values(SMALL.max_json_values - 1))[1] == "E_REQUEST_FIELD"
    assert status(values(SMALL.max_json_values + 1)) == (413, "E_LIMIT_JSON")
    for depth, code in ((5, "E_REQUEST_FIELD"), (6, "E_REQUEST_FIELD"), (7, "E_LIMIT_JSON")):
        assert status(b'{"model":"cocoa","input":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}")[1] == code
    # Strings with nothing between them are not JSON, and are not counted to their end either.
    assert status(b'""' * (2 * SMALL.max_json_values + 1))[1] == "E_REQUEST_JSON"
    assert status(b'""' * (2 * SMALL.max_json_values + 2)) == (413, "E_LIMIT_JSON")
    names = ",".join(f'"{n}":"x"' for n in range(SMALL.max_json_values - 1))
    assert status(b"{" + names.encode() + b"}")[1] == "E_REQUEST_FIELD"
    # Brackets and commas in a text are text.
    assert status(asks('[[[[[[[[[[,,,,,,,,,,,,,,,\\"{{{{{{{{{{'))[0] == 200


def test_headers_hold_exactly(small):
    small.client.get("/livez")

    def status(number: int) -> int:
        request = small.client.build_request("GET", "/v1/models", headers={"x": ""})
        size = sum(len(name) + len(value) for name, value in request.headers.raw) + len("/v1/models")
        request.headers["x"] = "y" * (number - size)
        return small.client.send(request).status_code

    limit = SMALL.max_header_bytes
    assert [status(limit - 1), status(limit), status(limit + 1)] == [200, 200, 431]
    assert status(4 * limit) in (400, 431)


def test_k_and_likes_hold_exactly(picture):
    class Found:
        def search_vectors(self, vectors, k, *, filter=None):  # noqa: A002
            return [[] for _ in vectors]

        def get(self, ids):
            return [type("Row", (), {"vector": np.ones(8, np.float32) / 8**0.5}) for _ in ids]

    with running(stub_app(index=Found(), limits=SMALL)) as here:
        for field, limit, of in (("k", 7, int), ("like", 2, lambda n: ["a"] * n), ("unlike", 2, lambda n: ["a"] * n)):
            answers = [
                here.post("/v1/search", {"text": "a", "k": 5, field: of(n)}) for n in (limit - 1, limit, limit + 1)
            ]
            assert [answer.status_code for answer in answers] == [200, 200, 422], answers[0].text
        for wrong in (0, -1, 1e9, 10**9, True, "7", None, 2.0):
            assert here.post("/v1/search", {"text": "a", "k": wrong}).status_code == 422


def test_max_k_is_set_to_no_more_than_an_index_gives():
    assert settings_from({}, [f"limits.max_k={MAX_K}"]).limits.max_k == MAX_K
    with pytest.raises(UsageError) as caught:
        settings_from({}, [f"limits.max_k={MAX_K + 1}"])
    assert (caught.value.code, caught.value.where) == ("E_USAGE_SETTING", "limits.max_k")


@pytest.mark.parametrize("name", ["allowed_hosts", "fetch_hosts"])
@pytest.mark.parametrize(
    "host", ["https://a.example.org", "a.example.org:8443", "a.example.org/", "[::1]", "10.0.0.5:80", "", " a", "a..b"]
)
def test_a_host_that_could_never_be_met_is_refused(name, host):
    for known in ("a.example.org", "A-b_c.example", "localhost", "10.0.0.5", "fe80::1", "*"):
        settings_from({name: (known,)}, [])
    with pytest.raises(UsageError, match="a host's name alone") as caught:
        settings_from({name: ("a.example.org", host)}, [])
    assert (caught.value.code, caught.value.where) == ("E_USAGE_SETTING", f"{name}.1")


def test_all_names_below_one_are_for_fetching_alone():
    assert settings_from({"fetch_hosts": (".example.org",)}, []).fetch_hosts == (".example.org",)
    with pytest.raises(UsageError, match="a host's name alone"):
        settings_from({"allowed_hosts": (".example.org",)}, [])


def test_a_name_of_digits_is_a_name():
    assert settings_from({}, ["model_name=2024"]).model_name == "2024"
    assert settings_from({}, ["model_name=1e3"]).model_name == "1e3"
    assert settings_from({}, ["port=2024"]).port == 2024


@pytest.mark.parametrize(
    "number", ["1e9", "-1", "0", "NaN", "Infinity", "-Infinity", "1e999", "true", "1.0", "9" * 5000]
)
def test_a_number_that_is_none_is_refused(stub, number):
    answer = stub.post("/v1/embeddings", b'{"model":"cocoa","input":"a","dimensions":' + number.encode() + b"}")
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["code"] in ("E_REQUEST_JSON", "E_REQUEST_FIELD")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", rb'{"model":"cocoa","input":"a\ud800b"}'),
        ("/v1/embeddings", rb'{"model":"cocoa\uDFFF","input":"a"}'),
        ("/v1/embeddings", rb'{"model":"cocoa","input":"a","\ud800":1}'),
        ("/v1/search", rb'{"like":["\udcff"]}'),
        ("/v1/search", rb'{"text":"a","filter":{"column":"\ud83d","op":"=","value":1}}'),
    ],
)
def test_half_of_a_surrogate_pair_is_refused_wherever_it_stands(stub, path, body):
    answer = stub.post(path, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "E_REQUEST_JSON")
    assert "surrogate" in answer.json()["error"]["message"]


def test_a_whole_surrogate_pair_is_a_character(stub):
    answer = stub.post("/v1/embeddings", rb'{"model":"cocoa","input":["\ud83e\udd89","\\ud800"]}')
    vectors = np.array([row["embedding"] for row in answer.json()["data"]], np.float32)
    np.testing.assert_array_equal(vectors, stub.embed("\N{OWL}", r"\ud800"))


INSIDE = re.compile(r"0x[0-9a-f]{6,}|/home|/tmp|/root|Traceback|site-packages|File \"|pydantic|PIL", re.IGNORECASE)


def request_of(bad, folder) -> bytes | None:
    """An odd input as a request, None where it is of another kind than servers are asked."""
    made = bad.make(folder)
    if bad.kind == "json":
        return made
    if bad.kind == "text":
        images = [base64.b64encode(image).decode() for image in made.get("images", [])]
        return asks([{"text": made["text"]} | ({"images": images} if images else {})], truncate=True)
    if bad.kind in ("image", "geometry") and isinstance(made, bytes):
        return asks([{"image": base64.b64encode(made).decode()}])
    return None


@pytest.fixture(scope="module")
def canary(server):
    return server.embed("canary")


@pytest.mark.parametrize(
    "bad", [bad for bad in BAD_INPUTS if bad.kind in ("json", "text", "image", "geometry")], ids=str
)
def test_an_odd_input_gets_its_own_answer_and_the_next_request_is_served(server, canary, bad, tmp_path):
    if (body := request_of(bad, tmp_path)) is None:
        pytest.skip("not something that a server is sent")
    answer = server.post("/v1/embeddings", body, **{"content-type": bad.content_type})
    assert answer.status_code < 500, answer.text
    if answer.status_code == 200:
        assert bad.code is None or bad.or_accepted, answer.text
        vectors = np.array([row["embedding"] for row in answer.json()["data"]], np.float32)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    else:
        assert bad.code is not None, answer.text
        assert not INSIDE.search(answer.text), answer.text
        assert re.match(r"E_[A-Z_]+$", answer.json()["error"]["code"])
    np.testing.assert_array_equal(server.embed("canary"), canary)


@pytest.mark.parametrize("kind", ["image_url", "image_base64", "image"])
def test_an_empty_picture_is_refused_by_name_and_not_left_out(stub, kind):
    parts = [{"type": "text", "text": "a cat"}, {"type": kind, kind: ""}]
    answers = {
        f"messages[0].content[1].{kind}": stub.post(
            "/v1/embeddings", {"model": "cocoa", "messages": [{"content": parts}]}
        ),
        f"inputs[0].content[1].{kind}": stub.post("/v2/embed", {"model": "cocoa", "inputs": [{"content": parts}]}),
        "input[0]": stub.post("/v1/embeddings", {"model": "cocoa", "input": [{"text": "a cat", "image": ""}]}),
        "image": stub.post("/v1/search", {"text": "a cat", "image": ""}),
    }
    for place, answer in answers.items():
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, place)


def test_no_text_can_forge_a_control_token(server, embedder, canary, picture):
    tokens = sorted({*CONTROL_TOKENS, *embedder.model.backbone.text.stock.all_special_tokens})
    texts = [*tokens, *(one + two for one in tokens for two in tokens[:8])]
    vectors = server.embed(*texts[:250])
    np.testing.assert_allclose(vectors, embedder.encode(texts[:250]), atol=1e-5)
    long = server.embed(*(token * 1000 for token in tokens), truncate=True)
    np.testing.assert_allclose(np.linalg.norm(long, axis=1), 1, atol=1e-4)
    # Beside a picture, a text that spells picture tokens adds none.
    item = {"text": "<|vision_start|><|image_pad|><|vision_end|>", "image": data_url(picture(40, 40))}
    assert server.embed(item).shape == (1, embedder.dimensions)
    np.testing.assert_array_equal(server.embed("canary"), canary)


def test_a_body_that_is_refused_costs_no_memory(stub):
    stub.embed("warm")
    process = psutil.Process()
    bodies = [
        b"[" * 5_000_000,
        b'{"a":' + b"[]," * 1_000_000,
        b'{"' + b"k" * 1_000_000 + b'":1}',
        b'{"a":"' + b"\\" * 4_000_000,
    ]
    for body in bodies:
        before = process.memory_info().rss
        answer = stub.post("/v1/embeddings", body)
        assert answer.status_code in (400, 413, 422)
        # The bodies themselves are in this process twice, as it sends and receives them.
        assert process.memory_info().rss - before < 20_000_000 + 4 * len(body)
