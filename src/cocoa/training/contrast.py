"""The contrastive half of a step: a batch of any size, its passes in the memory of one chunk (gradient caching, arXiv
2101.06983).

First pass: all vectors, as they are pooled, without a graph. Then the loss over the vectors of all ranks, some queries
at a time, and its gradient at each vector, to which whatever else learns from the same vectors adds its own; this holds
the candidates' vectors of all ranks several times over, whatever a chunk is. Second pass: chunk by chunk
with a graph, from those gradients back into the weights. Where the whole batch fits into one chunk's tokens the graphs
of the first pass are kept, and there is no second.

Shapes: M rows of this rank, D hidden, N queries, C candidates of all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from cocoa.backbones import Seen
from cocoa.batch import Batch, collate, row_length
from cocoa.chunks import flattened
from cocoa.looks import Looks
from cocoa.objectives import Contrastive
from cocoa.recipe import MachineOptions
from cocoa.training.batches import EncodedPairs, cut, idle_pairs
from cocoa.training.random_state import RandomState
from cocoa.training.ranks import Ranks
from cocoa.training.tally import Tally
from cocoa.training.trainee import Trainee
from cocoa.transfer import sent

_MOST_SCORES = 2**22
"""Scores of queries and candidates that are held at once: a GPU computes no faster with more, and each is held about
13 bytes at the worst moment."""

Beside = Callable[[Tensor], tuple[Tensor, Tally]]
"""What else learns from the queries' vectors, float32 [N, D] of any length: returns the gradient at them, and sums."""


def contrast_backward(
    trainee: Trainee,
    objective: Contrastive,
    pairs: EncodedPairs,
    ranks: Ranks,
    machine: MachineOptions,
    beside: Beside | None = None,
    chunks: Sequence[SingleChunk] | None = None,
) -> Tally:
    """Adds the gradients of finding each query's target among the candidates of all ranks; returns the sums.

    The result is that of one uncached pass over everything, on one rank, up to rounding; with dropout too, because its
    random state is replayed in the second pass. `beside` gets the queries' vectors, and its sums are in the result.
    `chunks` are the batches of the rows, if they were made before.
    """
    backbone = trainee.model.backbone
    if chunks is None:
        chunks = single_chunks(trainee, pairs, machine)
    fits = sum(chunk.num_places for chunk in chunks) <= machine.chunk_tokens
    # All ranks must agree, because sharded weights are gathered by all in every pass.
    fits = ranks.most(int(not fits)) == 0
    num_passes = ranks.most(len(chunks)) if trainee.is_sharded else len(chunks)
    made = list(chunks)
    if num_passes > len(chunks):
        # One that is done goes on with nothing at stake.
        spare = made or single_chunks(trainee, idle_pairs(backbone), machine)
        made += spare[-1:] * (num_passes - len(chunks))
    parts = [_Part(chunk.batch, chunk.looks, sent(chunk.places, ranks.device)) for chunk in made]
    num_rows = len(pairs.queries) + len(pairs.targets) + len(pairs.negatives)
    vectors = torch.zeros(num_rows, backbone.hidden_size, device=ranks.device)

    graphs: list[Tensor] = []
    states = []
    for number, part in enumerate(parts):
        states.append(RandomState.now(ranks.device))
        with torch.set_grad_enabled(fits):
            out = trainee(_pool(trainee, part, keep_seen=not fits))
        graphs.append(out)
        if number < len(chunks):
            vectors[part.places] = out.detach()

    tally = Tally()
    gradient, loss, count = _gradient_at_vectors(objective, vectors, pairs, ranks)
    tally.add(objective.name, loss, count)
    if beside is not None:
        more, sums = beside(vectors[: len(pairs.queries)])
        gradient[: len(pairs.queries)] += more
        tally.join(sums)
    after = RandomState.now(ranks.device)
    scale = trainee.gradient_scale(ranks)
    for number, part in enumerate(parts):
        at_stake = number < len(chunks)
        if not fits:
            states[number].restore()
            graphs[number] = trainee(_pool(trainee, part))
        share = gradient[part.places] * scale if at_stake else torch.zeros_like(graphs[number])
        torch.autograd.backward(graphs[number], share)
        graphs[number] = graphs[number].detach()
        if at_stake:
            tally.read(part.batch, trainee.model.num_looks(part.batch, part.looks))
    after.restore()
    return tally


