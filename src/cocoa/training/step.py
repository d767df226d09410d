"""One training step: every objective's gradients, divided by the counts of the whole batch over all ranks."""

from __future__ import annotations

from torch import Tensor

from cocoa.objectives import Contrastive, Reconstruction
from cocoa.recipe import MachineOptions
from cocoa.training.batches import EncodedPairs
from cocoa.training.beside import beside_backward
from cocoa.training.contrast import contrast_backward
from cocoa.training.ranks import Ranks
from cocoa.training.reconstruct import reconstruct_backward
from cocoa.training.tally import Tally
from cocoa.training.trainee import Trainee


def backward_step(trainee: Trainee, pairs: EncodedPairs, ranks: Ranks, machine: MachineOptions, seed: int) -> Tally:
    """Returns the sums of a step over all ranks, with its gradients in the weights, summed over all ranks.

    `seed` and the pairs' numbers decide what is hidden. The numbers do not depend on how the pairs are cut into chunks,
    packed into lines or shared out over ranks, up to rounding (and up to dropout, which draws for whole chunks).
    """
    objectives = list(trainee.objectives)
    contrastive = [objective for objective in objectives if isinstance(objective, Contrastive)]
    rebuilders: list[Reconstruction] = [o for o in objectives if not isinstance(o, Contrastive)]  # type: ignore[misc]
    # Light decoders read the contrastive vectors, where there are any.
    beside = [objective for objective in rebuilders if contrastive and objective.rows == "apart"]
    alone = [objective for objective in rebuilders if objective not in beside]

    def decode(vectors: Tensor) -> tuple[Tensor, Tally]:
        return beside_backward(trainee, beside, vectors, pairs, ranks, machine, seed)

    tally = Tally()
    if alone:
        tally.join(reconstruct_backward(trainee, alone, pairs, ranks, machine, seed))
    for objective in contrastive:
        tally.join(contrast_backward(trainee, objective, pairs, ranks, machine, decode if beside else None))
    if not trainee.is_sharded:
        ranks.add_gradients(trainee.trained.values())
    return tally.over(ranks)
