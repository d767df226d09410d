"""The passes of a step: all that the CPU must work out before the first of them runs.

Of who may look at whom only a square mask is left for the pass itself (`attention: sdpa` and `eager`): it is too large
to keep for each pass of a step.
"""

from __future__ import annotations

from dataclasses import dataclass

from cocoa.objectives import Contrastive, Reconstruction
from cocoa.recipe import MachineOptions
from cocoa.training.batches import EncodedPairs
from cocoa.training.beside import target_chunks
from cocoa.training.contrast import SingleChunk, single_chunks
from cocoa.training.reconstruct import HiddenChunk, hidden_chunks
from cocoa.training.trainee import Trainee


@dataclass(frozen=True)
class Passes:
    """One step's batches on the CPU, with what is hidden in them, by who learns from them; empty where nobody does.

    `joined` are the passes of objectives that rebuild rows, `single` those of contrastive ones, `beside` those of light
    decoders that read the contrastive vectors.
    """

    joined: list[HiddenChunk]
    single: list[SingleChunk]
    beside: list[HiddenChunk]


@dataclass(frozen=True)
class Learners:
    """A trainee's objectives by the passes that they learn from, see `Passes`."""

    joined: list[Reconstruction]
    single: list[Contrastive]
    beside: list[Reconstruction]

    @classmethod
    def of(cls, trainee: Trainee) -> Learners:
        """Returns the objectives of a trainee, each once."""
        single = [objective for objective in trainee.objectives if isinstance(objective, Contrastive)]
        rebuilders: list[Reconstruction] = [o for o in trainee.objectives if not isinstance(o, Contrastive)]  # type: ignore[misc]
        # Light decoders read the contrastive vectors, where there are any.
        beside = [objective for objective in rebuilders if single and objective.rows == "apart"]
        return cls([objective for objective in rebuilders if objective not in beside], single, beside)


def prepare(trainee: Trainee, pairs: EncodedPairs, machine: MachineOptions, seed: int) -> Passes:
    """Returns a step's passes: a pure function of pairs, stage, machine and seed.

    It reads no weight and no random state that training changes, so it may run beside a step of the same trainee.
    """
    learners = Learners.of(trainee)
    model, stage = trainee.model, trainee.stage
    return Passes(
        hidden_chunks(model, stage, learners.joined, pairs, machine, seed) if learners.joined else [],
        single_chunks(trainee, pairs, machine) if learners.single else [],
        target_chunks(model, learners.beside, pairs, machine, seed) if learners.beside else [],
    )