@dataclass(frozen=True)
class SingleChunk:
    """A forward pass to come: a batch of single rows, its looks (None: attention takes a square mask), and the rows'
    places among all of this rank (int64 [M])."""

    batch: Batch
    looks: Looks | None
    places: Tensor

    @property
    def num_places(self) -> int:
        return self.batch.roles.numel()


@dataclass
class _Part:
    """A chunk under way: its places on the device, and what a frozen tower saw in its first pass."""

    batch: Batch
    looks: Looks | None
    places: Tensor
    seen: Seen | None = None


def single_chunks(trainee: Trainee, pairs: EncodedPairs, machine: MachineOptions) -> list[SingleChunk]:
    """Returns the passes of a step: rows of like length share one, be they queries, targets or negatives."""
    backbone = trainee.model.backbone
    samples = [*pairs.queries, *pairs.targets, *pairs.negatives]
    rows = [trainee.model.row(sample) for sample in samples]
    lengths = [row_length(row) for row in rows]
    made = []
    for chunk in cut(lengths, machine, backbone.device):
        places, lines = flattened(chunk)
        batch = collate(backbone, [rows[place] for place in places], lines)
        made.append(SingleChunk(batch, trainee.model.looks(batch), torch.tensor(places)))
    return made


def _pool(trainee: Trainee, part: _Part, *, keep_seen: bool = False) -> Callable[[], Tensor]:
    def work() -> Tensor:
        model = trainee.model
        batch = part.batch.to(model.backbone.device)
        seen = part.seen
        if seen is None and batch.pixel_values is not None and not trainee.trains_vision:
            assert batch.image_grid_thw is not None
            with torch.no_grad():
                seen = model.backbone.see(batch.pixel_values, batch.image_grid_thw)
            if keep_seen:
                part.seen = seen
        return model.pooled(batch, seen, None if part.looks is None else part.looks.anew())

    return work


def _gradient_at_vectors(
    objective: Contrastive, vectors: Tensor, pairs: EncodedPairs, ranks: Ranks
) -> tuple[Tensor, Tensor, int]:
    """The gradient [M, D] of the mean loss over all ranks at this rank's vectors, and this rank's (sum, count)."""
    num_queries = len(pairs.queries)
    num_targets = len(pairs.targets)
    with torch.enable_grad():
        # Targets of all ranks first, then all negatives: the order that one rank alone would have.
        targets, my_target = ranks.gather(vectors[num_queries : num_queries + num_targets])
        negatives, my_negative = ranks.gather(vectors[num_queries + num_targets :])
        content = sent(pairs.content, vectors.device)
        contents = torch.cat([ranks.gather(content[:num_targets])[0], ranks.gather(content[num_targets:])[0]])
        candidates = torch.cat([targets, negatives]).clone().requires_grad_()
        right = my_target + torch.arange(num_queries, device=vectors.device)
        total = float(ranks.total(torch.tensor([float(num_queries)], dtype=torch.float64)))
        size = block_size(len(candidates))
        own, losses = [], []
        for start in range(0, max(1, num_queries), size):  # a rank without queries has its candidates all the same
            block = slice(start, min(start + size, num_queries))
            queries = vectors[block].clone().requires_grad_()
            loss = objective.loss(_unit(queries), _unit(candidates), contents, right[block])
            (objective.weight * loss.sum / max(1.0, total)).backward()  # type: ignore[no-untyped-call]
            assert queries.grad is not None
            own.append(queries.grad)
            losses.append(loss.sum.detach())
    assert candidates.grad is not None
    # What other ranks' queries ask of this rank's candidates comes from those ranks.
    others = ranks.total(candidates.grad)
    mine = torch.cat(
        [
            others[my_target : my_target + num_targets],
            others[len(targets) + my_negative :][: len(pairs.negatives)],
        ]
    )
    return torch.cat([*own, mine]), torch.stack(losses).sum(), num_queries


def block_size(num_candidates: int) -> int:
    """Returns how many queries are compared with the candidates at once."""
    return max(1, _MOST_SCORES // max(1, num_candidates))


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors, dim=-1)
