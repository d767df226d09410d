"""On a GPU the numbers are the CPU's. `make gpu-test` runs this where there is one; elsewhere it is skipped.

`COCOA_TEST_DEVICE=cpu` runs the same lines without a GPU, to see that they are sound.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from stages import (
    LARGE,
    SMALL,
    assert_equal_gradients,
    calm_backbone,
    gradients,
    make_pairs,
    make_recipe,
    make_samples,
    ready,
)

from cocoa import Embedder
from cocoa.backbones.families import FAMILIES
from cocoa.batch import collate
from cocoa.data.scene_pairs import ScenePairs
from cocoa.layouts import LAYOUTS, Role
from cocoa.model import EmbeddingModel
from cocoa.pooling import Pooling
from cocoa.recipe import MachineOptions, parse_recipe
from cocoa.training.loop import train
from cocoa.training.ranks import Ranks

DEVICE = torch.device(os.environ.get("COCOA_TEST_DEVICE", "cuda"))
pytestmark = pytest.mark.skipif(
    DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="there is no GPU (tests/gpu)"
)
STAGES = ["warm-up", "bridge", "contrastive", "captioner", "light", "joint"]
THERE = Ranks(0, 1, DEVICE)


@pytest.fixture(autouse=True)
def exact_products():
    """Products in float32, not in the GPU's shortened kind."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("attention", ["split", "sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_the_cpus(tiny, sample, family, attention) -> None:
    model = EmbeddingModel(tiny(family=family, attention=attention), max_tokens=200)
    expected = model.encode(make_samples(sample))
    found = model.to(DEVICE).encode(make_samples(sample))
    assert np.abs(found - expected).max() < 1e-3  # a hidden size of 32 and weights made large: rounding is loud
    assert np.einsum("nd,nd->n", found, expected).min() > 0.99999


@pytest.mark.parametrize("tokens", [1, 4])
def test_vectors_of_every_pooling_are_the_cpus(tiny, sample, tokens) -> None:
    for pooling in (Pooling(tokens=tokens), Pooling(kind="mean")):
        model = EmbeddingModel(tiny(attention="split"), max_tokens=200, pooling=pooling)
        expected = model.encode(make_samples(sample))
        assert np.einsum("nd,nd->n", model.to(DEVICE).encode(make_samples(sample)), expected).min() > 0.99999


