"""Adapters in bfloat16: they read what a layer reads, as it is, and learn what they learn in float32."""

from __future__ import annotations

import pytest
import torch
from stages import LARGE, calm_backbone, gradients, make_pairs, make_recipe, ready

from cocoa.planning.ledger import LiveBytes

MIXED = "precision: bfloat16"


def step(sample, extra: str, top: str = "", *, cast: bool = False):
    """The losses and gradients of a step with adapters that are no longer 0, and the most bytes that it held.

    With fewer layers the most is held by the head.
    """
    setup = ready(calm_backbone(num_layers=4), make_recipe("bridge", extra, top))
    assert setup.adapter is not None
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in setup.trainee.trained.values():
            weight.add_(0.05 * torch.randn(weight.shape, generator=draws))
    if cast:
        for name in setup.adapter.names:
            setup.trainee.model.backbone.stock.get_submodule(name).cast_input_dtype_enabled = True
    with LiveBytes() as held:
        tally, found = gradients(setup, make_pairs(sample), LARGE)
    return tally.losses, found, held.peak


@pytest.mark.parametrize("dora", ["false", "true"])
def test_a_mixed_step_is_a_float32_step_up_to_rounding_in_less_memory(sample, dora: str) -> None:
    extra = f"adapter: {{dropout: 0.0, dora: {dora}}}"
    losses, expected, _ = step(sample, extra)
    mixed_losses, found, peak = step(sample, extra, MIXED)
    assert mixed_losses == pytest.approx(losses, rel=0.02)
    norm = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    apart = torch.stack([(found[name] - gradient).norm() for name, gradient in expected.items()]).norm()
    assert apart < 0.1 * norm
    cast_losses, _, cast_peak = step(sample, extra, MIXED, cast=True)
    assert cast_losses == pytest.approx(mixed_losses, rel=0.01)
    assert peak < 0.97 * cast_peak


def test_new_adapters_of_either_kind_compute_the_same_in_bfloat16(sample) -> None:
    told = {}
    for dora in ("false", "true"):
        setup = ready(
            calm_backbone(num_layers=4), make_recipe("bridge", f"adapter: {{dora: {dora}, dropout: 0.0}}", MIXED)
        )
        told[dora], _ = gradients(setup, make_pairs(sample), LARGE)
    assert told["true"].losses == told["false"].losses, "LoRA's product is 0 yet, so nothing may differ"
