"""One training step: every objective's gradients, divided by the counts of the whole batch over all ranks."""

from __future__ import annotations

from torch import Tensor

from cocoa.recipe import MachineOptions
from cocoa.training.batches import EncodedPairs
from cocoa.training.beside import beside_backward
from cocoa.training.contrast import contrast_backward
from cocoa.training.passes import Learners, Passes, prepare
from cocoa.training.ranks import Ranks
from cocoa.training.reconstruct import reconstruct_backward
from cocoa.training.tally import Tally
from cocoa.training.trainee import Trainee


def backward_step(
    trainee: Trainee,
    pairs: EncodedPairs,
    ranks: Ranks,
    machine: MachineOptions,
    seed: int,
    passes: Passes | None = None,
) -> Tally:
    """Returns the sums of a step over all ranks, with its gradients in the weights, summed over all ranks.

    `seed` and the pairs' numbers decide what is hidden. The numbers do not depend on how the pairs are cut into chunks,
    packed into lines or shared out over ranks, up to rounding (and up to dropout, which draws for whole chunks).
    `passes` are what `prepare` makes of the same arguments, if it was asked before. On one rank a GPU may still be at
    work when this returns: whoever reads a loss waits for it.
    """
    passes = passes or prepare(trainee, pairs, machine, seed)
    learners = Learners.of(trainee)

    def decode(vectors: Tensor) -> tuple[Tensor, Tally]:
        return beside_backward(trainee, learners.beside, vectors, passes.beside, ranks)

    tally = Tally()
    if learners.joined:
        tally.join(reconstruct_backward(trainee, learners.joined, pairs, ranks, machine, seed, passes.joined))
    for objective in learners.single:
        beside = decode if learners.beside else None
        tally.join(contrast_backward(trainee, objective, pairs, ranks, machine, beside, passes.single))
    if not trainee.is_sharded:
        ranks.add_gradients(trainee.trained.values())
    return tally.over(ranks)
