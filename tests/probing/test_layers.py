"""Layer by layer: the vectors of each layer, who looks at e and where e looks, against row-by-row versions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from cocoa.backbones import Kind
from cocoa.batch import collate
from cocoa.errors import DataError
from cocoa.layouts import LAYOUTS, Role
from cocoa.model import EmbeddingModel
from cocoa.pooling import Pooling
from cocoa.probing.layers import hit_at_1, vectors_by_layer
from cocoa.probing.looks import SHARES, attention_shares

FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]


@pytest.fixture
def samples(sample):
    return [sample("a red apple", (56, 56)), sample("two cats and a dog sleep"), sample("", (56, 84), seed=3)]


def model_of(tiny, family="qwen2_vl", **options):
    return EmbeddingModel(tiny(family=family), max_tokens=128, **options)


def run_alone(model, sample):
    """One sample in a line of its own, by the stock model's own means to tell states and attention."""
    backbone = model.backbone
    batch = collate(backbone, [model.row(backbone.encode(sample))])
    embedded = backbone.words(batch.input_ids)
    extra = {}
    if batch.pixel_values is not None:
        seen = backbone.see(batch.pixel_values, batch.image_grid_thw)
        is_image = batch.kinds == Kind.IMAGE
        embedded = embedded.masked_scatter(is_image[:, :, None], seen.features)
        if seen.deepstack:
            extra = {"visual_pos_masks": is_image, "deepstack_visual_embeds": list(seen.deepstack)}
    allowed = LAYOUTS[model.layout].allowed(batch.roles)
    output = backbone.stock.model.language_model(
        inputs_embeds=embedded,
        attention_mask=backbone.attention_mask(allowed),
        position_ids=batch.position_ids,
        use_cache=False,
        output_hidden_states=True,
        output_attentions=True,
        **extra,
    )
    return batch, output, allowed[0, 0]


@pytest.mark.parametrize("probed", [vectors_by_layer, attention_shares])
def test_probing_leaves_a_model_in_its_mode_however_it_ends(tiny, samples, probed):
    model = model_of(tiny).train()
    probed(model, samples)
    assert model.training
    model.max_tokens = 8  # no room for a picture
    with pytest.raises(DataError):
        probed(model, samples)
    assert model.training


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_each_layers_vector_is_the_state_of_e_behind_it(tiny, samples, family):
    model = model_of(tiny, family)
    found = vectors_by_layer(model, samples)
    assert found.shape == (2, 3, 32)
    assert np.abs(found[-1] - model.encode(samples)).max() < 1e-5, "the last layer's are the embeddings"
    for number, sample in enumerate(samples):
        batch, output, _ = run_alone(model, sample)
        place = int(batch.bridge[0])
        first = functional.normalize(output.hidden_states[1][0, place], dim=-1)
        assert np.abs(found[0, number] - first.numpy()).max() < 1e-5
    assert np.abs(found[0] - found[1]).max() > 0.01


@pytest.mark.parametrize("pooling", [Pooling(kind="mean"), Pooling(tokens=4)], ids=lambda pooling: pooling.name)
def test_other_poolings_are_used_on_every_layer(tiny, samples, pooling):
    model = model_of(tiny, pooling=pooling)
    found = vectors_by_layer(model, samples)
    assert np.abs(found[-1] - model.encode(samples)).max() < 1e-5
    assert np.abs(found - vectors_by_layer(model_of(tiny), samples)).max() > 0.01


