"""How a backbone's language model attends: by segments, or through a square mask.

`split`: PyTorch's fused attention over the pairs that a layout allows, see `cocoa.looks`; `sdpa`: the same kernel and a
square mask; `eager`: plain products and a square mask, the slow truth that both are held against.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from cocoa.looks import Looks

AttentionName = Literal["split", "sdpa", "eager"]
_SPLIT = "cocoa_split"


def split_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    looks: Looks | None = None,
    is_causal: bool | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Returns [N, S, H, D] and no weights; without `looks`, as when the stock model generates, it is stock `sdpa`."""
    if looks is None:
        states, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **others
        )
        return states, None

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        # The configuration's own `is_causal` speaks of whole rows; the looks say what holds here.
        states: Tensor = sdpa_attention_forward(
            module, query, key, value, mask, dropout=dropout, scaling=scaling, is_causal=causal
        )[0]
        return states

    return looks.attend(attend, query, key, value), None


AttentionInterface.register(_SPLIT, split_attention)
AttentionMaskInterface.register(_SPLIT, sdpa_mask)


def stock_attention(name: AttentionName | str) -> str | dict[str, str]:
    """Returns what `transformers` is told for an attention; the vision tower has no layout and never splits."""
    return {"": "sdpa", "text_config": _SPLIT, "vision_config": "sdpa"} if name == "split" else name


def attention_name(stock: Any) -> str:
    """Returns the attention of a stock model's language model."""
    name = str(stock.config.text_config._attn_implementation)
    return "split" if name == _SPLIT else name
