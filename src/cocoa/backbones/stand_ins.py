"""Modules that stand where stock ones stood: the same weights under the same names, the same numbers, less to do.

A folder that is saved with them is a stock folder.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

from cocoa.backbones.fused import gated, quick_gelu, rms_norm
from cocoa.backbones.patch_embedding import PatchEmbedding
from cocoa.backbones.vision_attention import VisionAttention


class RmsNorm(nn.Module):
    """A norm of the language model, or of a tower that has them."""

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.weight: nn.Parameter = stock.weight
        self.variance_epsilon: float = stock.variance_epsilon

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Returns [..., D]: states of mean square 1, times the weight."""
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)


class GatedMaps(nn.Module):
    """The maps behind an attention: one gates another, and a third leads back."""

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.gate_proj: nn.Module = stock.gate_proj
        self.up_proj: nn.Module = stock.up_proj
        self.down_proj: nn.Module = stock.down_proj

    def forward(self, states: Tensor) -> Tensor:
        """Returns [..., D], place by place."""
        result: Tensor = self.down_proj(gated(self.gate_proj(states), self.up_proj(states)))
        return result


class QuickGelu(nn.Module):
    """The activation of Qwen2-VL's tower."""

    def forward(self, numbers: Tensor) -> Tensor:
        """Returns `quick_gelu` of numbers of any shape."""
        return quick_gelu(numbers)


def add_seen(hidden_states: Tensor, visual_pos_masks: Tensor, visual_embeds: Tensor) -> Tensor:
    """Returns states [N, S, D] with features [T, D] added where a mask, bool [N, S], has its T places.

    Stock code (of Qwen3-VL) asks for these places, and a GPU that is asked is waited for.
    """
    spread = torch.zeros_like(hidden_states)
    return hidden_states + spread.masked_scatter(visual_pos_masks[..., None], visual_embeds.to(hidden_states.dtype))


def put_stand_ins(stock: Any) -> None:
    """Puts stand-ins into a stock model that has none yet."""
    tower, language = stock.model.visual, stock.model.language_model
    if hasattr(language, "_deepstack_process"):
        language._deepstack_process = add_seen
    tower.patch_embed = PatchEmbedding(tower.patch_embed)
    for block in tower.blocks:
        block.attn = VisionAttention(block.attn)
    for parent in list(stock.modules()):
        for name, child in list(parent.named_children()):
            if (stand_in := _stand_in(child)) is not None:
                setattr(parent, name, stand_in)


def _stand_in(module: Any) -> nn.Module | None:
    kind = type(module).__name__
    if kind.endswith("RMSNorm"):
        return RmsNorm(module)
    if kind.endswith("MLP") and hasattr(module, "gate_proj") and type(module.act_fn).__name__.startswith("SiLU"):
        return GatedMaps(module)
    return QuickGelu() if isinstance(module, QuickGELUActivation) else None
