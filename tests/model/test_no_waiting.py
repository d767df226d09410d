"""A GPU is never waited for: what a pass needs to know is known on the CPU before the pass begins.

The meta device is the witness: it computes shapes alone, and any question about a value raises there.
"""

from __future__ import annotations

import pytest
import torch

from cocoa.backbones.families import FAMILIES
from cocoa.batch import collate, moved
from cocoa.model import EmbeddingModel
from cocoa.pooling import Pooling

META = torch.device("meta")


@pytest.mark.parametrize("lines", [None, [[0, 1], [2, 3]]], ids=["padded", "packed"])
@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_embedding_asks_a_device_nothing(tiny, sample, monkeypatch, family, tokens, lines) -> None:
    monkeypatch.setattr("cocoa.looks.GPU_CALL_LOOKS", 1)  # so that attention is split
    monkeypatch.setattr("cocoa.looks.PLACE_LOOKS", 0)
    backbone = tiny(attention="split", family=family)
    model = EmbeddingModel(backbone, max_tokens=200, pooling=Pooling(tokens=tokens)).eval()
    texts = ("a red apple", "How many birds <|image_1|> are there <|image_2|>?", "an owl", "two cats and a dog sleep")
    samples = [sample(texts[0]), sample(texts[1], (90, 60), (70, 120)), sample(texts[2], (60, 60)), sample(texts[3])]
    batch = collate(backbone, [model.row(backbone.encode(one)) for one in samples], lines)
    model.to(META)
    vectors = model.embed(batch.to(META))
    assert vectors.device == META
    assert vectors.shape == (4, backbone.hidden_size)


@pytest.mark.parametrize("family", FAMILIES)
def test_seeing_asks_a_device_nothing(tiny, sample, family) -> None:
    backbone = tiny(family=family)
    model = EmbeddingModel(backbone, max_tokens=200)
    batch = collate(backbone, [model.row(backbone.encode(sample("two", (90, 60), (70, 120))))])
    num_tokens = len(backbone.see(batch.pixel_values, batch.image_grid_thw).features)
    model.to(META)
    there = batch.to(META)
    assert backbone.see(there.pixel_values, there.image_grid_thw).features.shape == (num_tokens, backbone.hidden_size)


def test_what_is_looked_into_stays_on_the_cpu(tiny, sample) -> None:
    backbone = tiny()
    model = EmbeddingModel(backbone, max_tokens=200)
    batch = moved(collate(backbone, [model.row(backbone.encode(sample("an owl", (60, 60))))]), META)
    assert batch.image_grid_thw is not None and batch.pixel_values is not None
    assert {batch.roles.device.type, batch.samples.device.type, batch.image_grid_thw.device.type} == {"cpu"}
    assert {batch.input_ids.device, batch.kinds.device, batch.bridge.device, batch.pixel_values.device} == {META}
