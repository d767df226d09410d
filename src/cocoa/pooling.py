"""Pooling: which states of the last layer become the embedding.

Shapes: M samples, N lines, S sequence, D hidden.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from cocoa.backbones.reading import states_at
from cocoa.batch import Batch
from cocoa.layouts import Role
from cocoa.options import Options
from cocoa.transfer import sent


class Pooling(Options):
    """The state of e (the paper), the mean of several bridge tokens, or the mean of all tokens (as MoCa does)."""

    kind: Literal["bridge", "mean"] = "bridge"
    """`bridge`: the bridge tokens' states, averaged; `mean`: the states of all tokens of the sample, e among them."""
    tokens: Annotated[int, Field(ge=1, le=64)] = 1
    """Bridge tokens that are put behind each sample: all the same word, told apart by their places."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> Pooling:
        if self.kind == "mean" and self.tokens > 1:
            raise ValueError("pooling mean averages all tokens; several bridge tokens are for kind bridge")
        return self

    @property
    def name(self) -> str:
        """The one word that a model folder says: `bridge`, `mean`, or `bridge-4` for four bridge tokens."""
        return self.kind if self.tokens == 1 else f"{self.kind}-{self.tokens}"

    @classmethod
    def named(cls, name: str) -> Pooling:
        """Returns the pooling of a name. Raises `ValueError` for one that is none's."""
        kind, _, tokens = name.partition("-")
        found = cls.model_validate({"kind": kind, "tokens": int(tokens or 1)})
        if found.name != name:
            raise ValueError(f"pooling {name!r} is not known")
        return found

    def places(self, batch: Batch) -> Tensor | None:
        """Returns int64 [R], the places in the flattened lines whose states are pooled; None: nearly all."""
        if self.kind == "mean":
            return None
        if self.tokens == 1:
            return batch.bridge
        return sent((batch.roles == Role.BRIDGE).flatten().nonzero()[:, 0], batch.bridge.device)

    def pool(self, states: Tensor, batch: Batch) -> Tensor:
        """Returns [M, D]: one vector, of any length, for each sample of states [N, S, D]."""
        if self.kind == "bridge" and self.tokens == 1:
            return states_at(states, batch.bridge)
        chosen = batch.roles == Role.BRIDGE if self.kind == "bridge" else batch.roles != Role.PAD
        owners = batch.samples[chosen]
        counts = torch.bincount(owners, minlength=len(batch.bridge))
        places, owners, counts = (
            sent(each, states.device) for each in (chosen.flatten().nonzero()[:, 0], owners, counts)
        )
        sums = torch.zeros(len(batch.bridge), states.shape[-1], dtype=torch.float32, device=states.device)
        return sums.index_add(0, owners, states_at(states, places).float()) / counts[:, None]


BRIDGE = Pooling()