@pytest.mark.parametrize("attention", ["split", "sdpa"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_layout_hides_is_hidden_exactly(tiny, layout, attention) -> None:
    """Whatever a query may not look at may change without moving its state by a bit."""
    rule = LAYOUTS[layout]
    backbone = tiny(attention=attention).to(DEVICE)
    rows = torch.tensor([[1, 1, 1, 2, 3, 3, 3, 0]] * 2, dtype=torch.uint8)
    owners = torch.where(rows == Role.PAD, -1, torch.arange(2)[:, None])
    allowed = rule.allowed(rows, owners)
    looks = rule.looks(rows, owners, group=len(rule.segments) > 1) if attention == "split" else allowed
    reach = allowed[0, 0].float()
    for _ in range(len(backbone.layers)):
        reach = ((reach @ reach) > 0).float()
    ids = torch.randint(10, 400, rows.shape, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(8).expand(3, 2, 8)
    kinds = torch.zeros_like(rows)

    def states(words):
        with torch.no_grad():
            there = (words.to(DEVICE), kinds.to(DEVICE), looks.to(DEVICE), positions.to(DEVICE))
            return backbone.hidden_states(*there).cpu()

    before = states(ids)
    for place in range(7):
        other = ids.clone()
        other[0, place] = 400 - other[0, place]
        moved = (states(other) - before).abs().amax(2)[:, :7]  # what padding gets is of no meaning
        assert float(moved[1].max()) == 0.0
        hidden = reach[:7, place] == 0
        assert float(moved[0][hidden].max() if hidden.any() else 0.0) == 0.0
        assert float(moved[0, place]) > 0


@pytest.mark.parametrize("machine", [LARGE, SMALL, MachineOptions(chunk_tokens=256, pack_tokens=128)])
@pytest.mark.parametrize("name", STAGES)
def test_losses_and_gradients_are_the_cpus(sample, name, machine) -> None:
    pairs = make_pairs(sample)
    plain, expected = gradients(ready(calm_backbone(), make_recipe(name)), pairs, machine)
    found_tally, found = gradients(ready(calm_backbone().to(DEVICE), make_recipe(name)), pairs, machine, THERE)
    assert found_tally.losses == pytest.approx(plain.losses, rel=1e-5)
    assert_equal_gradients(expected, {key: value.cpu() for key, value in found.items()}, 1e-5)


@pytest.mark.parametrize("extra", ["adapter: {dropout: 0.3}", "freeze_vision: true"])
def test_cached_gradients_are_uncached_ones_with_dropout_drawn_on_the_gpu(sample, extra) -> None:
    pairs = make_pairs(sample)
    one, other = (ready(calm_backbone().to(DEVICE), make_recipe("contrastive", extra)) for _ in range(2))
    for setup in (one, other):
        with torch.no_grad():
            for weight in setup.trainee.trained.values():
                weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE))
    rows = MachineOptions(chunk_tokens=64)
    first, cached = gradients(one, pairs, rows, THERE)
    again, repeated = gradients(other, pairs, rows, THERE)
    assert first.losses == pytest.approx(again.losses, rel=1e-6)
    assert_equal_gradients(cached, repeated, 1e-6)
    if "adapter" not in extra:
        assert_equal_gradients(gradients(other, pairs, LARGE, THERE)[1], cached, 1e-5)


@pytest.mark.parametrize("name", STAGES)
def test_bfloat16_is_close_to_float32(sample, name) -> None:
    pairs = make_pairs(sample)
    plain, expected = gradients(ready(calm_backbone(), make_recipe(name)), pairs)
    setup = ready(calm_backbone().to(DEVICE), make_recipe(name, top="precision: bfloat16"))
    tally, found = gradients(setup, pairs, LARGE, THERE)
    assert tally.losses == pytest.approx(plain.losses, rel=0.03)
    norm = torch.stack([value.norm() for value in expected.values()]).norm()
    apart = torch.stack([(found[key].cpu() - value).norm() for key, value in expected.items()]).norm()
    assert apart < 0.1 * norm


RECIPE = """
name: gpu
backbone: {name: nano}
max_tokens: 96
PRECISION
machine: {checkpoint_every: 5}
stages:
  - {name: warm-up, layout: bidirectional, objectives: [{kind: masked_text, rate: 0.2}, {kind: masked_patch}],
     data: [{kind: scene_pairs, num_pairs: 500}], steps: 8, batch_size: 16, learning_rate: 5e-4}
  - {name: bridge, layout: eos_bridge, objectives: [{kind: masked_text, rate: 0.7, roles: [target]}],
     data: [{kind: scene_pairs, num_pairs: 500}], steps: 8, batch_size: 16, learning_rate: 5e-4}
  - {name: contrastive, layout: bidirectional, objectives: [{kind: contrastive, temperature: 0.05}],
     data: [{kind: scene_pairs, num_pairs: 500}], steps: 8, batch_size: 16, learning_rate: 1e-3}
"""


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_recipe_trains_saves_and_embeds(tmp_path, record_property, precision) -> None:
    recipe = parse_recipe(RECIPE.replace("PRECISION", f"precision: {precision}"))
    _, log = train(recipe, tmp_path / "one", ranks=Ranks(0, 1, DEVICE))
    _, again = train(recipe, tmp_path / "two", ranks=Ranks(0, 1, DEVICE))
    losses, repeated = ([record["losses"] for record in each.records] for each in (log, again))
    first, second = ([loss for each in run for loss in each.values()] for run in (losses, repeated))
    assert first == pytest.approx(second, rel=1e-3)
    record_property("equal_to_the_bit", losses == repeated)
    one = Embedder.load(tmp_path / "one" / "model", device=DEVICE)  # with its self-test
    half = Embedder.load(tmp_path / "one" / "model", device=DEVICE, dtype="bfloat16")
    there = Embedder.load(tmp_path / "one" / "model", device="cpu")
    pairs = [ScenePairs(seed=1, num_pairs=40)[number] for number in range(40)]
    items = [pair.query for pair in pairs] + [pair.target for pair in pairs]
    expected = there.model.encode(items)
    assert np.einsum("nd,nd->n", one.model.encode(items), expected).min() > 0.99999
    assert np.einsum("nd,nd->n", half.model.encode(items), expected).min() > 0.99


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path) -> None:
    recipe = parse_recipe(RECIPE.replace("PRECISION", ""))
    _, whole = train(recipe, tmp_path / "whole", ranks=Ranks(0, 1, DEVICE))

    class StoppedError(Exception):
        pass

    def stop(stage, record) -> None:
        if stage.name == "bridge" and record["step"] == 6:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(recipe, tmp_path / "cut", ranks=Ranks(0, 1, DEVICE), on_step=stop)
    _, resumed = train(recipe, tmp_path / "cut", resume=True, ranks=Ranks(0, 1, DEVICE))
    last, expected = resumed.records[-1]["losses"], whole.records[-1]["losses"]
    assert list(last.values()) == pytest.approx(list(expected.values()), rel=1e-2)


def test_packed_rows_are_padded_rows(tiny, sample) -> None:
    backbone = tiny(attention="split")
    model = EmbeddingModel(backbone, max_tokens=200).to(DEVICE)
    rows = [model.row(backbone.encode(one)) for one in make_samples(sample)]
    with torch.no_grad():
        padded = model.embed(collate(backbone, rows).to(DEVICE))
        packed = model.embed(collate(backbone, rows, [[0, 1, 2], [3, 4]]).to(DEVICE))
    assert (padded - packed).abs().max() < 1e-3
