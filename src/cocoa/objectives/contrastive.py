"""InfoNCE from queries to targets: the right target must score above all others (method 4.3).

Shapes: N queries, C candidates, D hidden.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from cocoa.backbones import Backbone
from cocoa.errors import RecipeError
from cocoa.objectives.objective import Loss, Rows
from cocoa.options import Options


class ContrastiveOptions(Options):
    """Pull each query to its target and away from all other targets and hard negatives of the batch."""

    kind: Literal["contrastive"] = "contrastive"
    rows: ClassVar[Rows] = "single"
    temperature: Annotated[float, Field(gt=0)] = 0.02
    dimensions: tuple[Annotated[int, Field(gt=0)], ...] = ()
    """Matryoshka: the first so many dimensions alone must find the target too (arXiv 2205.13147), each as much as the
    whole vector."""
    weight: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _dimensions_differ(self) -> ContrastiveOptions:
        if len(set(self.dimensions)) < len(self.dimensions):
            raise ValueError("a dimension is listed twice")
        return self

    def build(self, backbone: Backbone) -> Contrastive:
        """Returns the objective; raises what `check` raises."""
        self.check(backbone.hidden_size)
        return Contrastive(self)

    def check(self, hidden_size: int) -> None:
        """Raises `E_RECIPE_OPTION` for a dimension that is not below the model's."""
        if wrong := [size for size in self.dimensions if size >= hidden_size]:
            raise RecipeError(
                "E_RECIPE_OPTION", f"contrastive dimension {wrong[0]} is not below the model's {hidden_size}"
            )


class Contrastive(torch.nn.Module):
    """InfoNCE over embeddings; in-batch and hard negatives stand together as candidates."""

    name = "contrastive"

    def __init__(self, options: ContrastiveOptions) -> None:
        super().__init__()
        self.options = options
        self.weight = options.weight

    def loss(self, queries: Tensor, candidates: Tensor, content: Tensor, right: Tensor | None = None) -> Loss:
        """Returns the cross-entropy of finding each query's target; with `dimensions`, its mean over all lengths.

        `queries` [N, D] and `candidates` [C, D] have unit length; `right` int64 [N] is the place of each query's target
        among the candidates (without it candidate i is the target of query i), all others are its negatives.
        `content` int64 [C] is equal for candidates of equal content: a candidate that is the same as a query's own
        target is not its negative.
        """
        if right is None:
            right = torch.arange(len(queries), device=queries.device)
        same = content[right][:, None] == content[None, :]
        same[torch.arange(len(queries), device=same.device), right] = False
        full = queries.shape[1]
        total = queries.new_zeros((), dtype=torch.float32)
        sizes = (*self.options.dimensions, full)
        for size in sizes:
            own, others = queries.float()[:, :size], candidates.float()[:, :size]
            if size < full:
                own, others = functional.normalize(own, dim=-1), functional.normalize(others, dim=-1)
            scores = own @ others.T / self.options.temperature  # (N, C)
            scores = scores.masked_fill(same, float("-inf"))
            total = total + functional.cross_entropy(scores, right, reduction="sum")
        return Loss(total / len(sizes), len(queries))
