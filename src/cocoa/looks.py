"""Looks: which queries of a batch meet which keys, so that attention computes these pairs and not the square of a row.

A layout says what may be looked at; here rows are grouped so that each group is one plain attention call. Shapes: N
lines of S places (flattened: place = line x S + column), n rows of a group, Q queries and K keys of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cocoa.transfer import sent

Segment = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Places of some queries of one sample, and of all keys that each of them looks at."""
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], Tensor]
"""One attention call: (queries, keys, values, mask to add, causal) to [n, Q, heads, values of a head]."""

CALL_LOOKS = 4096
"""What one more attention call costs, counted in query-key pairs: rows share a call where that pads fewer pairs."""
PLACE_LOOKS = 64
"""What gathering one place costs, counted in pairs: a batch whose rows it saves fewer pairs is computed as it stands.

Both were measured on CPU cores (docs/performance.md, "Query-key pairs")."""
GPU_CALL_LOOKS = 262_144
"""`CALL_LOOKS` on a GPU, which computes as many pairs in the time that a call takes to begin."""


def call_looks(device: str) -> int:
    """Returns what one more attention call costs on a type of device, in query-key pairs."""
    return CALL_LOOKS if device == "cpu" else GPU_CALL_LOOKS


@dataclass(frozen=True)
class Group:
    """Rows of one call: places of queries [n, Q] and keys [n, K]; short rows repeat a place, masked as a key."""

    queries: Tensor
    keys: Tensor
    masked: Tensor | None  # (n, 1, 1, K) bool, True: not a key

    @property
    def num_computed(self) -> int:
        """Query-key pairs that the call computes."""
        return self.queries.numel() * self.keys.shape[1]


