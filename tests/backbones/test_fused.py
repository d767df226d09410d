"""Fused chains: the same numbers as the lines they are made of, wherever they run."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
import torch
import torch._dynamo.config as dynamo
from torch._dynamo.testing import CompileCounter
from transformers.activations import QuickGELUActivation

from cocoa.backbones import fused
from cocoa.backbones.families import FAMILIES
from cocoa.backbones.stand_ins import GatedMaps, QuickGelu, RmsNorm
from cocoa.errors import ModelError


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_patches_are_turned_as_every_family_turns_them(tiny, family, dtype) -> None:
    module = sys.modules[type(tiny(family=family).stock).__module__]
    draws = torch.Generator().manual_seed(0)
    query, key = (torch.randn(30, 4, 16, generator=draws).to(dtype).requires_grad_() for _ in range(2))
    angles = torch.randn(30, 16, generator=draws)
    stock_query, stock_key = (each.detach().clone().requires_grad_() for each in (query, key))
    ours = fused.rotate_patches(query, key, angles.cos(), angles.sin())
    theirs = module.apply_rotary_pos_emb_vision(stock_query, stock_key, angles.cos(), angles.sin())
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == dtype
        assert torch.equal(mine, other)
    (ours[0].square().sum() + ours[1].sum()).backward()
    (theirs[0].square().sum() + theirs[1].sum()).backward()
    assert torch.equal(query.grad, stock_query.grad)
    assert torch.equal(key.grad, stock_key.grad)


def test_the_activation_is_the_stock_one(tiny) -> None:
    numbers = torch.randn(50, 7)
    assert torch.equal(fused.quick_gelu(numbers), QuickGELUActivation()(numbers))
    assert all(isinstance(block.mlp.act, QuickGelu) for block in tiny().vision.blocks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_norms_and_gated_maps_give_what_stock_ones_give(tiny, family, dtype) -> None:
    backbone = tiny(family=family)
    for weight in backbone.parameters():
        weight.data = weight.data.to(dtype)
    stock = type(backbone.stock)(backbone.stock.config).to(dtype)
    kinds = Counter()
    for name, module in backbone.stock.named_modules():
        if isinstance(module, RmsNorm | GatedMaps):
            other = stock.get_submodule(name)
            other.load_state_dict(module.state_dict())
            width = module.weight.shape[0] if isinstance(module, RmsNorm) else module.gate_proj.in_features
            states = torch.randn(2, 5, width, generator=torch.Generator().manual_seed(0)).to(dtype)
            assert torch.equal(module(states), other(states))
            kinds[type(module)] += 1
    left = [name for name, module in backbone.stock.named_modules() if type(module).__name__.endswith("RMSNorm")]
    assert not left
    assert kinds[GatedMaps] >= 2 and kinds[RmsNorm] >= 5


@pytest.mark.parametrize("chain", [fused.quick_gelu, fused.rotate_patches, fused.gated, fused.rms_norm])
def test_a_chain_can_be_compiled_whole(chain) -> None:
    """With no break in its graph, which would make several kernels of it."""
    shapes = {
        fused.rotate_patches: [(20, 2, 8), (20, 2, 8), (20, 8), (20, 8)],
        fused.quick_gelu: [(20, 8)],
        fused.gated: [(20, 8), (20, 8)],
        fused.rms_norm: [(20, 8), (8,)],
    }[chain]
    given = [*(torch.randn(shape) for shape in shapes), *([1e-6] if chain is fused.rms_norm else [])]
    whole = torch.compile(chain.__wrapped__, fullgraph=True, dynamic=True, backend="aot_eager")
    found, expected = whole(*given), chain(*given)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() < 1e-6


def test_a_chain_has_kernels_for_all_that_the_stages_of_a_run_ask_of_it(monkeypatch) -> None:
    """Stages differ in types, axes and gradients; past torch's own limit the rest would run without kernels."""
    kernels, compiler = CompileCounter(), torch.compile

    def compile_here(function, **options):
        return compiler(function, backend=kernels, **options)

    monkeypatch.setattr(torch, "compile", compile_here)
    monkeypatch.setattr(fused, "can_compile", lambda: True)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda numbers: True))
    gated = fused.fused(fused.gated.__wrapped__)
    asked = [
        torch.zeros([3] * axes, dtype=dtype, requires_grad=learns)
        for axes in (2, 3)
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
        for learns in (True, False)
    ]
    with dynamo.patch(recompile_limit=8):
        for numbers in asked:
            gated(numbers, numbers)
    assert kernels.frame_count == len(asked) > 8


def test_what_keeps_kernels_from_being_made_is_said(monkeypatch, caplog) -> None:
    fused.can_compile.cache_clear()
    monkeypatch.setenv("COCOA_FUSED", "0")
    assert not fused.can_compile()
    assert "COCOA_FUSED=0" in caplog.text
    monkeypatch.setenv("COCOA_FUSED", "1")
    monkeypatch.setattr(fused.importlib.util, "find_spec", lambda name: None)
    fused.can_compile.cache_clear()
    assert not fused.can_compile()
    assert "triton is not installed" in caplog.text
    fused.can_compile.cache_clear()


def test_a_machine_that_cannot_make_kernels_says_what_to_do() -> None:
    def broken(graph, given):
        raise RuntimeError("Python.h: no such file")

    compiled = torch.compile(fused.quick_gelu.__wrapped__, backend=broken)
    with pytest.raises(ModelError, match="COCOA_FUSED=0") as caught:
        fused.run_compiled(compiled, torch.randn(3))
    assert caught.value.code == "E_MODEL_KERNELS"
