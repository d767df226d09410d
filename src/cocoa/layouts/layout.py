"""A layout: who may look at whom, as a rule on token roles, small enough to draw.

Shapes: N rows, S sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cocoa.looks import Looks, Segment, grouped, may_be_worth_grouping, worth_grouping


class Role(IntEnum):
    """What a token is to the layout: padding, context (A), bridge token (e), target text (B).

    A target that stands apart is in no row: the model never reads it, a light decoder does.
    """

    PAD = 0
    CONTEXT = 1
    BRIDGE = 2
    TARGET = 3
    APART = 4


LETTERS = {Role.PAD: "-", Role.CONTEXT: "A", Role.BRIDGE: "e", Role.TARGET: "B"}
TOKENS = (Role.CONTEXT, Role.BRIDGE, Role.TARGET)


@dataclass(frozen=True)
class Layout:
    """The rule `sees[query role] = key roles`, with an order in time if `causal`.

    `bridged` says that a bridge token stands between context and target when both share a row.
    """

    name: str
    sees: Mapping[Role, frozenset[Role]]
    bridged: bool = False
    causal: bool = False

    def allowed(self, roles: Tensor, samples: Tensor | None = None) -> Tensor:
        """Returns bool [N, 1, S, S]: may query (third axis) look at key (last axis)?

        `roles` [N, S]; `samples` [N, S] tells samples that share a row apart: none looks into another. Padding is never
        looked at, and looks at itself only, so that no softmax row is empty.
        """
        table = torch.zeros(len(Role), len(Role), dtype=torch.bool, device=roles.device)
        for query, keys in self.sees.items():
            for key in keys:
                table[query, key] = True
        roles = roles.long()
        allowed = table[roles[:, :, None], roles[:, None, :]]  # (N, S, S)
        size = roles.shape[1]
        if self.causal:
            allowed &= torch.ones(size, size, dtype=torch.bool, device=roles.device).tril()
        if samples is not None:
            allowed &= samples[:, :, None] == samples[:, None, :]
        itself = torch.eye(size, dtype=torch.bool, device=roles.device)
        return (allowed | (itself & (roles == Role.PAD)[:, :, None]))[:, None]

    @property
    def segments(self) -> tuple[tuple[frozenset[Role], frozenset[Role]], ...]:
        """The parts of a row that are computed by themselves: roles of queries, and the roles that they all look at.

        For the bridge (A over A, e), (e over all), (B over e, B): no pair of A and B is in any of them.
        """
        queries: dict[frozenset[Role], set[Role]] = {}
        for role, keys in self.sees.items():
            queries.setdefault(keys, set()).add(role)
        return tuple((frozenset(roles), keys) for keys, roles in queries.items())

    def looks(
        self, roles: Tensor, samples: Tensor | None = None, *, group: bool | None = None, device: str = "cpu"
    ) -> Looks:
        """Returns the same rule as `allowed`, as attention calls without a square mask where that computes less.

        `group` says whether rows are computed by segments or as the lines stand; None: whichever `worth_grouping` says
        is cheaper on a type of device. Raises `ValueError` for a rule with an order in time whose roles do not all see
        the same.
        """
        if self.causal and len(self.segments) > 1:
            raise ValueError(f"layout {self.name} cuts roles apart and has an order in time: it has no segments")
        shape = (roles.shape[0], roles.shape[1])
        needed = self.num_needed(roles, samples)
        if group or (group is None and may_be_worth_grouping(shape, needed)):
            made = grouped(self._placed(roles, samples), shape, causal=self.causal, device=device)
            if group or worth_grouping(made, device):
                return made.to(roles.device)
        return self._standing(roles, samples, needed)

    def num_needed(self, roles: Tensor, samples: Tensor | None = None) -> int:
        """Returns the pairs of a query and a key that the rule allows, padding's looks at itself left out."""
        real = roles != Role.PAD
        lines = torch.arange(len(roles), device=roles.device)[:, None].expand(roles.shape)
        owners = (lines if samples is None else samples)[real].long()
        held = torch.bincount(owners * len(Role) + roles[real].long(), minlength=len(Role))
        counts = functional.pad(held, (0, -len(held) % len(Role))).view(-1, len(Role))
        if self.causal:
            rows = counts.sum(1)
            return int((rows * (rows + 1) // 2).sum())
        asked = [counts[:, sorted(queries)].sum(1) * counts[:, sorted(keys)].sum(1) for queries, keys in self.segments]
        return int(torch.stack(asked).sum())

    def _placed(self, roles: Tensor, samples: Tensor | None) -> list[list[Segment]]:
        """The places of each sample, for each of `segments`."""
        flat = roles.detach().cpu().numpy().reshape(-1)
        owners = np.repeat(np.arange(roles.shape[0]), roles.shape[1])
        if samples is not None:
            owners = samples.detach().cpu().numpy().reshape(-1)
        real = np.flatnonzero(flat != Role.PAD)
        real = real[owners[real].argsort(kind="stable")]
        ends = np.flatnonzero(np.diff(owners[real])) + 1
        placed: list[list[Segment]] = [[] for _ in self.segments]
        for places in np.split(real, ends):
            own = flat[places]
            by_role = {role: own == role for role in TOKENS}
            for kind, (queries, keys) in zip(placed, self.segments, strict=True):
                asking = places[np.logical_or.reduce([by_role[role] for role in queries])]
                if len(asking):
                    kind.append((asking, places[np.logical_or.reduce([by_role[role] for role in keys])]))
        return placed

    def _standing(self, roles: Tensor, samples: Tensor | None, needed: int) -> Looks:
        """The lines as they stand, with the smallest mask that says the rule."""
        is_padding = roles == Role.PAD
        shape = (roles.shape[0], roles.shape[1])
        alone = samples is None or bool((samples.amax(1, keepdim=True) == samples)[~is_padding].all())
        padded = bool(is_padding.any())
        if self.causal and alone and not bool((is_padding[:, :-1] & ~is_padding[:, 1:]).any()):
            return Looks(shape, True, needed)
        if not self.causal and alone and len(self.segments) == 1:
            masked = is_padding[:, None, None] if padded else None
            return Looks(shape, False, needed, masked=masked)
        return Looks(shape, False, needed, masked=~self.allowed(roles, samples))

    def without(self, query: Role, key: Role) -> Layout:
        """Returns the layout with one edge cut: `query` no longer looks at `key`."""
        sees = dict(self.sees)
        sees[query] = sees[query] - {key}
        return replace(self, name=f"{self.name}-{LETTERS[query]}x{LETTERS[key]}", sees=sees)

    def draw(self, row: str | None = None) -> str:
        """Returns the picture of the layout for a row of role letters: `#` looks at, `.` does not."""
        row = row or ("AAeBB" if self.bridged else "AABB")
        letter_roles = {letter: role for role, letter in LETTERS.items()}
        allowed = self.allowed(torch.tensor([[letter_roles[letter] for letter in row]]))[0, 0]
        lines = ["  " + " ".join(row)]
        for letter, looks in zip(row, allowed.tolist(), strict=True):
            lines.append(f"{letter} " + " ".join("#" if look else "." for look in looks))
        return "\n".join(lines)


def everything() -> dict[Role, frozenset[Role]]:
    """Returns the rule in which every token looks at every token."""
    return {role: frozenset(TOKENS) for role in TOKENS}
