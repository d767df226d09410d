"""What each layer of the language model holds: the embedding as it would be if the model ended there.

Shapes: L layers, M samples, N questions, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cocoa.batch import collate, row_length
from cocoa.chunks import padded_chunks
from cocoa.layouts import LAYOUTS
from cocoa.model import EmbeddingModel
from cocoa.model.evaluating import evaluating
from cocoa.sample import Sample

_WINDOW = 128
"""Samples whose pictures are in memory at once."""
_MOST_TOKENS = 16_384


@torch.inference_mode()
def vectors_by_layer(model: EmbeddingModel, samples: Sequence[Sample]) -> NDArray[np.float32]:
    """Returns float32 [L, M, D] of unit length: what the model's pooling makes of each layer's states.

    The last layer's are taken after the final norm: they are the embeddings.
    """
    found = np.zeros((len(model.backbone.layers), len(samples), model.backbone.hidden_size), np.float32)
    with evaluating(model):
        for start in range(0, len(samples), _WINDOW):
            rows = [model.row(model.backbone.encode(sample)) for sample in samples[start : start + _WINDOW]]
            for chunk in padded_chunks([row_length(row) for row in rows], _MOST_TOKENS, model.backbone.device.type):
                places = [place for [place] in chunk]
                batch = collate(model.backbone, [rows[place] for place in places]).to(model.backbone.device)
                with outputs_of(model.backbone.layers) as states:
                    last = model.states(batch, LAYOUTS[model.layout].allowed(batch.roles, batch.samples))
                for number, state in enumerate([*states[:-1], last]):
                    vectors = functional.normalize(model.pooling.pool(state, batch).float(), dim=-1)
                    found[number, [start + place for place in places]] = vectors.cpu().numpy()
    return found


@contextmanager
def outputs_of(modules: Sequence[nn.Module] | nn.ModuleList, *, number: int = 0) -> Iterator[list[Tensor]]:
    """Gives a list that fills with what each module puts out as it runs; of several things, the `number`-th."""
    found: list[Tensor] = []

    def see(module: nn.Module, given: Any, output: Any) -> None:
        found.append(output[number] if isinstance(output, tuple) else output)

    hooks = [module.register_forward_hook(see) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def hit_at_1(
    queries: NDArray[np.float32], targets: NDArray[np.float32], tasks: Sequence[str], keys: Sequence[str]
) -> float | None:
    """Returns the share of queries [N, D] that are nearer to their own target [N, D] than to any other of their task.

    `keys` tell which targets are equal; an equal one is no rival, and a tie is lost. None where nobody has a rival.
    """
    scores = queries.astype(np.float64) @ targets.astype(np.float64).T
    own = scores.diagonal()
    is_rival = np.equal.outer(np.array(tasks), np.array(tasks)) & np.not_equal.outer(np.array(keys), np.array(keys))
    asked = is_rival.any(1)
    best = np.where(is_rival, scores, -np.inf).max(1)
    return float((own > best)[asked].mean()) if asked.any() else None
