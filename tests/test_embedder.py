"""The embedder for people: many kinds of items in, unit vectors out, the same for any company they come in."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cocoa import CocoaError, Embedder, Sample
from cocoa.backbones.nano import load_nano
from cocoa.embedder import as_sample
from cocoa.model import EmbeddingModel
from cocoa.precision import quantized, shortened
from cocoa.prompts import PROMPTS
from making import SENTENCES


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


def test_several_pictures_stand_in_their_order_in_front_or_where_the_prompt_says(folder, picture):
    embedder = Embedder.load(folder)
    one, two = picture(60, 40, 1), picture(40, 60, 2)
    both = {"text": "owls", "images": [one, two]}
    spelled = Sample("<|image_1|><|image_2|>owls", (one, two))
    np.testing.assert_array_equal(embedder.encode([both]), embedder.encode([spelled]))
    asked = Sample(
        PROMPTS["query/both"].replace("<|image_1|>", "<|image_1|><|image_2|>").replace("{text}", "owls"), (one, two)
    )
    np.testing.assert_array_equal(embedder.encode_query([both]), embedder.encode([asked]))
    swapped = embedder.encode([{"text": "owls", "images": [two, one]}])
    assert np.abs(swapped - embedder.encode([both])).max() > 1e-3


def test_a_task_has_words_of_its_own_where_training_had_and_the_usual_ones_elsewhere(folder, picture):
    embedder = Embedder.load(folder)
    item = {"text": "how many?", "image": picture(40, 60, 1)}
    asked = Sample(PROMPTS["vqa/query/both"].replace("{text}", "how many?"), (item["image"],))
    np.testing.assert_array_equal(embedder.encode_query([item], task="vqa"), embedder.encode([asked]))
    np.testing.assert_array_equal(embedder.encode_document([item], task="vqa"), embedder.encode_document([item]))
    with pytest.raises(CocoaError) as caught:
        embedder.encode_query([item], task="vqua")
    assert caught.value.code == "E_USAGE_TASK"
    assert "vqa" in caught.value.message


def test_the_words_are_those_of_the_folder_and_not_of_this_version(tiny, tmp_path):
    prompts = PROMPTS | {"query/text": "seek {text}!"}
    EmbeddingModel(tiny(), prompts=prompts).save(tmp_path / "model")
    embedder = Embedder.load(tmp_path / "model")
    np.testing.assert_array_equal(embedder.encode_query(["an owl"]), embedder.encode(["seek an owl!"]))


def test_a_prompt_goes_around_every_item(folder, picture):
    embedder = Embedder.load(folder)
    image = picture(40, 60, 1)
    found = embedder.encode(["an owl", {"text": "a {text}", "image": image}], prompt="Find: ")
    expected = embedder.encode(["Find: an owl", {"text": "Find: a {text}", "image": image}])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    around = embedder.encode(["an owl", image], prompt="<|image_1|> shows {text}?")
    expected = embedder.encode([" shows an owl?", {"text": "<|image_1|> shows ?", "image": image}])
    np.testing.assert_allclose(around, expected, atol=1e-6)


def test_shorter_and_smaller_vectors_come_from_the_same_ones(folder, items, caplog):
    embedder = Embedder.load(folder)
    whole = embedder.encode(items)
    for encode in (embedder.encode, embedder.encode_document):
        plain = encode(items)
        np.testing.assert_array_equal(encode(items, precision="binary"), quantized(plain, "binary"))
        np.testing.assert_array_equal(
            encode(items, dimensions=8, precision="int8"), quantized(shortened(plain, 8), "int8")
        )
    np.testing.assert_array_equal(embedder.encode(items, dimensions=32), whole)
    assert [record.message for record in caplog.records] == ["8 dimensions cost quality: this model was trained for 32"]


def test_a_length_that_was_trained_is_given_without_a_word(tiny, tmp_path, caplog):
    EmbeddingModel(tiny(), matryoshka=(8,)).save(tmp_path / "model")
    assert Embedder.load(tmp_path / "model").encode(["an owl"], dimensions=8).shape == (1, 8)
    assert not caplog.records


@pytest.mark.parametrize("wrong", [{"dimensions": 33}, {"dimensions": 0}, {"dimensions": 8.0}, {"precision": "int4"}])
def test_what_cannot_be_given_is_refused_before_anything_is_computed(folder, wrong, monkeypatch):
    embedder = Embedder.load(folder)
    monkeypatch.setattr(EmbeddingModel, "encode", None)
    with pytest.raises(CocoaError) as caught:
        embedder.encode(["an owl"], **wrong)
    assert caught.value.code == "E_USAGE_" + next(iter(wrong)).upper()


def test_a_bar_is_shown_if_asked_for(folder, capsys):
    Embedder.load(folder).encode(["an owl"], progress=True)
    assert "embedding" in capsys.readouterr().out


def test_it_loads_in_bfloat16_and_says_so(tmp_path):
    EmbeddingModel(load_nano(), max_tokens=128).save(tmp_path / "model")
    embedder = Embedder.load(tmp_path / "model", dtype="bfloat16", device="cpu")
    assert embedder.identity["dtype"] == "bfloat16"
    assert embedder.encode(["an owl"]).dtype == np.float32
    with pytest.raises(CocoaError) as caught:
        Embedder.load(tmp_path / "model", dtype="int8")
    assert caught.value.code == "E_USAGE_DTYPE"


def mixed_items(folder, picture, number):
    """Returns 64 items of every kind, the pictures by every way in."""
    items, plain = [], []
    for place in range(number):
        image = picture(30 + 7 * (place % 9), 25 + 11 * (place % 5), place)
        path = folder / f"{place}.png"
        image.save(path)
        data = path.read_bytes()
        url = "data:image/png;base64," + base64.b64encode(data).decode()
        text = " ".join(SENTENCES[place % 6].split()[: 1 + place % 7])
        way = [path, str(path), data, url, image][place % 5]
        match place % 4:
            case 0:
                items.append(text)
                plain.append(Sample(text))
            case 1:
                items.append(way if not isinstance(way, str) else {"image": way})
                plain.append(Sample(images=(image,)))
            case 2:
                items.append({"text": text, "image": way})
                plain.append(Sample(text, (image,)))
            case 3:
                items.append({"text": text, "images": [way, image]})
                plain.append(Sample(text, (image, image)))
    return items, plain


def test_a_vector_does_not_depend_on_batch_order_or_way_in(tiny, tmp_path, picture):
    EmbeddingModel(tiny(), max_tokens=128).save(tmp_path / "model")
    embedder = Embedder.load(tmp_path / "model")
    items, plain = mixed_items(tmp_path, picture, 64)
    alone = np.concatenate([embedder.model.encode([sample]) for sample in plain])
    order = np.random.default_rng(0).permutation(64)
    shuffled = [items[place] for place in order]
    for size in (1, 2, 7, 64):
        batches = [embedder.encode(shuffled[start : start + size]) for start in range(0, 64, size)]
        np.testing.assert_allclose(np.concatenate(batches), alone[order], atol=1e-5)


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
        ({}, "E_DATA_EMPTY", "item 1"),
        ({"text": 7}, "E_USAGE_ITEM", "int"),
        ({"image": 7}, "E_USAGE_ITEM", "int"),
        ({"image": b"", "images": []}, "E_USAGE_ITEM", "both"),
        ({"images": "a.png"}, "E_USAGE_ITEM", "str"),
        ({"image": "data:image/png;base64,!!!"}, "E_IMAGE_URL", "base64"),
        ({"image": "data:text/html;base64,aGVsbG8="}, "E_IMAGE_FORMAT", "item 1"),
        ({"image": "https://127.0.0.1/a.png"}, "E_IMAGE_URL", "net"),
        (Path("no-such-file.png"), "E_IMAGE_MISSING", "item 1"),
    ],
)
def test_a_bad_item_is_named(folder, item, code, names):
    with pytest.raises(CocoaError) as caught:
        Embedder.load(folder).encode(["a good one", item])
    assert caught.value.code == code
    assert names in str(caught.value)


@pytest.mark.parametrize("text", ["a.png", "data:image/png;base64,aGVsbG8=", "https://127.0.0.1/a.png", "<|im_end|>"])
def test_a_str_is_a_text_whatever_it_looks_like(folder, tmp_path, picture, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    picture(40, 60, 1).save("a.png")
    assert as_sample(text, 0) == Sample(text, where="item 0")
    embedder = Embedder.load(folder)
    np.testing.assert_array_equal(embedder.encode([text]), embedder.encode([{"text": text}]))


@pytest.mark.parametrize(
    "given", ["an owl", Path("owl.png"), Sample("an owl"), {"text": "an owl"}, 1.5, None], ids=repr
)
def test_one_thing_instead_of_a_list_is_refused(folder, given):
    with pytest.raises(CocoaError) as caught:
        Embedder.load(folder).encode(given)
    assert caught.value.code == "E_USAGE_ITEM"


@pytest.mark.parametrize(
    ("scale", "what"), [(float("nan"), "finite"), (0.0, "of unit length"), (1.01, "of unit length")]
)
def test_a_vector_that_is_not_finite_or_not_of_unit_length_is_never_returned(folder, monkeypatch, scale, what):
    embedder = Embedder.load(folder)
    real = EmbeddingModel.embed
    monkeypatch.setattr(EmbeddingModel, "embed", lambda self, *given: real(self, *given) * scale)
    with pytest.raises(CocoaError, match=f"vector 0 is not {what}") as caught:
        embedder.encode(["an owl"])
    assert caught.value.code == "E_MODEL_OUTPUT"
