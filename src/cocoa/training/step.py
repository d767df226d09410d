"""One training step: rows for the objectives, forward, losses divided by their counts.

Shapes: N pairs, C candidates (targets, then hard negatives), D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cocoa.batch import Batch, closed_row, collate, joined_row, moved
from cocoa.layouts import LAYOUTS
from cocoa.model import EmbeddingModel
from cocoa.objectives import Contrastive, Loss, MaskedPatch, MaskedText, NextToken, Reconstruction, View
from cocoa.recipe import Stage
from cocoa.training.batches import EncodedPairs

Objective = MaskedText | MaskedPatch | NextToken | Contrastive


@dataclass(frozen=True)
class StepResult:
    """The loss to minimise (a scalar with gradient), each objective's own loss, and how many tokens were read."""

    total: Tensor
    losses: dict[str, float]
    num_tokens: int


def run_step(
    model: EmbeddingModel,
    stage: Stage,
    objectives: Sequence[Objective],
    pairs: EncodedPairs,
    generator: torch.Generator,
) -> StepResult:
    """Returns the losses of one batch of pairs; the caller goes backward and steps the optimiser."""
    rebuilders = [objective for objective in objectives if not isinstance(objective, Contrastive)]
    losses: dict[str, Loss] = {}
    num_tokens = 0
    if rebuilders:
        batch = joined_batch(model, stage, pairs)
        num_tokens += batch.num_tokens
        losses |= reconstruct(model, stage, rebuilders, batch, generator)
    for objective in objectives:
        if isinstance(objective, Contrastive):
            losses[objective.name] = _contrast(model, objective, pairs)
            num_tokens += sum(len(sample) + 1 for sample in [*pairs.queries, *pairs.targets, *pairs.negatives])
    # Only here is a sum divided, by the count of the whole batch; an objective with nothing to predict adds nothing.
    shares = [objective.weight * mean(losses[objective.name]) for objective in objectives]
    return StepResult(
        torch.stack(shares).sum(), {name: float(mean(loss).detach()) for name, loss in losses.items()}, num_tokens
    )


def mean(loss: Loss) -> Tensor:
    """Returns a loss a prediction; 0 where there was nothing to predict."""
    return loss.sum / max(1, loss.count)


def joined_batch(model: EmbeddingModel, stage: Stage, pairs: EncodedPairs) -> Batch:
    """Returns each pair as one row, with the bridge token where the stage's layout or objectives want it."""
    backbone, size = model.backbone, model.max_tokens
    both = zip(pairs.queries, pairs.targets, strict=True)
    if any(options.rows == "closed" for options in stage.objectives):
        return collate(backbone, [closed_row(backbone, query, target, size) for query, target in both])
    bridged = LAYOUTS[stage.layout].bridged
    return collate(backbone, [joined_row(backbone, query, target, size, bridged=bridged) for query, target in both])


def reconstruct(
    model: EmbeddingModel,
    stage: Stage,
    objectives: Sequence[Reconstruction],
    batch: Batch,
    generator: torch.Generator,
) -> dict[str, Loss]:
    """Returns the loss of each objective that hides a part of joined rows; all share one forward pass."""
    hidden = []
    for objective in objectives:
        # Chosen on the CPU, so that every device hides the same.
        batch, parts = objective.hide(batch, generator)
        hidden.append(moved(parts, model.backbone.device))
    view = look(model, stage.layout, batch)
    return {objective.name: objective.loss(view, parts) for objective, parts in zip(objectives, hidden, strict=True)}


def look(model: EmbeddingModel, layout: str, batch: Batch) -> View:
    """Returns the model's states of a batch under a layout, with all that made them."""
    batch = batch.to(model.backbone.device)
    allowed = LAYOUTS[layout].allowed(batch.roles)
    return View(model.backbone, batch, allowed, model.states(batch, allowed))


def _contrast(model: EmbeddingModel, objective: Contrastive, pairs: EncodedPairs) -> Loss:
    vectors = model.embed_all([*pairs.queries, *pairs.targets, *pairs.negatives])
    num_queries = len(pairs.queries)
    return objective.loss(vectors[:num_queries], vectors[num_queries:], pairs.content.to(vectors.device))
