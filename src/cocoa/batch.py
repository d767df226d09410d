"""Samples to tensors with roles: one sample a line, padded, or several in a line, packed.

Shapes: M samples, N lines, S padded length, P patches of all images, B bytes or F values a patch, I images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from cocoa.backbones import Backbone, Encoded, Kind
from cocoa.errors import DataError
from cocoa.layouts import Role
from cocoa.transfer import sent

Row = list[tuple[Encoded, Role]]
"""The segments of one sample or pair, in order, each with its role."""


STAYS = {"stays on the CPU": True}
"""Of a tensor that is looked into, not computed with: to ask a GPU for it would be to wait for the GPU."""


@dataclass(frozen=True)
class Batch:
    """Rows as tensors; `samples` says which sample a token belongs to (-1: padding), `bridge` is the place of each
    sample's (last) e in the flattened lines (line x S + column; -1 where a sample has none).

    `apart` holds targets that the model never reads: line i is [e ; target] of sample i.
    """

    input_ids: Tensor  # (N, S) int64
    roles: Tensor = field(metadata=STAYS)  # (N, S) uint8, see layouts.Role; on the CPU
    kinds: Tensor  # (N, S) uint8, see backbones.Kind
    samples: Tensor = field(metadata=STAYS)  # (N, S) int64, on the CPU
    position_ids: Tensor  # (3, N, S) int64
    bridge: Tensor  # (M,) int64
    mask_token: int
    pixel_values: Tensor | None = None  # (P, B) uint8; (P, F) float32 once an objective has hidden some
    image_grid_thw: Tensor | None = field(default=None, metadata=STAYS)  # (I, 3) int64, on the CPU
    apart: Batch | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.roles != Role.PAD).sum())

    @property
    def has_before(self) -> Tensor:
        """Returns bool [N, S]: a token of the same sample stands right before."""
        before = torch.zeros_like(self.roles, dtype=torch.bool)
        before[:, 1:] = (self.samples[:, 1:] == self.samples[:, :-1]) & (self.roles[:, 1:] != Role.PAD)
        return before

    @property
    def is_text(self) -> Tensor:
        """Returns bool [N, S]: pieces of text, neither padding nor control nor picture."""
        return (self.kinds == Kind.TEXT) & (self.roles != Role.PAD)

    def to(self, device: torch.device) -> Batch:
        """Returns the batch on a device."""
        return moved(self, device)

    def replace(self, **changes: Any) -> Batch:
        """Returns the batch with other tensors in some fields."""
        return dataclasses.replace(self, **changes)


T = TypeVar("T")


def moved(record: T, device: torch.device) -> T:
    """Returns a dataclass with all its tensors on a device, but those that are marked to stay on the CPU."""
    staying = {one.name for one in dataclasses.fields(record) if one.metadata == STAYS}  # type: ignore[arg-type]
    parts = {name: value for name, value in vars(record).items() if name not in staying}
    tensors = {name: sent(value, device) for name, value in parts.items() if isinstance(value, Tensor)}
    inner = {name: moved(value, device) for name, value in parts.items() if isinstance(value, Batch)}
    return dataclasses.replace(record, **tensors, **inner)  # type: ignore[type-var]


def single_row(backbone: Backbone, sample: Encoded, max_tokens: int, num_bridges: int = 1) -> Row:
    """Returns the row [sample ; e], its text cut to `max_tokens`; e, or each of `num_bridges`, is never cut."""
    return [(fitted(sample, max_tokens - num_bridges), Role.CONTEXT), *_bridges(backbone, num_bridges)]


def apart_row(backbone: Backbone, query: Encoded, target: Encoded, max_tokens: int, num_bridges: int = 1) -> Row:
    """Returns the row [query ; e], and the target apart from it, each side with its text cut to `max_tokens`."""
    row = single_row(backbone, query, max_tokens, num_bridges)
    _, (kept, _) = target_row(backbone, target, max_tokens)
    return [*row, (kept, Role.APART)]


def target_row(backbone: Backbone, target: Encoded, max_tokens: int) -> Row:
    """Returns the row [e ; target] of a target that stands apart, its text cut to `max_tokens`."""
    return [(backbone.bridge, Role.BRIDGE), (fitted(target, max_tokens - 1), Role.TARGET)]


def joined_row(
    backbone: Backbone, query: Encoded, target: Encoded, max_tokens: int, *, bridged: bool, num_bridges: int = 1
) -> Row:
    """Returns the row [query ; e ; target], or [query ; target] if not `bridged`, its texts cut to `max_tokens`.

    The target keeps at least a quarter of the row, so that something is left to rebuild, and as much as its pictures
    need; e is never cut.
    """
    bridges = _bridges(backbone, num_bridges) if bridged else []
    budget = max_tokens - len(bridges)
    keep = min(len(target), budget, max(budget // 4, budget - len(query), target.num_uncuttable))
    query, target = fitted(query, budget - keep), fitted(target, keep)
    return [(query, Role.CONTEXT), *bridges, (target, Role.TARGET)]


def _bridges(backbone: Backbone, count: int) -> Row:
    """So many bridge tokens; what tells them apart is their place."""
    return [(backbone.bridge, Role.BRIDGE)] * count


def closed_row(backbone: Backbone, query: Encoded, target: Encoded, max_tokens: int) -> Row:
    """Returns the row [query ; target ; e], in which e ends the target."""
    row = joined_row(backbone, query, target, max_tokens - 1, bridged=False)
    return [*row, (backbone.bridge, Role.BRIDGE)]


def row_length(row: Row) -> int:
    """Returns the number of tokens of a row; what stands apart is not in it."""
    return sum(len(segment) for segment, _ in read_part(row))


def aside_length(row: Row) -> int:
    """Returns the number of tokens of a row's target that stands apart, its e included; 0 of a row without."""
    return sum(1 + len(segment) for segment, role in row if role == Role.APART)


