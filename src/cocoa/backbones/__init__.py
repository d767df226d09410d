"""Backbones: a vision-language model behind one interface."""

import torch

from cocoa.backbones.encoded import Encoded, Kind
from cocoa.backbones.loading import check_weights, load_backbone
from cocoa.backbones.nano import NANO, NANO_UNTRAINED, load_nano
from cocoa.backbones.qwen_vl import Backbone
from cocoa.backbones.seen import Seen
from cocoa.errors import ModelError


def open_backbone(
    name: str,
    *,
    revision: str | None = None,
    attention: str = "split",
    dtype: torch.dtype = torch.float32,
    weights: bool = True,
) -> Backbone:
    """Returns the backbone that a recipe names: `nano` (ships here), `nano-untrained`, a model folder or a hub id.

    `revision` and `weights` are those of `load_backbone`. Nano has no revisions and is always opened in float32.
    """
    if name not in (NANO, NANO_UNTRAINED):
        return load_backbone(name, revision=revision, attention=attention, dtype=dtype, weights=weights)
    if revision is not None:
        raise ModelError("E_MODEL_REVISION", f"{name!r} ships with the package; only a model on the hub has revisions")
    return load_nano(attention=attention, trained=name == NANO, weights=weights)


__all__ = [
    "NANO",
    "NANO_UNTRAINED",
    "Backbone",
    "Encoded",
    "Kind",
    "Seen",
    "check_weights",
    "load_backbone",
    "open_backbone",
]