@dataclass(frozen=True)
class Looks:
    """The attention of one batch, the same in every layer: `groups`, or without any the lines as they stand.

    `back` [N x S] names the query slot of each place, in the order of the groups. Lines as they stand keep `masked`
    (bool, [N, 1, S, S] or [N, 1, 1, S], True: no look; None: every look). `num_needed` are the pairs that the layout
    allows, `num_computed` those that are computed, padding included.
    """

    shape: tuple[int, int]
    causal: bool
    num_needed: int
    groups: tuple[Group, ...] = ()
    back: Tensor | None = None
    masked: Tensor | None = None
    _added: dict[tuple[int, torch.dtype], Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def num_computed(self) -> int:
        """Query-key pairs that are computed in one head of one layer."""
        lines, size = self.shape
        return sum(group.num_computed for group in self.groups) if self.groups else lines * size * size

    def to(self, device: torch.device) -> Looks:
        """Returns the looks on a device."""
        held = [tensor for tensor in (self.masked, self.back) if tensor is not None]
        if all(tensor.device == device for tensor in held):
            return self  # with what was made of the masks before

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else sent(tensor, device)

        groups = tuple(
            Group(sent(group.queries, device), sent(group.keys, device), moved(group.masked)) for group in self.groups
        )
        return Looks(self.shape, self.causal, self.num_needed, groups, back=moved(self.back), masked=moved(self.masked))

    def anew(self) -> Looks:
        """Returns the same looks without what a pass made of their masks, which would be held as long as they are."""
        return replace(self, _added={})

    def attend(self, attend: Attend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Returns [N, S, H, D]: what queries [N, H, S, D] get from keys and values [N, heads of keys, S, D].

        What padding gets is of no meaning: nothing looks at it.
        """
        if not self.groups:
            return attend(query, key, value, self._mask(0, self.masked, query.dtype), self.causal)
        assert self.back is not None
        queries = _taken(query, [group.queries for group in self.groups])
        keys = _taken(key, [group.keys for group in self.groups])
        values = _taken(value, [group.keys for group in self.groups])
        made = []
        for number, group in enumerate(self.groups):
            mask = self._mask(number, group.masked, query.dtype)
            states = attend(queries[number], keys[number], values[number], mask, self.causal)
            made.append(states.flatten(0, 1).flatten(1))
        slots = torch.cat(made) if len(made) > 1 else made[0]
        heads, size = query.shape[1], value.shape[3]
        return functional.embedding(self.back, slots).view(*self.shape, heads, size)

    def _mask(self, number: int, masked: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """What is added to the scores: made once for all layers, which all keep it for their backward pass."""
        if masked is None:
            return None
        if (number, dtype) not in self._added:
            # Not an inference tensor, even if the first to ask is in inference mode: it may be asked for again.
            with torch.inference_mode(False):
                added = torch.zeros(masked.shape, dtype=dtype, device=masked.device)
                self._added[number, dtype] = added.masked_fill_(masked, -torch.inf)
        return self._added[number, dtype]


def placed(allowed: Tensor | Looks, device: torch.device) -> Tensor | Looks:
    """Returns who may look at whom, as a square mask or as looks, on a device."""
    return allowed.to(device) if isinstance(allowed, Looks) else sent(allowed, device)


def _taken(states: Tensor, places: Sequence[Tensor]) -> list[Tensor]:
    """Returns [n, heads, Q, D] for each group, taken from [N, heads, S, D] in one gather."""
    heads, size = states.shape[1], states.shape[3]
    rows = states.transpose(1, 2).reshape(-1, heads * size)
    flat = torch.cat([part.flatten() for part in places])
    # As an embedding lookup, whose backward pass adds up rows that were taken twice, faster than indexing's.
    taken = torch.split(functional.embedding(flat, rows), [part.numel() for part in places])
    return [part.view(*group.shape, heads, size).transpose(1, 2) for part, group in zip(taken, places, strict=True)]


def grouped(
    kinds: Sequence[Sequence[Segment]], shape: tuple[int, int], *, causal: bool = False, device: str = "cpu"
) -> Looks:
    """Returns the looks of segments, those of a kind and of like length together.

    A segment joins a call where the pairs that this pads are fewer than a call costs on the device. With `causal` each
    query looks at the keys up to its own place in the row; queries and keys are then the same places.
    """
    calls = [call for segments in kinds for call in _calls(segments, call_looks(device))]
    groups = tuple(_group(rows, causal=causal) for rows in calls)
    back = np.zeros(shape[0] * shape[1], np.int64)
    start = 0
    for rows, group in zip(calls, groups, strict=True):
        for queries, _ in rows:
            back[queries] = start + np.arange(len(queries))
            start += group.queries.shape[1]
    return Looks(shape, causal, _needed(kinds, causal=causal), groups, torch.from_numpy(back))


def _calls(segments: Sequence[Segment], cost: int) -> list[list[Segment]]:
    """Segments of one kind in calls, sorted by length."""
    calls: list[list[Segment]] = []
    most_queries = 0
    for queries, keys in sorted(segments, key=lambda segment: (len(segment[1]), len(segment[0]))):
        if calls:
            rows = len(calls[-1])
            before = rows * most_queries * len(calls[-1][-1][1])
            wider = max(most_queries, len(queries))
            after = (rows + 1) * wider * len(keys)
            if after - before - len(queries) * len(keys) <= cost:
                calls[-1].append((queries, keys))
                most_queries = wider
                continue
        calls.append([(queries, keys)])
        most_queries = len(queries)
    return calls


def _group(rows: Sequence[Segment], *, causal: bool) -> Group:
    queries = _padded([queries for queries, _ in rows])
    keys = _padded([keys for _, keys in rows])
    masked = torch.zeros(len(rows), 1, 1, keys.shape[1], dtype=torch.bool)
    for number, (_, own) in enumerate(rows):
        masked[number, ..., len(own) :] = True
    # What a causal row repeats stands behind it, where no query of its own looks.
    return Group(queries, keys, masked if masked.any() and not causal else None)


def _padded(places: Sequence[NDArray[np.int64]]) -> Tensor:
    size = max(len(row) for row in places)
    return torch.from_numpy(np.stack([np.pad(row, (0, size - len(row)), mode="edge") for row in places]))


def _needed(kinds: Sequence[Sequence[Segment]], *, causal: bool) -> int:
    segments = [segment for kind in kinds for segment in kind]
    if causal:
        return sum(len(keys) * (len(keys) + 1) // 2 for _, keys in segments)
    return sum(len(queries) * len(keys) for queries, keys in segments)


def may_be_worth_grouping(shape: tuple[int, int], num_needed: int) -> bool:
    """Whether there are pairs enough to save, before groups are made that compute at least `num_needed`."""
    lines, size = shape
    return lines * size * size - num_needed > PLACE_LOOKS * lines * size


def worth_grouping(looks: Looks, device: str = "cpu") -> bool:
    """Whether the groups save more pairs than gathering their places and calling more often costs."""
    lines, size = looks.shape
    saved = lines * size * size - looks.num_computed
    return saved > PLACE_LOOKS * lines * size + call_looks(device) * (len(looks.groups) - 1)
