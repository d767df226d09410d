"""The reconstruction half of a step: rows with a part hidden, forward and backward, chunk by chunk.

Shapes: N lines, S sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cocoa.backbones import Encoded
from cocoa.batch import Batch, Row, apart_row, aside_length, closed_row, collate, joined_row, moved, row_length
from cocoa.chunks import Chunk, bounded, flattened
from cocoa.layouts import LAYOUTS
from cocoa.looks import Looks, placed
from cocoa.model import EmbeddingModel
from cocoa.objectives import Draws, Loss, Reconstruction, View
from cocoa.objectives.light_decoder import looks_apart
from cocoa.recipe import MachineOptions, Stage
from cocoa.training.batches import EncodedPairs, cut, idle_pairs
from cocoa.training.ranks import Ranks
from cocoa.training.tally import Tally
from cocoa.training.trainee import Trainee
from cocoa.transfer import sent


@dataclass(frozen=True)
class HiddenChunk:
    """One forward pass to come: the batch as it will be seen, what each objective hid in it, its pairs' places, and
    `reads`, bool [N, S], where objectives read the last states (None: everywhere).

    `looks` are the batch's, `apart_looks` those of its targets that stand apart; None where the pass works them out.
    """

    batch: Batch
    hidden: list[Any]
    places: list[int]
    reads: Tensor | None
    looks: Looks | None = None
    apart_looks: Looks | None = None

    def with_looks(self, model: EmbeddingModel, layout: str | None = None) -> HiddenChunk:
        """Returns the chunk with its looks worked out, where attention takes any: a square mask is too large to keep
        for each pass of a step."""
        apart = None if self.batch.apart is None else looks_apart(model.backbone, self.batch.apart)
        return replace(self, looks=model.looks(self.batch, layout), apart_looks=apart)


def reconstruct_backward(
    trainee: Trainee,
    objectives: Sequence[Reconstruction],
    pairs: EncodedPairs,
    ranks: Ranks,
    machine: MachineOptions,
    seed: int,
    chunks: Sequence[HiddenChunk] | None = None,
) -> Tally:
    """Adds the gradients of this rank's pairs, each objective divided by its count over all ranks; returns the sums.

    All objectives of a stage share one forward pass a chunk. `chunks` are the `hidden_chunks` of the same arguments, if
    they were made before.
    """
    model, stage = trainee.model, trainee.stage
    if chunks is None:
        chunks = hidden_chunks(model, stage, objectives, pairs, machine, seed)

    def view_of(chunk: HiddenChunk) -> View:
        return look(model, stage.layout, chunk.batch, chunk.reads, looks=chunk.looks, apart_looks=chunk.apart_looks)

    idle = None
    if trainee.is_sharded and not chunks:
        [idle] = hidden_chunks(model, stage, objectives, idle_pairs(model.backbone), machine, seed)
    tally = predict_backward(trainee, objectives, chunks, view_of, ranks, idle)
    for chunk in chunks:
        tally.read(chunk.batch, model.num_looks(chunk.batch, chunk.looks, stage.layout))
    return tally


def predict_backward(
    trainee: Trainee,
    objectives: Sequence[Reconstruction],
    chunks: Sequence[HiddenChunk],
    view_of: Callable[[HiddenChunk], View],
    ranks: Ranks,
    idle: HiddenChunk | None = None,
) -> Tally:
    """Adds the gradients of predicting what is hidden in this rank's chunks; returns the sums.

    `view_of` runs the forward pass of a chunk. Each objective is divided by its count over all ranks. `idle` is what a
    rank without chunks computes while others do, with nothing at stake; None where that takes no gathered layers.
    """
    tally = Tally()
    for objective in objectives:
        tally.add(objective.name, 0.0, 0)
    counts = torch.tensor(
        [sum(chunk.hidden[number].count for chunk in chunks) for number in range(len(objectives))], dtype=torch.float64
    )
    totals = ranks.total(counts).tolist()
    # Sharded weights are gathered in every pass, by all ranks at once: one that is done goes on with nothing at stake.
    num_passes = ranks.most(len(chunks)) if trainee.is_sharded else len(chunks)
    for number in range(num_passes):
        at_stake = number < len(chunks)
        chunk = chunks[number] if at_stake else next(iter(chunks), idle)
        losses: list[Loss] = []

        def work(chunk: HiddenChunk | None = chunk, losses: list[Loss] = losses) -> Tensor:
            if chunk is None:
                return torch.zeros((), device=ranks.device)
            view = view_of(chunk)
            losses.extend(
                objective.loss(view, moved(hidden, view.states.device))
                for objective, hidden in zip(objectives, chunk.hidden, strict=True)
            )
            shares = [
                objective.weight * loss.sum / max(1.0, total)
                for objective, loss, total in zip(objectives, losses, totals, strict=True)
            ]
            return torch.stack(shares).sum()

        loss = trainee(work)
        torch.autograd.backward(loss * (trainee.gradient_scale(ranks) if at_stake else 0))
        if at_stake:
            for objective, part in zip(objectives, losses, strict=True):
                tally.add(objective.name, part.sum.detach(), part.count)
    return tally


def hidden_chunks(
    model: EmbeddingModel,
    stage: Stage,
    objectives: Sequence[Reconstruction],
    pairs: EncodedPairs,
    machine: MachineOptions,
    seed: int,
) -> list[HiddenChunk]:
    """Returns the forward passes of a step, with what is hidden in each; depends on the pairs and the seed alone."""
    both = zip(pairs.queries, pairs.targets, strict=True)
    rows = [stage_row(model, stage, query, target) for query, target in both]
    draws = Draws(seed, tuple(pairs.numbers))
    made = []
    for chunk in cut_rows(rows, machine, model.backbone.device):
        places, lines = flattened(chunk)
        batch = collate(model.backbone, [rows[place] for place in places], lines)
        made.append(hide(objectives, batch, draws, places).with_looks(model, stage.layout))
    return made


def cut_rows(rows: Sequence[Row], machine: MachineOptions, device: torch.device) -> list[Chunk]:
    """Returns the forward passes for rows, in none of which they or the targets apart from them exceed a chunk."""
    aside = [aside_length(row) for row in rows]
    chunks = cut([row_length(row) for row in rows], machine, device)
    return [part for chunk in chunks for part in bounded(chunk, aside, machine.chunk_tokens)]


def hide(objectives: Sequence[Reconstruction], batch: Batch, draws: Draws, places: list[int]) -> HiddenChunk:
    """Returns a batch of the pairs at `places` with all that the objectives hide in it."""
    hidden = []
    for objective in objectives:
        # Chosen on the CPU, so that every device hides the same.
        batch, parts = objective.hide(batch, draws.part(places))
        hidden.append(parts)
    reads: Tensor | None = torch.zeros_like(batch.is_text)
    for objective, parts in zip(objectives, hidden, strict=True):
        own = objective.reads(batch, parts)
        reads = None if reads is None or own is None else reads | own
    return HiddenChunk(batch, hidden, places, reads)


def stage_row(model: EmbeddingModel, stage: Stage, query: Encoded, target: Encoded) -> Row:
    """Returns a pair as one row, with the bridge token where the stage's layout or objectives want it."""
    if any(options.rows == "closed" for options in stage.objectives):
        return closed_row(model.backbone, query, target, model.max_tokens)
    num_bridges = model.pooling.tokens
    if any(options.rows == "apart" for options in stage.objectives):
        return apart_row(model.backbone, query, target, model.max_tokens, num_bridges)
    bridged = LAYOUTS[stage.layout].bridged
    return joined_row(model.backbone, query, target, model.max_tokens, bridged=bridged, num_bridges=num_bridges)


