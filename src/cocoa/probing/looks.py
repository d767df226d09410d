"""Who looks at e, and what e looks at, layer by layer: shares of the attention when the model embeds.

Shapes: N lines, H heads, S sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from cocoa.backbones import Backbone, Kind
from cocoa.batch import Batch, collate, row_length
from cocoa.chunks import padded_chunks
from cocoa.layouts import LAYOUTS, Role
from cocoa.model import EmbeddingModel
from cocoa.model.evaluating import evaluating
from cocoa.probing.layers import outputs_of
from cocoa.sample import Sample

_MOST_TOKENS = 2048
"""Of one pass: attention that is written out takes memory by the square of a line's length."""
SHARES = ("content_to_e", "content_to_e_if_even", "e_to_text", "e_to_image", "e_to_itself")


@torch.inference_mode()
def attention_shares(model: EmbeddingModel, samples: Sequence[Sample]) -> list[dict[str, float]]:
    """Returns the shares of each layer, each in [0, 1], the mean over heads and then over samples.

    `content_to_e`: of the attention of A's words and visual tokens, what goes to e; `content_to_e_if_even`: what it
    would be if each looked at all that it may look at alike. `e_to_text`, `e_to_image`, `e_to_itself`: where e looks;
    what is left goes to control tokens such as the tags around a picture. Several bridge tokens count as one e.
    """
    totals = np.zeros((len(model.backbone.layers), len(SHARES)))
    rows = [model.row(model.backbone.encode(sample)) for sample in samples]
    with evaluating(model):
        for chunk in padded_chunks([row_length(row) for row in rows], _MOST_TOKENS):
            batch = collate(model.backbone, [rows[place] for [place] in chunk]).to(model.backbone.device)
            allowed = LAYOUTS[model.layout].allowed(batch.roles, batch.samples).to(model.backbone.device)
            attentions = [layer.get_submodule("self_attn") for layer in model.backbone.layers]
            with _written_out(model.backbone), outputs_of(attentions, number=1) as weights:
                model.states(batch, allowed)
            even = allowed.float() / allowed.sum(-1, keepdim=True)
            for number, weight in enumerate(weights):
                totals[number] += _shares(weight.float().mean(1), even[:, 0], batch).sum(0).cpu().numpy()
    return [dict(zip(SHARES, layer.tolist(), strict=True)) for layer in totals / len(samples)]


def _shares(weights: Tensor, even: Tensor, batch: Batch) -> Tensor:
    """[N, shares]: those of each line, from the attention [N, S, S] of its queries to its keys."""
    roles = batch.roles.to(weights.device)
    is_e = roles == Role.BRIDGE
    is_text = (roles == Role.CONTEXT) & (batch.kinds == Kind.TEXT)
    is_image = (roles == Role.CONTEXT) & (batch.kinds == Kind.IMAGE)
    content = is_text | is_image
    return torch.stack(
        [
            _mass(weights, content, is_e),
            _mass(even, content, is_e),
            _mass(weights, is_e, is_text),
            _mass(weights, is_e, is_image),
            _mass(weights, is_e, is_e),
        ],
        1,
    )


def _mass(weights: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """[N]: the mean over a line's `queries` [N, S] of the attention that goes to its `keys` [N, S]."""
    to_keys = (weights * keys[:, None, :]).sum(-1)
    return (to_keys * queries).sum(-1) / queries.sum(-1).clamp(min=1)


@contextmanager
def _written_out(backbone: Backbone) -> Iterator[None]:
    """Makes the language model compute attention step by step: fused kernels never have the weights as numbers."""
    config = backbone.stock.config.text_config
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before
