"""How long the rows of a stage are: words, pictures, whole rows, and what is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cocoa.backbones import Encoded, Kind
from cocoa.batch import row_length
from cocoa.checking.rows import Progress, ReadSource, in_threads
from cocoa.data.bad_rows import BadRow
from cocoa.errors import CocoaError
from cocoa.model import EmbeddingModel
from cocoa.planning.lengths import measure_pair
from cocoa.recipe import Stage
from cocoa.training.batches import EncodedPair
from cocoa.training.reconstruct import stage_row
from cocoa.training.setup import fits

_BINS = 24
_ROUND = (1, 2, 5)


@dataclass(frozen=True)
class Histogram:
    """How many values lie from each edge up to, not including, the next; the edges are evenly spaced."""

    edges: tuple[int, ...]
    counts: tuple[int, ...]
    mean: float
    longest: int

    @classmethod
    def of(cls, values: Sequence[int]) -> Histogram:
        """Returns at most 24 bars of a round width over the values, from zero."""
        longest = max(values, default=0)
        width = next(w for power in range(12) for r in _ROUND if (w := r * 10**power) * _BINS > longest)
        counts = np.bincount(np.asarray(values, np.int64) // width, minlength=1)
        edges = tuple(width * place for place in range(len(counts) + 1))
        return cls(edges, tuple(counts.tolist()), float(np.mean(values)) if len(values) else 0.0, longest)


@dataclass(frozen=True)
class Lengths:
    """Tokens of the rows of a stage that were measured.

    `text` counts the words of each sample, `visual` the visual tokens of each picture, `row` the tokens of each row
    that a forward pass will see, bridge token included. Of `num_texts` texts, `num_cut` are cut to fit.
    """

    text: Histogram
    visual: Histogram
    row: Histogram
    num_texts: int
    num_cut: int

    @property
    def cut_rate(self) -> float:
        """Share of texts that are cut."""
        return self.num_cut / max(1, self.num_texts)


@dataclass(frozen=True)
class Measured:
    """The lengths of a stage, the rows that do not fit, and those of which a text is cut."""

    lengths: Lengths
    unfit: tuple[tuple[ReadSource, BadRow], ...]
    cut: tuple[tuple[ReadSource, int], ...]


@dataclass(frozen=True, slots=True)
class _Measure:
    text: list[int]
    visual: list[int]
    rows: list[int]
    num_cut: int


def measure_stage(
    model: EmbeddingModel, stage: Stage, sources: Sequence[ReadSource], *, workers: int, on_progress: Progress
) -> Measured:
    """Returns the tokens of all rows that were read, as the stage will see them; no pixel is decoded again."""
    fit = fits(model, stage)
    places = [(source, row) for source in sources for row in source.rows]

    def measure(place: int) -> _Measure | BadRow:
        source, row = places[place]
        try:
            pair = measure_pair(model.backbone, source.pairs[row.number])
            num_cut = fit(pair)
            samples = (pair.query, pair.target, *pair.negatives)
            visual = [
                grid[0] * grid[1] * grid[2] // model.backbone.grid.patches_per_token
                for sample in samples
                for grid in sample.grids
            ]
            text = [int((sample.kinds == Kind.TEXT).sum()) for sample in samples]
            return _Measure(text, visual, _row_lengths(model, stage, pair), num_cut)
        except CocoaError as error:
            return BadRow.of(error, error.where or row.where)

    total, said = len(places), f"measuring {stage.name}"
    found = list(in_threads(measure, range(total), workers, lambda done: on_progress(said, done, total)))
    good = [each for each in found if isinstance(each, _Measure)]
    lengths = Lengths(
        Histogram.of([value for each in good for value in each.text]),
        Histogram.of([value for each in good for value in each.visual]),
        Histogram.of([value for each in good for value in each.rows]),
        sum(len(each.text) for each in good),
        sum(each.num_cut for each in good),
    )
    cut = tuple(
        (source, row.number)
        for (source, row), each in zip(places, found, strict=True)
        if isinstance(each, _Measure) and each.num_cut
    )
    unfit = tuple((source, each) for (source, _), each in zip(places, found, strict=True) if isinstance(each, BadRow))
    return Measured(lengths, unfit, cut)


def _row_lengths(model: EmbeddingModel, stage: Stage, pair: EncodedPair) -> list[int]:
    kinds = {options.rows for options in stage.objectives}
    # A light decoder beside a contrastive objective has no row of its own that the model reads.
    own = kinds - {"single"} and not stage.reads_queries_once
    rows = [stage_row(model, stage, pair.query, pair.target)] if own else []
    if "single" in kinds:
        samples: tuple[Encoded, ...] = (pair.query, pair.target, *pair.negatives)
        rows += [model.row(sample) for sample in samples]
    return [row_length(row) for row in rows]
