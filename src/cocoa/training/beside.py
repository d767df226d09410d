"""Light decoders beside a contrastive objective: they read the vectors that it makes of the queries.

A light decoder needs the query's vector and nothing else of it, so no query goes through the model a second time.

Shapes: N queries, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, tensor, zeros_like

from cocoa.batch import Batch, Row, collate, row_length, target_row
from cocoa.chunks import flattened, padded_chunks
from cocoa.looks import Looks
from cocoa.model import EmbeddingModel
from cocoa.objectives import Draws, Reconstruction, View
from cocoa.recipe import MachineOptions
from cocoa.training.batches import EncodedPairs
from cocoa.training.ranks import Ranks
from cocoa.training.reconstruct import HiddenChunk, hide, predict_backward
from cocoa.training.tally import Tally
from cocoa.training.trainee import Trainee
from cocoa.transfer import sent


def beside_backward(
    trainee: Trainee,
    objectives: Sequence[Reconstruction],
    vectors: Tensor,
    chunks: Sequence[HiddenChunk],
    ranks: Ranks,
) -> tuple[Tensor, Tally]:
    """Returns the gradient at the queries' vectors [N, D], and the sums; adds the gradients of the decoders' weights.

    `chunks` are the step's `target_chunks`. What is hidden and what is lost are the same as where the queries are
    encoded for the decoders alone.
    """
    model = trainee.model
    leaf = vectors.detach().clone().requires_grad_()
    leaf.grad = zeros_like(leaf)  # a rank without pairs has nothing to add

    def view(chunk: HiddenChunk) -> View:
        # A list as an index would be a copy that is waited for.
        own = leaf[sent(tensor(chunk.places), leaf.device)]
        return view_of_vectors(model, chunk.batch, own, looks=chunk.looks, apart_looks=chunk.apart_looks)

    # A rank without pairs needs none of the layers here: the decoders' weights are gathered with the whole.
    tally = predict_backward(trainee, objectives, chunks, view, ranks)
    return leaf.grad / trainee.gradient_scale(ranks), tally


def target_chunks(
    model: EmbeddingModel, objectives: Sequence[Reconstruction], pairs: EncodedPairs, machine: MachineOptions, seed: int
) -> list[HiddenChunk]:
    """Returns the decoders' passes of a step: targets of like length, and what each objective hides in them."""
    rows = [target_row(model.backbone, target, model.max_tokens) for target in pairs.targets]
    draws = Draws(seed, tuple(pairs.numbers))
    made = []
    # Never packed: a decoder has one target a line.
    device = model.backbone.device.type
    for chunk in padded_chunks([row_length(row) for row in rows], machine.chunk_tokens, device):
        places, _ = flattened(chunk)
        batch = target_batch(model, [rows[place] for place in places])
        made.append(hide(objectives, batch, draws, places).with_looks(model))
    return made


def target_batch(model: EmbeddingModel, rows: Sequence[Row]) -> Batch:
    """Returns rows [e ; target] as a batch in which e is all that was read, and the targets stand apart."""
    return collate(model.backbone, [row[:1] for row in rows]).replace(apart=collate(model.backbone, rows))


def view_of_vectors(
    model: EmbeddingModel,
    batch: Batch,
    vectors: Tensor,
    *,
    looks: Looks | None = None,
    apart_looks: Looks | None = None,
) -> View:
    """Returns the view of a batch of e alone, whose states are vectors [N, D] that were made elsewhere.

    `looks` and `apart_looks` are as in `HiddenChunk`, if they were made before.
    """
    allowed = model.allowed(batch) if looks is None else looks
    return View(model.backbone, batch.to(vectors.device), allowed, vectors[:, None], vectors, apart_looks)