def read_part(row: Row) -> Row:
    """Returns the segments that the model reads."""
    return [(segment, role) for segment, role in row if role != Role.APART]


def fitted(sample: Encoded, budget: int) -> Encoded:
    """Returns a sample with its text cut to `budget` tokens. Raises `E_DATA_TOO_LONG` where a picture would be cut."""
    kept = sample.cut(budget)
    if len(kept) > budget:
        raise DataError(
            "E_DATA_TOO_LONG",
            f"pictures take {len(kept)} tokens, {budget} are left for them: raise max_tokens or lower max_pixels",
            where=sample.where,
        )
    return kept


def collate(
    backbone: Backbone,
    rows: Sequence[Row],
    lines: Sequence[Sequence[int]] | None = None,
    *,
    padding: Literal["left", "right"] = "right",
) -> Batch:
    """Returns the rows as one batch; sample i of the batch is row i, wherever it stands.

    `lines` names the rows that share a line, each row once; without it every row has a line of its own.
    """
    aside = [segment for row in rows for segment, role in row if role == Role.APART]
    apart = None
    if aside:
        bridge_first: list[Row] = [[(backbone.bridge, Role.BRIDGE), (target, Role.TARGET)] for target in aside]
        apart = collate(backbone, bridge_first)
    rows = [read_part(row) for row in rows]
    lines = [[place] for place in range(len(rows))] if lines is None else lines
    size = max(sum(row_length(rows[place]) for place in line) for line in lines)
    shape = (len(lines), size)
    ids = np.full(shape, backbone.text.control.pad, np.int64)
    roles = np.full(shape, Role.PAD, np.uint8)
    kinds = np.full(shape, Kind.CONTROL, np.uint8)
    samples = np.full(shape, -1, np.int64)
    positions = np.zeros((3, *shape), np.int64)
    bridge = np.full(len(rows), -1, np.int64)
    for number, line in enumerate(lines):
        used = sum(row_length(rows[place]) for place in line)
        stop = size - used if padding == "left" else 0
        for place in line:
            row = rows[place]
            start, stop = stop, stop + row_length(row)
            here = (number, slice(start, stop))
            ids[here] = np.concatenate([segment.ids for segment, _ in row])
            kinds[here] = np.concatenate([segment.kinds for segment, _ in row])
            roles[here] = np.concatenate([np.full(len(segment), role, np.uint8) for segment, role in row])
            samples[here] = place
            # Every sample counts its positions from 0, whatever stands before it.
            positions[:, number, start:stop] = backbone.positions(
                kinds[here], [grid for segment, _ in row for grid in segment.grids]
            )
            at = np.flatnonzero(roles[here] == Role.BRIDGE)
            if len(at):
                bridge[place] = number * size + start + at[-1]
    in_order = [rows[place] for line in lines for place in line]
    patches = [patch for row in in_order for segment, _ in row for patch in segment.patches]
    grids = [grid for row in in_order for segment, _ in row for grid in segment.grids]
    return Batch(
        input_ids=torch.from_numpy(ids),
        roles=torch.from_numpy(roles),
        kinds=torch.from_numpy(kinds),
        samples=torch.from_numpy(samples),
        position_ids=torch.from_numpy(positions),
        bridge=torch.from_numpy(bridge),
        mask_token=backbone.text.control.mask,
        pixel_values=torch.from_numpy(np.concatenate(patches)) if patches else None,
        image_grid_thw=torch.tensor(grids) if grids else None,
        apart=apart,
    )
