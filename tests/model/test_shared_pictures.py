"""A picture that several samples show goes through the vision tower once, and no vector knows it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cocoa.backbones.families import FAMILIES
from cocoa.model import EmbeddingModel, embedding_model, shared_pictures
from cocoa.sample import Sample
from counting import counted


def several(sample):
    """Eight samples on three pictures, one of which shows two, and one shows a picture twice; lengths differ."""
    made = []
    for number in range(8):
        sizes = [(56, 56), (90, 57), (60, 80)][: 1 + (number == 3)] if number % 2 else [(60, 80)]
        made.append(sample(" ".join(["owls"] * (1 + 3 * number)), *sizes))
    twice = sample("two", (60, 80))
    return [*made, sample("a cat"), type(twice)("twice", twice.images * 2)]


def distinct_patches(samples):
    pictures = {patches.tobytes(): len(patches) for one in samples for patches in one.patches}
    return sum(pictures.values()), sum(len(patches) for one in samples for patches in one.patches)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_distinct_picture_is_seen_once_and_vectors_are_those_of_samples_alone(tiny, sample, family, monkeypatch):
    monkeypatch.setattr(embedding_model, "pass_tokens", lambda *_: 64)
    model = EmbeddingModel(tiny(family=family)).eval()
    encoded = [model.backbone.encode(one) for one in several(sample)]
    with torch.inference_mode():
        alone = torch.cat([model.embed_all([one]) for one in encoded])
    with counted(model) as counts:
        together = model.embed_all(encoded)
    once, every_time = distinct_patches(encoded)
    assert counts.passes > 3
    assert counts.patches == once < every_time
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)


def test_what_does_not_fit_is_seen_again_and_gives_the_same_vectors(tiny, sample, monkeypatch):
    monkeypatch.setattr(embedding_model, "pass_tokens", lambda *_: 64)
    model = EmbeddingModel(tiny()).eval()
    encoded = [model.backbone.encode(one) for one in several(sample)]
    kept = model.embed_all(encoded)
    monkeypatch.setattr(shared_pictures, "_MOST_BYTES", 0)
    with counted(model) as counts:
        again = model.embed_all(encoded)
    assert counts.patches > distinct_patches(encoded)[0]
    torch.testing.assert_close(again, kept, atol=2e-5, rtol=1e-4)


def test_pictures_that_only_begin_and_end_alike_are_told_apart(tiny, sample):
    model = EmbeddingModel(tiny()).eval()
    first = model.backbone.encode(sample("owls", (56, 56)))
    changed = first.patches[0].copy()
    changed[3] += 1
    second = type(first)(first.ids, first.kinds, (changed,), first.grids)
    vectors = model.embed_all([first, second])
    assert (vectors[0] - vectors[1]).abs().max() > 1e-3
    torch.testing.assert_close(vectors[1:], model.embed_all([second]), atol=2e-5, rtol=1e-4)


def test_nothing_is_kept_after_its_last_use(tiny, sample, monkeypatch):
    made = []
    plain = shared_pictures.SharedPictures.__init__
    monkeypatch.setattr(
        shared_pictures.SharedPictures, "__init__", lambda self, keys: made.append(self) or plain(self, keys)
    )
    monkeypatch.setattr(embedding_model, "pass_tokens", lambda *_: 64)
    model = EmbeddingModel(tiny()).eval()
    model.embed_all([model.backbone.encode(one) for one in several(sample)])
    [pictures] = made
    assert (pictures._kept, pictures._bytes) == ({}, 0)


def test_pictures_of_one_place_are_seen_once_while_samples_are_read(tiny, sample, monkeypatch, tmp_path):
    monkeypatch.setattr(embedding_model, "pass_tokens", lambda *_: 64)
    model = EmbeddingModel(tiny()).eval()
    drawn = sample("", (60, 80)).images[0]
    drawn.save(tmp_path / "one.png")
    data = (tmp_path / "one.png").read_bytes()
    alike = [
        *(Sample("owls " * number, (drawn,)) for number in range(3)),
        *(Sample("cats " * number, (str(tmp_path / "one.png"),)) for number in range(3)),
        *(Sample("dogs " * number, (bytes(bytearray(data)),)) for number in range(3)),
        Sample("no picture"),
    ]
    alone = [model.encode([one])[0] for one in alike]
    with counted(model) as counts:
        together = model.encode(alike)
    one = len(model.backbone.encode(alike[0]).patches[0])
    assert counts.patches == 3 * one, "an object, a file and equal bytes: each once"
    assert counts.passes > 2
    np.testing.assert_allclose(together, alone, atol=2e-5)


@pytest.mark.parametrize("text", ["<|image_2|> beside <|image_1|>", "one <|image_1|> of two"])
@pytest.mark.parametrize("second", [(60, 60), (90, 57)], ids=["of one size", "of two sizes"])
def test_a_picture_that_is_seen_once_is_the_one_that_the_text_names(tiny, sample, text, second):
    model = EmbeddingModel(tiny()).eval()
    both = sample(text, (60, 60), second)
    one, two = both.images
    neighbours = [both, Sample("owls", (one,)), Sample("cats", (two,))]
    alone = np.concatenate([model.encode([each]) for each in neighbours])
    with counted(model) as counts:
        together = model.encode(neighbours)
    once, every_time = distinct_patches([model.backbone.encode(each) for each in neighbours])
    assert counts.patches == once < every_time
    np.testing.assert_allclose(together, alone, atol=2e-5)


def test_passes_side_by_side_give_the_same_vectors(tiny, sample, monkeypatch):
    monkeypatch.setattr(embedding_model, "pass_tokens", lambda *_: 64)
    model = EmbeddingModel(tiny()).eval()
    samples = several(sample) * 3
    encoded = [model.backbone.encode(one) for one in samples]
    one = model.embed_all(encoded)
    streamed = model.encode(samples)
    torch.set_num_threads(2)
    try:
        torch.testing.assert_close(model.embed_all(encoded), one, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(
            torch.from_numpy(model.encode(samples)), torch.from_numpy(streamed), atol=2e-5, rtol=1e-4
        )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
