"""Layouts, drawn: who looks at whom, padded on either side."""

from __future__ import annotations

import pytest
import torch

from cocoa.layouts import LAYOUTS, Role

PICTURES = {
    ("causal", "AAeBB-"): """\
  A A e B B -
A # . . . . .
A # # . . . .
e # # # . . .
B # # # # . .
B # # # # # .
- . . . . . #""",
    ("causal", "--AAeBB"): """\
  - - A A e B B
- # . . . . . .
- . # . . . . .
A . . # . . . .
A . . # # . . .
e . . # # # . .
B . . # # # # .
B . . # # # # #""",
    ("bidirectional", "AAeBB-"): """\
  A A e B B -
A # # # # # .
A # # # # # .
e # # # # # .
B # # # # # .
B # # # # # .
- . . . . . #""",
    ("bidirectional", "--AAeBB"): """\
  - - A A e B B
- # . . . . . .
- . # . . . . .
A . . # # # # #
A . . # # # # #
e . . # # # # #
B . . # # # # #
B . . # # # # #""",
    ("eos_open", "AAeBB-"): """\
  A A e B B -
A # # # # # .
A # # # # # .
e # # # # # .
B # # # # # .
B # # # # # .
- . . . . . #""",
    ("eos_open", "--AAeBB"): """\
  - - A A e B B
- # . . . . . .
- . # . . . . .
A . . # # # # #
A . . # # # # #
e . . # # # # #
B . . # # # # #
B . . # # # # #""",
    ("eos_bridge", "AAeBB-"): """\
  A A e B B -
A # # # . . .
A # # # . . .
e # # # # # .
B . . # # # .
B . . # # # .
- . . . . . #""",
    ("eos_bridge", "--AAeBB"): """\
  - - A A e B B
- # . . . . . .
- . # . . . . .
A . . # # # . .
A . . # # # . .
e . . # # # # #
B . . . . # # #
B . . . . # # #""",
    ("eos_bridge_encoder", "AAeBB-"): """\
  A A e B B -
A # # # . . .
A # # # . . .
e # # # . . .
B . . # # # .
B . . # # # .
- . . . . . #""",
    ("eos_bridge_encoder", "--AAeBB"): """\
  - - A A e B B
- # . . . . . .
- . # . . . . .
A . . # # # . .
A . . # # # . .
e . . # # # . .
B . . . . # # #
B . . . . # # #""",
}


@pytest.mark.parametrize(("name", "row"), PICTURES)
def test_a_layout_looks_like_its_picture(name: str, row: str) -> None:
    assert LAYOUTS[name].draw(row) == PICTURES[name, row]


def test_every_layout_has_a_picture() -> None:
    assert {name for name, _ in PICTURES} == set(LAYOUTS)


def test_a_drawing_without_a_row_shows_the_bridge_only_where_there_is_one() -> None:
    assert LAYOUTS["eos_bridge"].draw().splitlines()[0] == "  A A e B B"
    assert LAYOUTS["bidirectional"].draw().splitlines()[0] == "  A A B B"


@pytest.mark.parametrize("name", LAYOUTS)
def test_padding_looks_at_itself_only_and_is_never_looked_at(name: str) -> None:
    roles = torch.tensor([[0, 0, 1, 1, 2, 3, 3], [1, 2, 3, 3, 3, 0, 0], [1, 1, 1, 2, 3, 3, 3]], dtype=torch.uint8)
    allowed = LAYOUTS[name].allowed(roles)
    assert allowed.shape == (3, 1, 7, 7)
    assert allowed.dtype == torch.bool
    padding = roles == Role.PAD
    itself = torch.eye(7, dtype=torch.bool)
    for row in range(3):
        for place in range(7):
            if padding[row, place]:
                assert torch.equal(allowed[row, 0, place], itself[place])
                assert torch.equal(allowed[row, 0, :, place], itself[place])
            else:
                assert allowed[row, 0, place, place], "a token sees itself"


def test_without_cuts_one_edge_and_leaves_the_layout_it_came_from() -> None:
    blind = LAYOUTS["eos_bridge"].without(Role.BRIDGE, Role.CONTEXT)
    assert blind.name == "eos_bridge-exA"
    assert (
        blind.draw("AAeBB-")
        == """\
  A A e B B -
A # # # . . .
A # # # . . .
e . . # # # .
B . . # # # .
B . . # # # .
- . . . . . #"""
    )
    assert LAYOUTS["eos_bridge"].draw("AAeBB-") == PICTURES["eos_bridge", "AAeBB-"]
