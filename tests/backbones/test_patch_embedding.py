"""The tower's first layer as a matrix product: what the stock convolution gives, and its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cocoa.backbones.families import FAMILIES
from cocoa.backbones.patch_embedding import PatchEmbedding


@pytest.mark.parametrize("family", FAMILIES)
def test_it_equals_the_stock_convolution(tiny, family):
    backbone = tiny(family=family)
    ours = backbone.vision.patch_embed
    assert isinstance(ours, PatchEmbedding)
    assert isinstance(ours.proj, nn.Conv3d)
    patches = torch.randn(24, backbone.grid.values_per_patch)
    shape = (-1, 3, backbone.grid.temporal_patch_size, *[backbone.grid.patch_size] * 2)
    stock = ours.proj(patches.view(shape)).flatten(1)
    assert (ours(patches) - stock).abs().max() < 1e-5 * stock.abs().max()
    weights = list(ours.parameters())
    wanted = torch.autograd.grad(stock.square().sum(), weights)
    for got, want in zip(torch.autograd.grad(ours(patches).square().sum(), weights), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


def test_weights_keep_the_names_that_stock_files_have(tiny):
    names = set(tiny().stock.state_dict())
    assert "model.visual.patch_embed.proj.weight" in names
    assert not [
        name for name in names if "patch_embed" in name and not name.startswith("model.visual.patch_embed.proj.")
    ]
