"""The first batches of a stage, in the order and form in which the model gets them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from PIL import Image

from cocoa.backbones import Backbone, Encoded, Kind
from cocoa.data.mixing import Mixture
from cocoa.errors import CocoaError
from cocoa.layouts import Role
from cocoa.model import EmbeddingModel
from cocoa.recipe import Stage
from cocoa.training.batches import encode_pair
from cocoa.training.reconstruct import stage_row

BATCHES = 2
MOST_PAIRS = 8
"""Pairs of a batch that are shown."""


@dataclass(frozen=True)
class PreviewSample:
    """A sample as the model gets it: its text after cutting, pictures named where they stand, and their pixels."""

    text: str
    pictures: tuple[Image.Image, ...]
    num_tokens: int
    cut: bool


@dataclass(frozen=True)
class PreviewPair:
    """A pair at its position in the stage's order; `problem` says why training will not have it."""

    position: int
    where: str
    query: PreviewSample | None
    target: PreviewSample | None
    num_negatives: int
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the pair with names for its pictures."""
        sides = {
            side: sample
            and {"text": sample.text, "tokens": sample.num_tokens, "cut": sample.cut, "pictures": list(named)}
            for side, sample, named in self._sides()
        }
        return {
            "position": self.position,
            "where": self.where,
            **sides,
            "negatives": self.num_negatives,
            "problem": self.problem,
        }

    def pictures(self, stage: str) -> dict[str, Image.Image]:
        """Returns the pictures by the names that `to_dict` gives them, in a stage."""
        return {f"{stage}, {name}": picture for _, _, named in self._sides() for name, picture in named.items()}

    def _sides(self) -> Iterator[tuple[str, PreviewSample | None, dict[str, Image.Image]]]:
        for side, sample in (("query", self.query), ("target", self.target)):
            pictures = sample.pictures if sample else ()
            named = {f"position {self.position}, {side}, {number}": each for number, each in enumerate(pictures, 1)}
            yield side, sample, named


@dataclass(frozen=True)
class PreviewBatch:
    """The first pairs of the batch of a step, of `num_pairs` in all."""

    step: int
    num_pairs: int
    pairs: tuple[PreviewPair, ...]


def preview(model: EmbeddingModel, stage: Stage, mixture: Mixture) -> tuple[PreviewBatch, ...]:
    """Returns the first two batches of a stage, or the one that there is."""
    size = stage.batch_size
    return tuple(
        PreviewBatch(
            step,
            size,
            tuple(_pair(model, stage, mixture, step * size + place) for place in range(min(size, MOST_PAIRS))),
        )
        for step in range(min(BATCHES, stage.steps))
    )


def _pair(model: EmbeddingModel, stage: Stage, mixture: Mixture, position: int) -> PreviewPair:
    where, num_negatives = "", 0
    try:
        pair = mixture.pair(position)
        where, num_negatives = pair.query.where, len(pair.negatives)
        encoded = encode_pair(model.backbone, pair)
        if any(options.rows == "single" for options in stage.objectives):
            rows = [model.row(side) for side in (encoded.query, encoded.target)]
            query, target = rows[0][0][0], rows[1][0][0]
        else:
            row = stage_row(model, stage, encoded.query, encoded.target)
            query = next(segment for segment, role in row if role == Role.CONTEXT)
            target = next(segment for segment, role in row if role in (Role.TARGET, Role.APART))
        return PreviewPair(
            position,
            where,
            _sample(model.backbone, query, encoded.query),
            _sample(model.backbone, target, encoded.target),
            num_negatives,
        )
    except CocoaError as error:
        return PreviewPair(position, error.where or where, None, None, num_negatives, str(error))


def _sample(backbone: Backbone, kept: Encoded, whole: Encoded) -> PreviewSample:
    pictures = tuple(
        Image.fromarray(backbone.grid.uncut(patches, grid))
        for patches, grid in zip(kept.patches, kept.grids, strict=True)
    )
    text, number = "", 0
    for is_text, places in groupby(range(len(kept)), lambda place: kept.kinds[place] == Kind.TEXT):
        if is_text:
            text += backbone.text.words([int(kept.ids[place]) for place in places])
            continue
        # Pictures that follow each other are one run: each opens with its own tag.
        for place in places:
            if kept.ids[place] == backbone.text.control.vision_start:
                number += 1
                text += f"[picture {number}]"
    return PreviewSample(text, pictures, len(kept), len(kept) < len(whole))
