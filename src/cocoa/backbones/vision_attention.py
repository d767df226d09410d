"""The vision tower's attention, in one call for all pictures (or windows of pictures) of one size.

Stock code calls attention once for each picture in each block, and asks the device how long each is. Where pictures are
small, or a tower looks through windows, the calls take longer than what they compute. Here rows of equal length share a
call; which do is known on the CPU, so a GPU is never waited for.

Shapes: P patches, n pictures of a call, L patches of each, H heads, F values of a head.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from cocoa.backbones.fused import rotate_patches


class VisionAttention(nn.Module):
    """Stands where the stock module stood; its weights have the same names and shapes."""

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.qkv: nn.Module = stock.qkv
        self.proj: nn.Module = stock.proj
        self.config = stock.config
        self.num_heads: int = stock.num_heads
        self.scaling: float = stock.scaling
        self.num_key_value_groups = 1  # what stock attention functions ask of a module
        self.is_causal = False
        family = vars(sys.modules[type(stock).__module__])
        self._eager: Callable[..., Any] = family["eager_attention_forward"]

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        max_seqlen: int | None = None,
        **others: Any,
    ) -> Tensor:
        """Returns [P, W], the tower's width: each patch from the patches between the same two of `cu_seqlens`."""
        query, key, value = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
        query, key = rotate_patches(query, key, *position_embeddings)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, self._eager)
        calls = calls_of(tuple(cu_seqlens.tolist()), str(hidden_states.device))
        if calls.order is not None:
            query, key, value = (part.index_select(0, calls.order) for part in (query, key, value))
        # Split in one step: the backward pass of a slice writes zeros for all that is not in it, call by call.
        parts = [part.split([number * length for number, length in calls.sizes]) for part in (query, key, value)]
        made = []
        for size, *own in zip(calls.sizes, *parts, strict=True):
            rows = [part.unflatten(0, size).transpose(1, 2) for part in own]
            states = attend(self, *rows, attention_mask=None, scaling=self.scaling, dropout=0.0, is_causal=False)[0]
            made.append(states.reshape(len(own[0]), -1))
        states = made[0] if len(made) == 1 else torch.cat(made)
        if calls.back is not None:
            states = states.index_select(0, calls.back)
        output: Tensor = self.proj(states)
        return output


class Calls:
    """Which rows share a call: `sizes`, (rows, patches of each) of each call; `order` of the patches in them, and back.

    Without an order the patches stand as they are.
    """

    def __init__(self, lengths: Sequence[int], device: str) -> None:
        runs = [(len(list(run)), length) for length, run in groupby(lengths)]
        kinds = sorted(set(lengths))
        self.sizes = runs
        self.order: Tensor | None = None
        self.back: Tensor | None = None
        # Sorting moves queries, keys and values once; worth it where it saves half of the calls.
        if len(runs) > 2 * len(kinds):
            self.sizes = [(lengths.count(length), length) for length in kinds]
            of_patch = torch.tensor(lengths).repeat_interleave(torch.tensor(lengths))
            order = of_patch.argsort(stable=True)
            self.order, self.back = order.to(device), order.argsort().to(device)


@lru_cache(maxsize=16)
def calls_of(ends: tuple[int, ...], device: str) -> Calls:
    """Returns the calls for rows that end where `ends` says (beginning with 0); the blocks of a pass share them."""
    # Tensors that are kept must not be inference tensors, which a later training pass could not use.
    with torch.inference_mode(False):
        return Calls([stop - start for start, stop in pairwise(ends)], device)
