"""A layout: who may look at whom, as a rule on token roles, small enough to draw.

Shapes: N rows, S sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor


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
