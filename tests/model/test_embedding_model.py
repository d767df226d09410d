"""The embedding model: one input, one vector, whatever stands beside it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cocoa.backbones import Backbone
from cocoa.batch import collate, single_row
from cocoa.errors import DataError
from cocoa.layouts import LAYOUTS
from cocoa.model import EmbeddingModel
from cocoa.sample import Sample

Tiny = Callable[..., Backbone]
MakeSample = Callable[..., Sample]


@pytest.fixture
def samples(sample: MakeSample) -> list[Sample]:
    return [
        sample("a red apple"),
        sample("what is this <|image_1|>", (60, 80)),
        sample("", (56, 56)),
        sample("The picture shows an owl in the middle on an orange ground."),
        sample("a"),
        sample("<|image_2|> left of <|image_1|> ?", (90, 57), (31, 639)),
        sample("two cats and a dog sleep on the green grass", (84, 84)),
        sample("a red apple"),
    ]


def embed(model: EmbeddingModel, samples: list[Sample], max_batch_tokens: int = 16_384) -> Tensor:
    with torch.no_grad():
        return model.embed_all([model.backbone.encode(one) for one in samples], max_batch_tokens=max_batch_tokens)


@pytest.mark.parametrize("layout", ["bidirectional", "causal"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_vector_does_not_depend_on_batch_size_or_order(
    tiny: Tiny, samples: list[Sample], attention: str, layout: str
) -> None:
    model = EmbeddingModel(tiny(attention), layout=layout)
    alone = torch.cat([embed(model, [one]) for one in samples])
    assert alone.shape == (len(samples), 32)
    assert alone.dtype == torch.float32
    assert (alone.norm(dim=1) - 1).abs().max() < 1e-5
    order = [5, 0, 7, 3, 2, 6, 1, 4]
    for max_batch_tokens in (1, 25, 60, 10_000):
        assert (embed(model, samples, max_batch_tokens) - alone).abs().max() <= 1e-5
        shuffled = embed(model, [samples[place] for place in order], max_batch_tokens)
        assert (shuffled - alone[order]).abs().max() <= 1e-5


def test_encoding_leaves_a_model_in_its_mode_however_it_ends(tiny: Tiny) -> None:
    model = EmbeddingModel(tiny()).train()
    model.encode([Sample("a red apple")])
    assert model.training
    with pytest.raises(DataError):
        model.encode([Sample("a red apple"), Sample("")])
    assert model.training
    assert model.backbone.layers[0].training


def test_different_inputs_give_different_vectors(tiny: Tiny, samples: list[Sample]) -> None:
    vectors = embed(EmbeddingModel(tiny()), samples)
    distance = (vectors[:, None] - vectors[None]).abs().amax(2)
    same = torch.eye(len(samples), dtype=torch.bool)
    same[0, 7] = same[7, 0] = True
    assert distance[~same].min() > 1e-2
    assert distance[same].max() <= 1e-5


def test_the_vector_is_the_normed_state_of_e(tiny: Tiny, samples: list[Sample]) -> None:
    backbone = tiny()
    model = EmbeddingModel(backbone)
    batch = collate(backbone, [single_row(backbone, backbone.encode(one), 200) for one in samples], padding="left")
    with torch.no_grad():
        states = model.states(batch, LAYOUTS["bidirectional"].allowed(batch.roles))
        vectors = model.embed(batch)
    assert (batch.input_ids[:, -1] == backbone.text.control.bridge).all()
    assert torch.allclose(vectors, states[:, -1] / states[:, -1].norm(dim=1, keepdim=True), atol=1e-6)


def test_a_text_that_is_cut_still_ends_with_e(tiny: Tiny, sample: MakeSample) -> None:
    model = EmbeddingModel(tiny(), max_tokens=5)
    whole = "two cats and a dog sleep on the green grass"
    words = model.backbone.text.ids(whole)
    start = sample(model.backbone.text.words(words[:4]))
    assert model.backbone.text.ids(start.text) == words[:4]
    assert (embed(model, [sample(whole)]) - embed(model, [start])).abs().max() <= 1e-5
