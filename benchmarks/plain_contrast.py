"""A gradient-cached contrastive step as VLM2Vec documents its own, each waste by itself.

Chunks of eight queries, then of eight targets and of eight hard negatives, in the order of the data, each padded to the
longest row of its side of the whole batch; the head at every position and the last layer everywhere; a square mask in
every layer; the frozen vision tower in both passes. The gradients are cached though the batch might fit.

Shapes: M rows, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.steps import Losses, Plain
from cocoa.backbones import Encoded, Kind, Seen
from cocoa.batch import Batch, collate, row_length
from cocoa.layouts import LAYOUTS, Role
from cocoa.objectives import Contrastive
from cocoa.recipe import MachineOptions
from cocoa.training.batches import EncodedPairs, cut
from cocoa.training.trainee import Trainee

WASTES = {
    "padding": "chunks of eight rows as they come, padded to the longest of their side of the batch",
    "head": "the language-model head at every position",
    "everywhere": "the last layer at every position",
    "mask": "a square boolean mask in every layer",
    "stock": "the stock modules: attention picture by picture, arithmetic line by line",
    "tower": "the frozen vision tower in both passes",
}
_ROWS = 8


@dataclass
class _Part:
    """Some rows of the step as a batch, and their places among all rows: queries, then targets, then negatives."""

    batch: Batch
    places: list[int]
    seen: Seen | None = None


def plain_step(trainee: Trainee, pairs: EncodedPairs, made: list[_Part], wastes: Sequence[str]) -> Losses:
    """Returns the loss of prepared passes; leaves their gradients in the weights."""
    [objective] = trainee.objectives
    assert isinstance(objective, Contrastive)
    parts = [replace(part) for part in made]  # nothing seen yet
    backbone = trainee.model.backbone
    vectors = torch.zeros(sum(map(len, _sides(pairs))), backbone.hidden_size, device=backbone.device)
    for part in parts:
        with torch.no_grad(), trainee.precision():
            vectors[part.places] = _embed(trainee, part, wastes)
    vectors.requires_grad_()
    queries, candidates = vectors[: len(pairs.queries)], vectors[len(pairs.queries) :]
    loss = objective.loss(queries, candidates, pairs.content.to(backbone.device))
    mean = loss.sum / loss.count
    [gradient] = torch.autograd.grad(objective.weight * mean, vectors)
    for part in parts:
        with trainee.precision():
            found = _embed(trainee, part, wastes)
        torch.autograd.backward(found, gradient[part.places])
    return {objective.name: float(mean.detach())}


def _sides(pairs: EncodedPairs) -> tuple[list[Encoded], ...]:
    return pairs.queries, pairs.targets, pairs.negatives


def prepare(trainee: Trainee, pairs: EncodedPairs, machine: MachineOptions, wastes: Sequence[str]) -> list[_Part]:
    """Returns the passes of a contrastive step with some wastes."""
    backbone = trainee.model.backbone
    rows = [trainee.model.row(sample) for side in _sides(pairs) for sample in side]
    lengths = [row_length(row) for row in rows]
    if "padding" not in wastes:
        chunks = [[place for [place] in chunk] for chunk in cut(lengths, machine, backbone.device)]
        return [_Part(collate(backbone, [rows[place] for place in places]), places) for places in chunks]
    parts = []
    ends = [0, *accumulate(map(len, _sides(pairs)))]
    for start, stop in pairwise(ends):
        longest = max(lengths[start:stop], default=0)
        for first in range(start, stop, _ROWS):
            places = list(range(first, min(first + _ROWS, stop)))
            batch = collate(backbone, [rows[place] for place in places])
            parts.append(_Part(_widened(batch, longest, backbone.text.control.pad), places))
    return parts


def _widened(batch: Batch, width: int, pad: int) -> Batch:
    """The batch with its lines padded on the right to `width`."""
    size = batch.roles.shape[1]

    def wider(tensor: Tensor, value: int) -> Tensor:
        return functional.pad(tensor, (0, width - size), value=value)

    return replace(
        batch,
        input_ids=wider(batch.input_ids, pad),
        roles=wider(batch.roles, Role.PAD),
        kinds=wider(batch.kinds, Kind.CONTROL),
        samples=wider(batch.samples, -1),
        position_ids=wider(batch.position_ids, 0),
        bridge=batch.bridge // size * width + batch.bridge % size,
    )


def _embed(trainee: Trainee, part: _Part, wastes: Sequence[str]) -> Tensor:
    model = trainee.model
    batch = part.batch.to(model.backbone.device)
    seen = part.seen
    if seen is None and batch.pixel_values is not None and not trainee.trains_vision:
        assert batch.image_grid_thw is not None
        with torch.no_grad():
            seen = model.backbone.see(batch.pixel_values, batch.image_grid_thw)
        part.seen = None if "tower" in wastes else seen
    rule = LAYOUTS[trainee.stage.layout]
    allowed = rule.allowed(batch.roles, batch.samples) if "mask" in wastes else model.allowed(batch)
    states = model.states(batch, allowed, seen, read_at=None if "everywhere" in wastes else batch.bridge)
    if "head" in wastes:
        model.backbone.logits(states)
    return functional.normalize(model.pooling.pool(states, batch).float(), dim=-1)


CONTRAST = Plain(prepare, plain_step, WASTES)
