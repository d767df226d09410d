"""Pooling: the embedding is the mean of the states that its rule names, sample by sample, packed or padded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cocoa.backbones import load_nano
from cocoa.batch import collate, joined_row
from cocoa.errors import ModelError
from cocoa.layouts import LAYOUTS, Role
from cocoa.model import EmbeddingModel, fingerprint, identity_difference, identity_of
from cocoa.model.golden import Golden
from cocoa.pooling import Pooling

POOLINGS = [Pooling(), Pooling(kind="mean"), Pooling(tokens=4)]
by_pooling = pytest.mark.parametrize("pooling", POOLINGS, ids=["bridge", "mean", "four bridges"])


@pytest.fixture
def samples(sample):
    return [sample("a red apple", (60, 80)), sample("two cats and a dog"), sample("an owl", (56, 56), (84, 56))]


@by_pooling
@pytest.mark.parametrize("lines", [None, [[2], [0, 1]]], ids=["padded", "packed"])
def test_a_vector_is_the_mean_of_the_states_that_the_rule_names(tiny, samples, pooling, lines):
    model = EmbeddingModel(tiny(), max_tokens=128, pooling=pooling)
    encoded = [model.backbone.encode(one) for one in samples]
    batch = collate(model.backbone, [model.row(one) for one in encoded], lines)
    with torch.no_grad():
        found = model.embed(batch)
        for number, one in enumerate(encoded):
            alone = collate(model.backbone, [model.row(one)])
            states = model.states(alone, LAYOUTS["bidirectional"].allowed(alone.roles))[0]
            chosen = states if pooling.kind == "mean" else states[-pooling.tokens :]
            expected = torch.stack(list(chosen)).sum(0)
            expected = expected / expected.norm()
            assert float((found[number] - expected).abs().max()) <= 1e-5


def test_bridge_tokens_are_told_apart_by_their_places(tiny, samples):
    model = EmbeddingModel(tiny(), max_tokens=128, pooling=Pooling(tokens=4))
    row = model.row(model.backbone.encode(samples[0]))
    assert [role for _, role in row] == [Role.CONTEXT] + 4 * [Role.BRIDGE]
    batch = collate(model.backbone, [row])
    with torch.no_grad():
        states = model.states(batch, LAYOUTS["bidirectional"].allowed(batch.roles))[0, -4:]
    assert all((states[one] - states[other]).abs().max() > 1e-3 for one in range(4) for other in range(one))


def test_no_bridge_token_is_ever_cut(tiny, sample):
    backbone = tiny()
    long = backbone.encode(sample("two cats and a dog sleep on the green grass " * 9))
    model = EmbeddingModel(backbone, max_tokens=32, pooling=Pooling(tokens=4))
    batch = collate(backbone, [model.row(long)])
    assert batch.roles.shape[1] == 32
    assert int((batch.roles == Role.BRIDGE).sum()) == 4
    joined = collate(backbone, [joined_row(backbone, long, long, 32, bridged=True, num_bridges=4)])
    assert joined.roles.shape[1] == 32
    assert int((joined.roles == Role.BRIDGE).sum()) == 4


@by_pooling
def test_a_model_folder_keeps_how_it_pools(tiny, samples, tmp_path, pooling):
    model = EmbeddingModel(tiny(), max_tokens=128, pooling=pooling)
    model.save(tmp_path / "model")
    again = EmbeddingModel.load(tmp_path / "model")
    assert again.pooling == pooling
    np.testing.assert_array_equal(again.encode(samples), model.encode(samples))


@pytest.mark.parametrize("max_tokens", [17, 28, 48, 96])
def test_a_model_whose_bridge_tokens_leave_little_room_is_saved_with_what_fits_whole(tmp_path, max_tokens):
    model = EmbeddingModel(load_nano(), max_tokens=max_tokens, pooling=Pooling(tokens=16))
    model.save(tmp_path / "model")
    again = EmbeddingModel.load(tmp_path / "model")
    lengths = [len(again.backbone.encode(one.sample)) for one in Golden.read(tmp_path / "model").inputs]
    assert 0 < max(lengths) <= max_tokens - 16


def test_vectors_of_other_poolings_are_not_comparable(tiny, tmp_path):
    model = EmbeddingModel(tiny(), max_tokens=128)
    model.save(tmp_path / "model")
    own = identity_of(model, fingerprint(tmp_path / "model"))
    for pooling in POOLINGS[1:]:
        model.pooling = pooling
        assert "differ in" in (identity_difference(own, identity_of(model, own["fingerprint"])) or "")


def test_a_pooling_has_one_name_that_gives_it_back():
    assert [pooling.name for pooling in POOLINGS] == ["bridge", "mean", "bridge-4"]
    assert [Pooling.named(pooling.name) for pooling in POOLINGS] == POOLINGS
    for name in ("middle", "bridge-1", "bridge-04", "bridge-", "mean-2", "bridge-x", ""):
        with pytest.raises(ValueError):
            Pooling.named(name)


def test_stock_code_is_not_told_how_to_open_what_it_would_pool_wrongly(tiny, tmp_path):
    for pooling in POOLINGS:
        EmbeddingModel(tiny(), max_tokens=128, pooling=pooling).save(tmp_path / pooling.name)
        assert (tmp_path / pooling.name / "modules.json").exists() == (pooling == Pooling())


def test_a_pooling_that_says_two_things_is_refused(tiny, tmp_path):
    with pytest.raises(ValidationError, match="averages all tokens"):
        Pooling(kind="mean", tokens=2)
    EmbeddingModel(tiny(), max_tokens=128).save(tmp_path / "model")
    card = tmp_path / "model" / "cocoa.json"
    card.write_text(card.read_text().replace('"pooling": "bridge"', '"pooling": "middle"'))
    with pytest.raises(ModelError):
        EmbeddingModel.load(tmp_path / "model")
