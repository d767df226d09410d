"""The embedder for people: many kinds of items in, unit vectors out, the same for any company they come in."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cocoa import CocoaError, Embedder, Sample
from cocoa.model import EmbeddingModel
from cocoa.prompts import PROMPTS


@pytest.fixture
def folder(tiny, tmp_path):
    EmbeddingModel(tiny(), max_tokens=128).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def items(tmp_path, picture):
    path = tmp_path / "a.png"
    picture(40, 60, 1).save(path)
    return [
        "a red apple",
        {"text": "a blue bird", "image": str(path)},
        picture(70, 50, 2),
        {"image": path.read_bytes()},
        {"text": "two cats and a dog sleep on the green grass"},
        Sample("an owl"),
    ]


def test_vectors_are_float32_of_unit_norm_in_the_order_given(folder, items):
    embedder = Embedder.load(folder)
    vectors = embedder.encode(items)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(items), embedder.dimensions)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    order = [3, 0, 5, 2, 4, 1]
    np.testing.assert_allclose(embedder.encode([items[number] for number in order]), vectors[order], atol=1e-5)
    alone = np.concatenate([embedder.encode([item]) for item in items])
    np.testing.assert_allclose(alone, vectors, atol=1e-5)


def test_a_picture_is_the_same_by_path_by_bytes_and_as_an_object(folder, tmp_path, picture):
    path = tmp_path / "a.png"
    picture(40, 60, 1).save(path)
    vectors = Embedder.load(folder).encode([{"image": path}, {"image": path.read_bytes()}, Image.open(path)])
    np.testing.assert_allclose(vectors, vectors[[0, 0, 0]], atol=1e-6)


def test_queries_and_documents_are_asked_in_the_words_of_training(folder):
    embedder = Embedder.load(folder)
    asked = embedder.encode([PROMPTS["query/text"].replace("{text}", "an owl {text}")])
    np.testing.assert_array_equal(embedder.encode_query(["an owl {text}"]), asked)
    np.testing.assert_array_equal(embedder.encode_document(["an owl"]), embedder.encode(["an owl"]))


def test_no_items_give_no_vectors(folder):
    embedder = Embedder.load(folder)
    assert embedder.encode([]).shape == (0, embedder.dimensions)


@pytest.mark.parametrize(
    ("item", "code", "names"),
    [
        (7, "E_USAGE_ITEM", "item 1"),
        ({"text": "a", "picture": "b.png"}, "E_USAGE_ITEM", "picture"),
        ("", "E_DATA_EMPTY", "item 1"),
        ({"image": "no-such-file.png"}, "E_IMAGE_MISSING", "item 1"),
        ({"image": b"not a picture"}, "E_IMAGE_OPEN", "item 1"),
        ({"text": "<|image_2|>", "image": b""}, "E_DATA_PLACEHOLDER", "item 1"),
    ],
)
def test_a_bad_item_is_named(folder, item, code, names):
    with pytest.raises(CocoaError) as caught:
        Embedder.load(folder).encode(["a good one", item])
    assert caught.value.code == code
    assert names in str(caught.value)


def test_one_text_instead_of_a_list_is_refused(folder):
    with pytest.raises(CocoaError) as caught:
        Embedder.load(folder).encode("an owl")
    assert caught.value.code == "E_USAGE_ITEM"


def test_a_vector_that_is_not_finite_is_never_returned(folder, monkeypatch):
    embedder = Embedder.load(folder)
    real = EmbeddingModel.embed
    monkeypatch.setattr(EmbeddingModel, "embed", lambda self, batch: real(self, batch) * float("nan"))
    with pytest.raises(CocoaError) as caught:
        embedder.encode(["an owl"])
    assert caught.value.code == "E_MODEL_OUTPUT"
