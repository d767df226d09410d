"""InfoNCE from queries to targets: the right target must score above all others (method 4.3).

Shapes: N queries, C candidates, D hidden.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from cocoa.backbones import Backbone
from cocoa.objectives.objective import Loss, Rows
from cocoa.options import Options


class ContrastiveOptions(Options):
    """Pull each query to its target and away from all other targets and hard negatives of the batch."""

    kind: Literal["contrastive"] = "contrastive"
    rows: ClassVar[Rows] = "single"
    temperature: Annotated[float, Field(gt=0)] = 0.02
    weight: Annotated[float, Field(gt=0)] = 1.0

    def build(self, backbone: Backbone) -> Contrastive:
        """Returns the objective."""
        return Contrastive(self)


class Contrastive(torch.nn.Module):
    """InfoNCE over embeddings; in-batch and hard negatives stand together as candidates."""

    name = "contrastive"

    def __init__(self, options: ContrastiveOptions) -> None:
        super().__init__()
        self.options = options
        self.weight = options.weight

    def loss(self, queries: Tensor, candidates: Tensor, content: Tensor) -> Loss:
        """Returns the cross-entropy of finding candidate i for query i.

        `queries` [N, D] and `candidates` [C, D] have unit length; candidate i < N is the target of query i, the rest
        are hard negatives. `content` int64 [C] is equal for candidates of equal content: a candidate that is the same
        as a query's own target is not its negative.
        """
        num_queries = len(queries)
        scores = queries.float() @ candidates.float().T / self.options.temperature  # (N, C)
        right = torch.arange(num_queries, device=scores.device)
        same = content[:num_queries, None] == content[None, :]
        same[right, right] = False
        scores = scores.masked_fill(same, float("-inf"))
        return Loss(functional.cross_entropy(scores, right, reduction="sum"), num_queries)
