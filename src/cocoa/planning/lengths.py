"""Sampled pairs of a stage, with their tokens counted and no pixel decoded."""

from __future__ import annotations

from dataclasses import dataclass

from cocoa.backbones import Backbone
from cocoa.data.bad_rows import BadRow
from cocoa.data.mixing import Mixture
from cocoa.errors import CocoaError, DataError
from cocoa.model import EmbeddingModel
from cocoa.recipe import Stage
from cocoa.sample import Pair
from cocoa.training.batches import EncodedPair
from cocoa.training.setup import fits


@dataclass(frozen=True)
class SampledPairs:
    """Pairs of a stage as the backbone would read them, their patches without content.

    `num_cut` of their texts will be cut; `unfit` are the rows whose pictures do not fit, `unreadable` those that cannot
    be read; both are left out of `pairs`.
    """

    pairs: list[EncodedPair]
    num_cut: int
    unfit: list[BadRow]
    unreadable: list[BadRow]

    @property
    def num_asked(self) -> int:
        """Rows that were looked at."""
        return len(self.pairs) + len(self.unfit) + len(self.unreadable)

    @property
    def num_texts(self) -> int:
        """Texts that could have been cut."""
        return sum(2 + len(pair.negatives) for pair in self.pairs)


def sample_pairs(model: EmbeddingModel, stage: Stage, mixture: Mixture, size: int) -> SampledPairs:
    """Returns up to `size` pairs of a stage, spread evenly over the pairs that it will train on."""
    fit = fits(model, stage)
    pairs: list[EncodedPair] = []
    unfit: list[BadRow] = []
    unreadable: list[BadRow] = []
    num_cut = 0
    for number in positions(mixture, stage, size):
        try:
            pair = measure_pair(model.backbone, mixture.pair(number))
            num_cut += fit(pair)
            pairs.append(pair)
        except CocoaError as error:
            (unfit if error.code == "E_DATA_TOO_LONG" else unreadable).append(BadRow.of(error, error.where))
    if not pairs:
        first = [*unfit, *unreadable][0]
        raise DataError("E_DATA_EMPTY", f"none of {len(unfit) + len(unreadable)} sampled rows fits: {first.message}")
    return SampledPairs(pairs, num_cut, unfit, unreadable)


def positions(mixture: Mixture, stage: Stage, size: int) -> list[int]:
    """Returns positions in a mixture's order, spread evenly over what the stage trains on, in whole sub-batches."""
    run = stage.sub_batch or 1
    num_runs = min(stage.steps * stage.batch_size, mixture.epoch_size) // run
    wanted = min(num_runs, max(1, size // run))
    starts = [number * num_runs // wanted * run for number in range(wanted)]
    return [start + offset for start in starts for offset in range(run)]


def measure_pair(backbone: Backbone, pair: Pair) -> EncodedPair:
    """Returns a pair as the backbone would read it, its patches without content; keys are left out."""
    negatives = tuple(backbone.encode(negative, pixels=False) for negative in pair.negatives)
    keys = (0,) * (1 + len(negatives))
    query, target = (backbone.encode(sample, pixels=False) for sample in (pair.query, pair.target))
    return EncodedPair(query, target, negatives, keys)