def look(
    model: EmbeddingModel,
    layout: str,
    batch: Batch,
    reads: Tensor | None = None,
    *,
    looks: Looks | None = None,
    apart_looks: Looks | None = None,
) -> View:
    """Returns the model's states of a batch under a layout, with all that made them.

    With `reads`, bool [N, S], the last layer is computed there and where vectors are pooled from; other states are 0.
    `looks` and `apart_looks` are as in `HiddenChunk`, if they were made before.
    """
    allowed = model.allowed(batch, layout) if looks is None else looks.anew()
    read_at = None if reads is None else _places_read(model, batch, reads)
    batch = batch.to(model.backbone.device)
    allowed = placed(allowed, model.backbone.device)
    states = model.states(batch, allowed, read_at=read_at)
    vectors = None if batch.apart is None else model.pooling.pool(states, batch)
    return View(model.backbone, batch, allowed, states, vectors, apart_looks)


def _places_read(model: EmbeddingModel, batch: Batch, reads: Tensor) -> Tensor | None:
    """The places as the last layer takes them, with those that vectors are pooled from; found where the batch is."""
    flat = reads.flatten()
    if batch.apart is not None:
        pooled = model.pooling.places(batch)
        if pooled is None:
            return None
        flat = flat.index_fill(0, pooled, True)
    return sent(flat.nonzero()[:, 0], model.backbone.device)
