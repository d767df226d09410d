"""A step of reconstruction as peers run it, each waste by itself.

The whole batch in one pass padded to its longest row, the head at every position, and the last layers at those too that
nothing reads, a square boolean mask in every layer, each picture opened once to count its tokens and once to train on
it; the stock library's own modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.steps import Losses, Plain
from cocoa.backbones import Backbone
from cocoa.batch import Batch, Row, collate, moved, row_length
from cocoa.layouts import LAYOUTS
from cocoa.model import EmbeddingModel
from cocoa.objectives import Draws, Loss, MaskedText, View
from cocoa.recipe import MachineOptions
from cocoa.training.batches import EncodedPairs, cut
from cocoa.training.reconstruct import HiddenChunk, hide, look, stage_row
from cocoa.training.trainee import Trainee

WASTES = {
    "padding": "one pass over the whole batch, padded to its longest row",
    "head": "the language-model head at every position",
    "unread": "the last layer, and the patch decoder's, at every position",
    "mask": "a square boolean mask in every layer",
    "stock": "the stock modules: attention picture by picture, arithmetic line by line",
    "reading": "each picture opened twice, to count its tokens and to train on it",
}


def prepare(trainee: Trainee, pairs: EncodedPairs, machine: MachineOptions, wastes: Sequence[str]) -> list[HiddenChunk]:
    """Returns the passes of a step of reconstruction with some wastes."""
    model, stage = trainee.model, trainee.stage
    rows = [stage_row(model, stage, query, target) for query, target in zip(pairs.queries, pairs.targets, strict=True)]
    device = model.backbone.device
    passes = [list(range(len(rows)))] if "padding" in wastes else _sorted_passes(rows, machine, device)
    draws = Draws(0, tuple(pairs.numbers))
    objectives: list[Any] = list(trainee.objectives)
    batches = [collate(model.backbone, [rows[place] for place in places]) for places in passes]
    return [hide(objectives, batch, draws, places) for batch, places in zip(batches, passes, strict=True)]


def plain_step(trainee: Trainee, pairs: EncodedPairs, made: list[HiddenChunk], wastes: Sequence[str]) -> Losses:
    """Returns the losses of prepared passes; leaves their gradients in the weights."""
    objectives: list[Any] = list(trainee.objectives)
    totals = [sum(chunk.hidden[number].count for chunk in made) for number in range(len(objectives))]
    sums = [0.0] * len(objectives)
    for chunk in made:
        with trainee.precision():
            loss = _loss(trainee, chunk, totals, sums, wastes)
        loss.backward()  # type: ignore[no-untyped-call]
    return {o.name: each / max(1, total) for o, each, total in zip(objectives, sums, totals, strict=True)}


def _loss(
    trainee: Trainee, chunk: HiddenChunk, totals: Sequence[int], sums: list[float], wastes: Sequence[str]
) -> Tensor:
    """What a pass adds to the loss; the sums of all objectives are added to `sums`."""
    model, layout, batch = trainee.model, trainee.stage.layout, chunk.batch
    reads = None if "unread" in wastes else chunk.reads
    view = _look_square(model, layout, batch, reads) if "mask" in wastes else look(model, layout, batch, reads)
    shares = []
    for number, (objective, parts) in enumerate(zip(trainee.objectives, chunk.hidden, strict=True)):
        everywhere = "head" in wastes and isinstance(objective, MaskedText)
        parts = moved(parts, view.states.device)
        with _decoding_everywhere(view.backbone) if "unread" in wastes else nullcontext():
            found: Loss = _loss_everywhere(view, parts) if everywhere else objective.loss(view, parts)  # type: ignore[operator]
        shares.append(objective.weight * found.sum / max(1, totals[number]))  # type: ignore[operator]
        sums[number] += float(found.sum.detach())
    return torch.stack(shares).sum()


def _sorted_passes(rows: Sequence[Row], machine: MachineOptions, device: torch.device) -> list[list[int]]:
    chunks = cut([row_length(row) for row in rows], machine, device)
    return [[place for line in chunk for place in line] for chunk in chunks]


def _look_square(model: EmbeddingModel, layout: str, batch: Batch, reads: Tensor | None) -> View:
    device = model.backbone.device
    read_at = None if reads is None else reads.flatten().nonzero()[:, 0].to(device)
    allowed = LAYOUTS[layout].allowed(batch.roles, batch.samples).to(device)
    batch = batch.to(device)
    return View(model.backbone, batch, allowed, model.states(batch, allowed, read_at=read_at))


@contextmanager
def _decoding_everywhere(backbone: Backbone) -> Iterator[None]:
    """Makes a decoder's layer be computed at every position."""
    once = backbone.decode_once
    backbone.decode_once = lambda *given, read_at=None: once(*given)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del backbone.decode_once


def _loss_everywhere(view: View, hidden: Any) -> Loss:
    """Cross-entropy as stock heads do it: scores of all positions, labels of -100 where nothing is hidden."""
    logits = view.backbone.logits(view.states)
    labels = torch.full_like(view.batch.input_ids, -100)
    labels[hidden.places] = hidden.words
    # The state at i - 1 predicts the word at i.
    scores, shifted = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return Loss(functional.cross_entropy(scores, shifted, ignore_index=-100, reduction="sum"), len(hidden.words))


RECONSTRUCTION = Plain(prepare, plain_step, WASTES)
