"""Chance belongs to samples: what is hidden in one does not depend on what it is computed with."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from cocoa.batch import collate, joined_row
from cocoa.objectives import Draws, MaskedPatchOptions, MaskedTextOptions, choose


@pytest.fixture
def rows(tiny, sample):
    backbone = tiny()
    chosen = [
        (sample("How many birds are there?", (60, 80)), sample("two cats and a dog sleep on the green grass")),
        (sample("a dog"), sample("two")),
        (sample("<|image_2|> left of <|image_1|> ?", (90, 57), (56, 56)), sample("a red apple")),
        (sample("", (56, 56)), sample("The picture shows an owl in the middle on an orange ground.")),
    ]
    encoded = [(backbone.encode(query), backbone.encode(target)) for query, target in chosen]
    return backbone, [joined_row(backbone, query, target, 200, bridged=True) for query, target in encoded]


def hidden_words(backbone, rows, numbers, lines=None, seed=0):
    """What is hidden in each sample: its words, and the pixels that stand in its pictures afterwards."""
    batch = collate(backbone, rows, lines)
    draws = Draws(seed, tuple(numbers))
    masked, _ = MaskedTextOptions(rate=0.5).build(backbone).hide(batch, draws)
    filled, _ = MaskedPatchOptions().build(backbone).hide(batch, draws)
    owners = batch.samples[batch.kinds == 1].repeat_interleave(4)

    def pixels(number):
        return [] if filled.pixel_values is None else filled.pixel_values[owners == number].flatten().tolist()

    return [(masked.input_ids[batch.samples == number].tolist(), pixels(number)) for number in range(len(rows))]


def test_the_same_is_hidden_whatever_shares_the_batch_or_the_line(rows) -> None:
    backbone, rows = rows
    whole = hidden_words(backbone, rows, range(4))
    packed = hidden_words(backbone, rows, range(4), [[2, 0], [3, 1]])
    assert packed == whole
    alone = [hidden_words(backbone, [row], [number])[0] for number, row in enumerate(rows)]
    assert alone == whole
    assert hidden_words(backbone, rows, range(4), seed=1) != whole
    assert hidden_words(backbone, rows, range(4, 8)) != whole


def test_samples_and_purposes_draw_from_streams_of_their_own() -> None:
    draws = Draws(3, (10, 11, 10))
    first, second, same = (draws.of(sample, "words").random(4) for sample in range(3))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, draws.of(0, "patches").random(4))
    assert np.array_equal(draws.part([1]).of(0, "words").random(4), second)


def test_the_shared_stream_is_the_one_that_its_key_says_and_no_samples(recwarn: pytest.WarningsRecorder) -> None:
    for seed in range(20):
        draws = Draws(seed, (0, 1))
        key = int.from_bytes(hashlib.sha256(f"{seed}/fill".encode()).digest()[:8], "big")
        exact = np.random.Generator(np.random.Philox(key=key | (2**64 - 1) << 64))
        found = draws.shared("fill").random(4)
        assert np.array_equal(found, exact.random(4))
        assert not any(np.array_equal(found, draws.of(sample, "fill").random(4)) for sample in (0, 1))
    assert not recwarn.list, "nothing is cast"


def test_nothing_eligible_chooses_nothing() -> None:
    none = torch.zeros(2, 5, dtype=torch.bool)
    samples = torch.tensor([[0] * 5, [1] * 5])
    assert not choose(none, samples, 0.5, Draws(0, (0, 1)), "x").any()
