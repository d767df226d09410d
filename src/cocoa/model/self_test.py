"""The self-test on loading: attention looks where the layout says, and golden vectors come out again."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cocoa.batch import collate
from cocoa.errors import ModelError
from cocoa.layouts import LAYOUTS
from cocoa.model.embedding_model import EmbeddingModel
from cocoa.model.golden import Golden
from cocoa.sample import Sample

SMALLEST_COSINE = {torch.float32: 1 - 1e-5, torch.float16: 0.999, torch.bfloat16: 0.98}
"""What a golden vector must reach in a type of weights; bfloat16 has three digits."""


def self_test(model: EmbeddingModel, golden: Golden, where: str) -> None:
    """Raises `E_MODEL_ATTENTION` or `E_MODEL_GOLDEN`, saying what is wrong, unless the model is the one saved."""
    try:
        check_attention(model)
        check_golden(model, golden)
    except ModelError as error:
        raise error.at(where) from error


def check_attention(model: EmbeddingModel) -> None:
    """Raises `E_MODEL_ATTENTION` unless the last token reaches the first one's state, or does not, as the layout says.

    In a causal layout the difference must be exactly 0.
    """
    causal = LAYOUTS[model.layout].causal
    said = bool(getattr(model.backbone.stock.config.text_config, "is_causal", True))
    if said != causal:
        raise ModelError("E_MODEL_ATTENTION", f"config.json says is_causal={said}, the layout is {model.layout}")
    change = _change_of_first_state(model)
    if causal and change != 0:
        raise ModelError("E_MODEL_ATTENTION", f"the last token changes the first by {change:.1e}: not causal")
    if not causal and not change > 0:
        raise ModelError("E_MODEL_ATTENTION", "the last token does not reach the first: attention is causal")


@torch.inference_mode()
def _change_of_first_state(model: EmbeddingModel) -> float:
    backbone = model.backbone
    row = model.row(backbone.encode(Sample("a red apple and a green pear")))
    batch = collate(backbone, [row]).to(backbone.device)
    changed = batch.input_ids.clone()
    changed[0, -1] = backbone.text.control.mask

    def first_state(input_ids: Tensor) -> Tensor:
        # One row at a time: equal shapes, so equal arithmetic, and a difference of 0 can be exactly 0.
        return model.states(batch.replace(input_ids=input_ids), model.allowed(batch))[0, 0]

    return float((first_state(changed) - first_state(batch.input_ids)).abs().max())


def check_golden(model: EmbeddingModel, golden: Golden) -> None:
    """Raises `E_MODEL_GOLDEN` unless every golden vector comes out again, as near as the type of weights allows."""
    if difference := golden.difference(model):
        raise ModelError("E_MODEL_GOLDEN", f"not the settings that the golden vectors were made with: {difference}")
    if not golden.inputs:
        return
    cosines = golden.cosines(model.encode([one.sample for one in golden.inputs]))
    worst = int(np.argmin(cosines))
    if not cosines[worst] >= SMALLEST_COSINE[model.dtype]:
        raise ModelError(
            "E_MODEL_GOLDEN",
            f"{golden.inputs[worst].kind} input {worst} has cosine {cosines[worst]:.6f} with its golden vector, "
            f"{SMALLEST_COSINE[model.dtype]:.6f} is needed: these are not the weights or settings that were saved",
        )
