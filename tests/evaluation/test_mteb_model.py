"""mteb gets the vectors that anybody else gets, in the words of each side."""

from __future__ import annotations

import sys
from enum import Enum

import numpy as np
import pytest

from cocoa.backbones.nano import load_nano
from cocoa.errors import CocoaError, UsageError
from cocoa.evaluation import mteb_model
from cocoa.evaluation.mteb_model import MtebModel
from cocoa.model import EmbeddingModel
from cocoa.prompts import PROMPTS, prompted
from cocoa.sample import Sample


class PromptType(Enum):
    """As mteb has it."""

    query = "query"
    document = "document"


@pytest.fixture
def model(tiny):
    return EmbeddingModel(tiny(), max_tokens=256)


@pytest.fixture
def loader(picture):
    """What a DataLoader of mteb yields: batches of columns, one of which may be missing."""
    shown = [picture(60, 60, seed) for seed in range(3)]
    return [{"text": ["a", "b"], "image": [shown[0], None]}, {"text": ["b"], "id": ["x"]}, {"image": [shown[2]]}]


def samples(loader):
    pairs = [("a", loader[0]["image"][0]), ("b", None), ("b", None), ("", loader[2]["image"][0])]
    return [Sample(text, () if image is None else (image,)) for text, image in pairs]


@pytest.mark.parametrize(
    ("prompt_type", "side"), [(PromptType.query, "query"), (PromptType.document, "document"), (None, "document")]
)
def test_vectors_are_those_of_the_model_in_the_words_of_the_side(model, loader, prompt_type, side):
    wrapper = MtebModel(model)
    vectors = wrapper.encode(
        iter(loader), task_metadata=None, hf_split="test", hf_subset="default", prompt_type=prompt_type, batch_size=2
    )
    expected = model.encode([prompted(sample, side) for sample in samples(loader)])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert vectors.dtype == np.float32


def test_a_model_that_was_trained_with_words_of_its_own_is_asked_in_them(tiny, loader):
    words = PROMPTS | {"query/text": "Seek: {text}", "document/image": "<|image_1|>\nA picture."}
    model = EmbeddingModel(tiny(), max_tokens=256, prompts=words)
    for prompt_type in PromptType:
        expected = model.encode([prompted(one, prompt_type.value, None, words) for one in samples(loader)])
        vectors = MtebModel(model).encode(iter(loader), prompt_type=prompt_type)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_what_repeats_is_embedded_once_and_pictures_are_not_all_held(model, loader, monkeypatch):
    monkeypatch.setattr(mteb_model, "_WINDOW", 2)
    sizes = []
    real = EmbeddingModel.encode
    monkeypatch.setattr(EmbeddingModel, "encode", lambda self, some, **o: sizes.append(len(some)) or real(self, some))
    vectors = MtebModel(model).encode(iter(loader))
    assert sizes == [2, 1]
    np.testing.assert_array_equal(vectors[1], vectors[2])


def test_similarities_are_cosines(model, loader):
    wrapper = MtebModel(model)
    vectors = wrapper.encode(iter(loader))
    every = wrapper.similarity(vectors, vectors)
    np.testing.assert_allclose(every.diagonal(), 1, atol=1e-5)
    np.testing.assert_allclose(
        wrapper.similarity_pairwise(vectors, vectors[::-1].copy()), every.fliplr().diagonal(), atol=1e-5
    )


def test_a_batch_with_nothing_is_refused(model):
    with pytest.raises(CocoaError, match="E_DATA_EMPTY"):
        MtebModel(model).encode(iter([{"audio": [1]}]))


def test_without_mteb_its_absence_is_said(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(UsageError, match="pip install mteb"):
        _ = MtebModel(model).mteb_model_meta


@pytest.mark.filterwarnings("ignore")
def test_mteb_runs_a_local_task(tmp_path):
    mteb = pytest.importorskip("mteb", reason="mteb is not installed (it is optional)")
    from local_mteb import NUM_PICTURES, LocalScenes

    EmbeddingModel(load_nano(), max_tokens=256).save(tmp_path / "model")
    wrapper = MtebModel.load(tmp_path / "model")
    result = mteb.evaluate(wrapper, [LocalScenes()], cache=None, show_progress_bar=False)
    scores = result.task_results[0].scores["test"][0]
    assert scores["hit_rate_at_10"] >= 5 / NUM_PICTURES
    scene = LocalScenes()
    scene.load_data()
    data = scene.dataset["default"]["test"]
    queries = wrapper.encode([{"text": data["queries"]["text"]}], prompt_type=PromptType.query)
    found = wrapper.encode([{"image": list(data["corpus"]["image"])}], prompt_type=PromptType.document)
    first = (wrapper.similarity(queries, found).argmax(1).numpy() == np.arange(NUM_PICTURES)).mean()
    assert scores["hit_rate_at_1"] == pytest.approx(first, abs=1e-4)