def test_a_share_of_hits_is_that_of_a_loop_and_a_tie_is_lost():
    rng = np.random.default_rng(0)
    queries, targets = (rng.standard_normal((9, 4)).astype(np.float32) for _ in range(2))
    targets[5] = targets[4]
    targets[7] = targets[6]
    tasks = ["one"] * 5 + ["other"] * 3 + ["alone"]
    keys = ["a", "b", "c", "d", "d", "d", "e", "f", "g"]
    hits = []
    for mine in range(9):
        rivals = [other for other in range(9) if tasks[other] == tasks[mine] and keys[other] != keys[mine]]
        if rivals:
            hits.append(all(queries[mine] @ targets[mine] > queries[mine] @ targets[other] for other in rivals))
    assert len(hits) == 8, "who has no rival is not asked"
    assert hit_at_1(queries, targets, tasks, keys) == pytest.approx(sum(hits) / 8)
    same = np.ones((3, 2), np.float32)
    assert hit_at_1(same, same, ["one"] * 3, ["a", "b", "c"]) == 0.0
    assert hit_at_1(same, same, ["one"] * 3, ["a"] * 3) is None


def slow_shares(model, samples):
    """Token by token and head by head, from the stock model's own attention."""
    totals = [dict.fromkeys(SHARES, 0.0) for _ in model.backbone.layers]
    for sample in samples:
        batch, output, allowed = run_alone(model, sample)
        roles, kinds = batch.roles[0].tolist(), batch.kinds[0].tolist()
        e = [place for place, role in enumerate(roles) if role == Role.BRIDGE]
        words, pieces = (
            [p for p, kind in enumerate(kinds) if kind == k and p not in e] for k in (Kind.TEXT, Kind.IMAGE)
        )
        for layer, weights in zip(totals, output.attentions, strict=True):
            heads = weights[0]
            content = [*words, *pieces]
            for query in content:
                to_e = sum(float(head[query, key]) for head in heads for key in e) / len(heads)
                layer["content_to_e"] += to_e / len(content) / len(samples)
                even = sum(bool(allowed[query, key]) for key in e) / int(allowed[query].sum())
                layer["content_to_e_if_even"] += even / len(content) / len(samples)
            for query in e:
                for name, keys in (("e_to_text", words), ("e_to_image", pieces), ("e_to_itself", e)):
                    mass = sum(float(head[query, key]) for head in heads for key in keys) / len(heads)
                    layer[name] += mass / len(e) / len(samples)
    return totals


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_shares_of_the_attention_are_those_of_a_loop_over_tokens_and_heads(tiny, samples, family, tokens):
    model = model_of(tiny, family, pooling=Pooling(tokens=tokens))
    found = attention_shares(model, samples)
    model.backbone.stock.set_attn_implementation("eager")
    for layer, expected in zip(found, slow_shares(model, samples), strict=True):
        assert layer == pytest.approx(expected, abs=1e-5)
        assert layer["e_to_text"] + layer["e_to_image"] + layer["e_to_itself"] < 1, "some goes to the picture's tags"
        assert 0 < layer["content_to_e"] < 1


def test_before_anything_stands_behind_it_nobody_looks_at_e(tiny, samples):
    for layer in attention_shares(model_of(tiny, layout="causal"), samples):
        assert layer["content_to_e"] == layer["content_to_e_if_even"] == 0.0
        assert layer["e_to_text"] > 0


def test_attention_that_cannot_tell_keys_apart_is_even(tiny, samples):
    model = model_of(tiny)
    for layer in model.backbone.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)
        torch.nn.init.zeros_(layer.self_attn.q_proj.bias)
    lengths = [len(model.backbone.encode(sample)) + 1 for sample in samples]
    for layer in attention_shares(model, samples):
        assert layer["content_to_e"] == pytest.approx(layer["content_to_e_if_even"], abs=1e-6)
        assert layer["e_to_itself"] == pytest.approx(sum(1 / length for length in lengths) / 3, abs=1e-6)


def test_looking_changes_nothing(tiny, samples):
    model = model_of(tiny)
    before = model.encode(samples)
    attention_shares(model, samples)
    assert (model.encode(samples) == before).all()
    assert model.backbone.stock.config.text_config._attn_implementation == "sdpa"
    assert not any(layer._forward_hooks for layer in model.backbone.layers)
