"""A step of a stage on fake tensors: the bytes that live at each of its moments, and the operations of its passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils._pytree import tree_leaves

from cocoa.backbones import Backbone
from cocoa.batch import collate, moved
from cocoa.objectives import Contrastive, Draws, Reconstruction
from cocoa.planning.ledger import Ledger, fake, make_fake
from cocoa.planning.passes import Pass
from cocoa.planning.standin import Depth, stand_in
from cocoa.recipe import Recipe, Stage
from cocoa.training.beside import target_batch, view_of_vectors
from cocoa.training.reconstruct import hide, look
from cocoa.training.setup import model_of, set_up
from cocoa.training.trainee import Trainee

Moment = Literal["tower", "decoder", "optimiser"]
"""What computes: the vision tower, forward or backward; all behind it; or the optimiser."""


class _Moments:
    """The most bytes that lived at each moment of a step."""

    def __init__(self, ledger: Ledger, tower: nn.Module) -> None:
        self.peaks: dict[Moment, int] = {"tower": 0, "decoder": 0, "optimiser": 0}
        self._ledger = ledger
        self._now: Moment = "decoder"
        tower.register_forward_pre_hook(lambda *_: self.turn("tower"))
        tower.register_forward_hook(self._has_seen)

    def turn(self, moment: Moment) -> None:
        """Ends a moment and begins another."""
        self.peaks[self._now] = max(self.peaks[self._now], self._ledger.peak)
        self._ledger.peak = self._ledger.live
        self._now = moment

    def _has_seen(self, tower: nn.Module, given: Any, seen: Any) -> None:
        self.turn("decoder")
        learns = [part for part in tree_leaves(seen) if isinstance(part, Tensor) and part.requires_grad]
        if learns:
            # Where the gradient comes back to what was seen, the decoder is done.
            learns[0].register_hook(lambda _: self.turn("tower"))  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Trace:
    """A step on some passes: bytes of weights and gradients, of what the backward pass needs (`kept`), of all that
    lives at the worst moment of each part of a step beside the weights and the optimiser's memory (`peaks`); FLOPs by
    kind, see `Ledger`."""

    weights: int
    gradients: int
    kept: int
    peaks: dict[Moment, int]
    forward: Counter[str]
    backward: Counter[str]

    @property
    def peak(self) -> int:
        """The bytes at the worst moment of all."""
        return max(self.peaks.values())


def trace(
    backbone: Backbone,
    recipe: Recipe,
    stage: Stage,
    passes: Sequence[Pass],
    *,
    depth: Depth | None = None,
    accumulates: bool = False,
) -> Trace:
    """Returns what a step costs whose passes are all run forward, then all backward.

    With `accumulates` the gradients of earlier passes are there already.
    """
    trainee = fake_trainee(backbone, recipe, stage, depth)
    trained = list(trainee.trained.values())
    # It goes from weight to weight, and drops what it made for one when it has made it for the next: the largest and
    # the one before say how much that is, without thousands of operations for all others.
    largest = max(
        range(len(trained)), key=lambda place: (trained[place].nbytes, trained[place - 1].nbytes * (place > 0))
    )
    optimiser = AdamW(trained[max(0, largest - 1) : largest + 1], lr=stage.learning_rate)
    works = [_work(trainee, part) for part in passes]
    ledger = Ledger()
    with ledger:
        for weight in trainee.parameters():
            ledger.hold(weight)
        weights = ledger.live
        for weight in trained:
            weight.grad = torch.empty_like(weight)
        gradients = ledger.live - weights
        if not accumulates:
            trainee.zero_grad(set_to_none=True)
        start = ledger.live
        ledger.peak = 0
        moments = _Moments(ledger, trainee.model.backbone.vision)
        ledger.flops.clear()
        graphs = [trainee(work) for work in works]
        kept = ledger.live - start
        forward = ledger.flops.copy()
        while graphs:
            graph = graphs.pop(0)
            torch.autograd.backward(graph, torch.ones_like(graph))
            del graph
        backward = ledger.flops - forward
        moments.turn("optimiser")
        before = ledger.live
        optimiser.step()
        moments.turn("optimiser")
        moments.peaks["optimiser"] -= ledger.live - before  # its memory, which it made first of all
    peaks = {moment: max(0, peak - weights) for moment, peak in moments.peaks.items()}
    return Trace(weights, gradients, kept, peaks, forward, backward)


def fake_trainee(backbone: Backbone, recipe: Recipe, stage: Stage, depth: Depth | None = None) -> Trainee:
    """Returns a stage's trainee as training would make it, all of its weights without content."""
    model = model_of(recipe, stage, stand_in(backbone, depth))
    with torch.random.fork_rng():
        trainee = set_up(model, recipe, stage, sharded=False).trainee
    make_fake(trainee)
    return trainee.train()


def _work(trainee: Trainee, part: Pass) -> Callable[[], Tensor]:
    """A pass as training runs it: in `training.reconstruct`, `training.contrast` and `training.beside`."""
    model, stage = trainee.model, trainee.stage
    rows = [row for line in part.lines for row in line]
    ends = [sum(len(line) for line in part.lines[: number + 1]) for number in range(len(part.lines))]
    numbers = [list(range(end - len(line), end)) for end, line in zip(ends, part.lines, strict=True)]
    batch = target_batch(model, rows) if part.kind == "apart" else collate(model.backbone, rows, numbers)
    objectives: list[Reconstruction] = []
    hidden = []
    reads: Tensor | None = None
    if part.kind != "single":
        objectives = [o for o in trainee.objectives if not isinstance(o, Contrastive)]  # type: ignore[misc]
        places = list(range(len(rows)))
        chunk = hide(objectives, batch, Draws(0, tuple(places)), places)
        batch, hidden, reads = chunk.batch, chunk.hidden, chunk.reads
    if batch.pixel_values is not None:
        batch = batch.replace(pixel_values=fake(batch.pixel_values))

    def rebuild() -> Tensor:
        if part.kind == "apart":
            vectors = fake(torch.zeros(len(rows), model.backbone.hidden_size)).requires_grad_()
            view = view_of_vectors(model, batch, vectors)
        else:
            view = look(model, stage.layout, batch, reads)
        losses = [o.loss(view, moved(h, view.states.device)) for o, h in zip(objectives, hidden, strict=True)]
        return torch.stack([o.weight * loss.sum for o, loss in zip(objectives, losses, strict=True)]).sum()

    def embed() -> Tensor:
        seen = None
        if batch.pixel_values is not None and not trainee.trains_vision:
            assert batch.image_grid_thw is not None
            with torch.no_grad():
                seen = model.backbone.see(batch.pixel_values, batch.image_grid_thw)
        return model.pooled(batch, seen)

    return embed if part.kind == "single" else rebuild
