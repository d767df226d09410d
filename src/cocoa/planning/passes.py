"""The forward passes of a step: which rows share one, and how large it is. Built as training builds them.

Shapes: N lines of S padded tokens, P patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Literal

import torch

from cocoa.batch import Row, aside_length, read_part, row_length, target_row
from cocoa.chunks import Chunk, padded_chunks
from cocoa.layouts import LAYOUTS, Layout, Role
from cocoa.model import EmbeddingModel
from cocoa.recipe import MachineOptions, Stage
from cocoa.training.batches import EncodedPair, cut
from cocoa.training.reconstruct import cut_rows, stage_row

Kind = Literal["joined", "single", "apart"]
"""What a pass is for: `joined` rows are rebuilt, `single` ones embedded; `apart` are [e ; target] as light decoders
read them where the vectors of e come from the passes of single rows."""


@dataclass(frozen=True)
class Pass:
    """The lines of one forward pass.

    `layout` is what they are read with where attention splits, None where it computes squares.
    """

    lines: list[list[Row]]
    kind: Kind
    layout: Layout | None = None

    @cached_property
    def length(self) -> int:
        """The padded length S of a line."""
        return max(sum(row_length(row) for row in line) for line in self.lines)

    @property
    def places(self) -> int:
        """Tokens with padding, N x S."""
        return len(self.lines) * self.length

    @cached_property
    def length_aside(self) -> int:
        """The padded length of the targets that stand apart from these lines; 0 without."""
        return max(aside_length(row) for line in self.lines for row in line)

    @property
    def places_aside(self) -> int:
        """Tokens of those targets, with padding."""
        return sum(map(len, self.lines)) * self.length_aside

    @cached_property
    def area(self) -> int:
        """Looks of a token at a token that one attention head computes: N x S x S, or fewer where attention splits."""
        if self.layout is None:
            return self.places * self.length
        roles = torch.zeros(len(self.lines), self.length, dtype=torch.uint8)
        samples = torch.full(roles.shape, -1)
        numbers = count()
        for place, line in enumerate(self.lines):
            stop = 0
            for row in line:
                number = next(numbers)
                for segment, role in read_part(row):
                    start, stop = stop, stop + len(segment)
                    roles[place, start:stop] = role
                    samples[place, start:stop] = number
        return self.layout.looks(roles, samples).num_computed

    @cached_property
    def tokens(self) -> int:
        """Tokens without padding."""
        return sum(row_length(row) for line in self.lines for row in line)

    @cached_property
    def pictures(self) -> list[int]:
        """Patches of each picture that goes through the vision tower."""
        if self.kind == "apart":
            return []
        return [
            grid[0] * grid[1] * grid[2]
            for line in self.lines
            for row in line
            for segment, _ in read_part(row)
            for grid in segment.grids
        ]

    @property
    def patches(self) -> int:
        """Patches of all pictures, P."""
        return sum(self.pictures)

    @cached_property
    def patches_apart(self) -> int:
        """Patches that no tower sees: those of targets that stand apart, which light decoders read."""
        return sum(
            grid[0] * grid[1] * grid[2]
            for line in self.lines
            for row in line
            for segment, role in row
            for grid in segment.grids
            if self.kind == "apart" or role == Role.APART
        )

    @property
    def patch_area(self) -> int:
        """Looks of a patch at a patch of the same picture."""
        return sum(size * size for size in self.pictures)

    def part(self, num_lines: int) -> Pass:
        """Returns a pass of so many of the lines, the longest among them, the others spread evenly.

        The longest is that of the longest target apart, where that is longer than all that is read.
        """
        size = aside_length if self.length_aside > self.length else row_length
        longest = max(self.lines, key=lambda line: sum(map(size, line)))
        others = [line for line in self.lines if line is not longest]
        wanted = min(num_lines, len(self.lines)) - 1
        return Pass(
            [longest, *(others[number * len(others) // wanted] for number in range(wanted))], self.kind, self.layout
        )


@dataclass(frozen=True)
class Step:
    """The passes of one step of `num_pairs` pairs on one rank: of joined rows, of single rows, and of light decoders
    beside these."""

    joined: list[Pass]
    single: list[Pass]
    apart: list[Pass]
    num_pairs: int

    @property
    def passes(self) -> list[Pass]:
        """All passes of the model; the light decoders' are not."""
        return [*self.joined, *self.single]

    @property
    def num_candidates(self) -> int:
        """Targets and hard negatives of this rank that are embedded."""
        rows = sum(len(line) for part in self.single for line in part.lines)
        return max(0, rows - self.num_pairs)

    def fits(self, machine: MachineOptions) -> bool:
        """Whether the single rows need no gradient caching, see `training.contrast`."""
        return sum(part.places for part in self.single) <= machine.chunk_tokens


def step_of(
    model: EmbeddingModel, stage: Stage, pairs: Sequence[EncodedPair], machine: MachineOptions, device: str = "cpu"
) -> Step:
    """Returns the passes of a step on these pairs, cut as for a type of device."""
    where = torch.device(device)
    kinds = {options.rows for options in stage.objectives}
    joined, single, apart = [], [], []
    if stage.reads_queries_once:
        apart = [target_row(model.backbone, pair.target, model.max_tokens) for pair in pairs]
    elif kinds - {"single"}:
        joined = [stage_row(model, stage, pair.query, pair.target) for pair in pairs]
    if "single" in kinds:
        negatives = [negative for pair in pairs for negative in pair.negatives]
        samples = [*(pair.query for pair in pairs), *(pair.target for pair in pairs), *negatives]
        single = [model.row(sample) for sample in samples]
    splits = model.backbone.attention == "split"
    layout = LAYOUTS[stage.layout] if splits else None
    return Step(
        _passes(joined, cut_rows(joined, machine, where), "joined", layout),
        _passes(single, cut(_lengths(single), machine, where), "single", layout),
        # As `training.beside` cuts them.
        _passes(
            apart,
            padded_chunks(_lengths(apart), machine.chunk_tokens, device),
            "apart",
            LAYOUTS["bidirectional"] if splits else None,
        ),
        len(pairs),
    )


def _lengths(rows: list[Row]) -> list[int]:
    return [row_length(row) for row in rows]


def _passes(rows: list[Row], chunks: list[Chunk], kind: Kind, layout: Layout | None) -> list[Pass]:
    return [Pass([[rows[place] for place in line] for line in chunk], kind, layout) for chunk in chunks]
