"""The tower's attention: pictures of one size share a call, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from cocoa.backbones import Backbone
from cocoa.backbones.families import FAMILIES
from cocoa.backbones.vision_attention import Calls, VisionAttention

Tiny = Callable[..., Backbone]
SIZES = [(60, 60), (120, 90), (60, 60), (90, 120), (120, 90), (60, 60), (200, 60)]


def stock_vision(backbone: Backbone) -> torch.nn.Module:
    """The same tower with the stock attention in it."""
    stock = type(backbone.stock)(backbone.stock.config)
    tower = stock.model.visual
    shapes = dict(tower.state_dict())
    own = backbone.vision.state_dict().items()
    tower.load_state_dict({name: weight.view(shapes[name].shape) for name, weight in own})
    return tower.eval()


def pictures(backbone: Backbone, picture) -> tuple[Tensor, Tensor]:
    cut = [backbone.grid.cut(picture(*size, number)) for number, size in enumerate(SIZES)]
    patches = torch.cat([torch.from_numpy(patches) for patches, _ in cut])
    return backbone.grid.normalised(patches), torch.tensor([grid for _, grid in cut])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_tower_sees_what_the_stock_tower_sees_and_learns_the_same(tiny: Tiny, picture, family, attention) -> None:
    backbone = tiny(family=family, attention=attention)
    assert all(isinstance(block.attn, VisionAttention) for block in backbone.vision.blocks)
    patches, grids = pictures(backbone, picture)
    tower = stock_vision(backbone)
    patches, stock_patches = patches.requires_grad_(), patches.detach().clone().requires_grad_()
    seen = backbone.see(patches, grids).features
    expected = tower(stock_patches, grid_thw=grids, return_dict=True).pooler_output
    assert (seen - expected).abs().max() <= 1e-4 * expected.abs().max()
    seen.square().sum().backward()
    expected.square().sum().backward()
    assert stock_patches.grad is not None and patches.grad is not None
    assert (patches.grad - stock_patches.grad).abs().max() <= 1e-4 * stock_patches.grad.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_no_picture_looks_into_another(tiny: Tiny, picture, family) -> None:
    """The leak test of shared calls: with one picture changed, the others' tokens stay exactly as they are."""
    backbone = tiny(family=family)
    patches, grids = pictures(backbone, picture)
    sizes = (grids.prod(1) // backbone.grid.patches_per_token).tolist()
    ends = grids.prod(1).cumsum(0).tolist()
    changed = patches.clone()
    changed[ends[1] : ends[2]] += 1  # the third picture, of a size with the first and the sixth
    with torch.no_grad():
        before, after = (torch.split(backbone.see(one, grids).features, sizes) for one in (patches, changed))
    moved = [float((one - other).abs().max()) for one, other in zip(before, after, strict=True)]
    assert [number for number, distance in enumerate(moved) if distance > 0] == [2]


def test_rows_of_one_length_share_a_call() -> None:
    assert Calls([16] * 9, "cpu").sizes == [(9, 16)]
    assert Calls([16, 16, 8, 8, 8], "cpu").sizes == [(2, 16), (3, 8)]  # as they stand
    mixed = Calls([16, 8] * 10, "cpu")
    assert mixed.sizes == [(10, 8), (10, 16)]
    assert mixed.order is not None and mixed.back is not None
    places = torch.arange(240)
    assert torch.equal(places[mixed.order][mixed.back], places)
    assert mixed.order[:16].tolist() == [*range(16, 24), *range(40, 48)]
    assert Calls([16, 8, 16, 8], "cpu").order is None  # four calls are not worth sorting for


def test_a_window_of_many_pictures_takes_few_calls(tiny: Tiny, picture, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny(family="qwen2_5_vl")
    patches, grids = pictures(backbone, picture)
    counted = []
    real = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda query, *others, **options: counted.append(query.shape) or real(query, *others, **options),
    )
    with torch.no_grad():
        backbone.see(patches, grids)
        ours = len(counted)
        stock_vision(backbone)(patches, grid_thw=grids, return_dict=True)
    assert ours <= 4 + len(SIZES)
    assert len(counted) - ours > 3 * ours


def test_calls_that_were_planned_without_gradients_serve_a_step(tiny: Tiny, picture) -> None:
    backbone = deepcopy(tiny(family="qwen2_5_vl"))
    patches, grids = pictures(backbone, picture)
    with torch.inference_mode():
        backbone.see(patches, grids)
    backbone.see(patches.requires_grad_(), grids).features.sum().backward()
    assert patches.grad is not None
