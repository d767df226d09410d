"""Looks: the calls that attention makes are the layout's rule, pair for pair, and no more than two blocks need."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cocoa import looks as counting
from cocoa.layouts import LAYOUTS, Layout, Role
from cocoa.looks import Looks

BRIDGES = ("eos_bridge", "eos_bridge_encoder")
RULES = [*LAYOUTS.values(), LAYOUTS["eos_bridge"].without(Role.BRIDGE, Role.CONTEXT)]


def pairs_of(looks: Looks) -> Tensor:
    """Returns bool [N x S, N x S]: what the calls compute and do not mask, for the queries whose result is used."""
    lines, size = looks.shape
    places = torch.arange(lines * size)
    met = torch.zeros(lines * size, lines * size, dtype=torch.bool)
    if not looks.groups:
        own = torch.ones(lines, size, size, dtype=torch.bool)
        if looks.causal:
            own = own.tril()
        if looks.masked is not None:
            own = own & ~looks.masked[:, 0].expand(lines, size, size)
        for line in range(lines):
            here = slice(line * size, (line + 1) * size)
            met[here, here] = own[line]
        return met
    start = 0
    for group in looks.groups:
        rows, asked = group.queries.shape
        for row in range(rows):
            for slot in range(asked):
                query = group.queries[row, slot]
                number = start + row * asked + slot
                if looks.back[query] != number:
                    continue
                keys = group.keys[row]
                seen = torch.ones(len(keys), dtype=torch.bool)
                if group.masked is not None:
                    seen &= ~group.masked[row, 0, 0]
                if looks.causal:
                    seen &= torch.arange(len(keys)) <= slot
                assert len(keys[seen].unique()) == seen.sum(), "no key counts twice"
                met[query, keys[seen]] = True
        start += rows * asked
    assert len(places) == len(looks.back)
    return met


def made_of(lines: list[list[str]], padding: str) -> tuple[Tensor, Tensor]:
    """Returns roles and samples of lines whose rows are written in letters."""
    letters = {"A": Role.CONTEXT, "e": Role.BRIDGE, "B": Role.TARGET}
    size = max(sum(map(len, line)) for line in lines)
    roles = torch.zeros(len(lines), size, dtype=torch.uint8)
    samples = torch.full((len(lines), size), -1)
    number = 0
    for place, line in enumerate(lines):
        start = size - sum(map(len, line)) if padding == "left" else 0
        for row in line:
            roles[place, start : start + len(row)] = torch.tensor([letters[letter] for letter in row])
            samples[place, start : start + len(row)] = number
            start, number = start + len(row), number + 1
    return roles, samples


BATCHES = {
    "even": [["AAAeBB"], ["AAAeBB"]],
    "ragged": [["AAAAAeB"], ["AeBBBB"], ["AAeBB"], ["eB"]],
    "several bridges": [["AAeeeBBB"], ["AAAAeeeB"]],
    "no target": [["AAAe"], ["Ae"]],
    "bridge last": [["AABBe"], ["AAAABBBe"]],
    "packed": [["AAeB", "AeBBB"], ["AAAeBB"], ["Ae", "AAAeB", "AeB"]],
}


@pytest.mark.parametrize("call_cost", [0, 4096])
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("layout", RULES, ids=lambda layout: layout.name)
def test_the_calls_meet_exactly_the_pairs_that_the_rule_allows(
    layout: Layout, batch: str, padding: str, call_cost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "CALL_LOOKS", call_cost)
    roles, samples = made_of(BATCHES[batch], padding)
    real = (roles != Role.PAD).flatten()
    expected = torch.block_diag(*layout.allowed(roles, samples)[:, 0].float()).bool()[real]
    for group in (True, False, None):
        looks = layout.looks(roles, samples, group=group)
        assert group is None or bool(looks.groups) == group
        assert torch.equal(pairs_of(looks)[real], expected)
        assert looks.num_needed == layout.num_needed(roles, samples) == expected.sum() <= looks.num_computed


@pytest.mark.parametrize("layout", BRIDGES)
@pytest.mark.parametrize(("context", "target"), [(100, 50), (700, 700), (1500, 40)])
def test_a_bridged_row_costs_what_its_two_blocks_cost(layout: str, context: int, target: int) -> None:
    roles, samples = made_of([["A" * context + "e" + "B" * target]] * 3, "right")
    looks = LAYOUTS[layout].looks(roles, samples, group=True)
    blocks = (context + 1) ** 2 + (target + 1) ** 2
    # Apart from e, which looks once at most at each place and is looked at once.
    assert abs(looks.num_needed - 3 * blocks) <= 3 * (context + target + 2)
    assert looks.num_computed == looks.num_needed
    assert LAYOUTS[layout].looks(roles, samples, group=False).num_computed == 3 * (context + 1 + target) ** 2


@pytest.mark.parametrize("layout", BRIDGES)
def test_with_a_row_twice_as_long_on_one_side_the_other_side_costs_no_more(layout: str) -> None:
    """The square of a sum grows by its mixed term; two blocks have none."""

    def cost(context: int, target: int) -> int:
        roles, samples = made_of([["A" * context + "e" + "B" * target]], "right")
        return LAYOUTS[layout].looks(roles, samples).num_computed

    mixed = cost(1200, 800) - cost(1200, 400) - cost(600, 800) + cost(600, 400)
    assert mixed == 0


@pytest.mark.parametrize("layout", BRIDGES)
def test_lengths_that_are_mixed_in_one_batch_do_not_pad_each_other_much(layout: str) -> None:
    lengths = [(1000, 20), (30, 900), (500, 500), (10, 10), (990, 25), (480, 510)] * 2
    roles, samples = made_of([["A" * one + "e" + "B" * other] for one, other in lengths], "right")
    looks = LAYOUTS[layout].looks(roles, samples)
    assert looks.groups
    assert looks.num_computed <= 1.1 * looks.num_needed
    assert looks.num_computed < 0.65 * roles.numel() * roles.shape[1]


def test_short_rows_stand_as_they_are_because_gathering_them_would_cost_more() -> None:
    roles, samples = made_of([["AAAAAAeBBBB"]] * 16, "right")
    looks = LAYOUTS["eos_bridge"].looks(roles, samples)
    assert not looks.groups
    assert looks.num_computed == roles.numel() * roles.shape[1]


def test_rows_that_share_a_long_line_do_not_pay_for_each_other() -> None:
    roles, samples = made_of([["A" * 200 + "e"] * 6], "right")
    looks = LAYOUTS["bidirectional"].looks(roles, samples)
    assert looks.num_computed == looks.num_needed == 6 * 201**2


def test_even_lines_need_no_mask_and_padded_ones_no_square() -> None:
    even, padded = made_of([["AAAe"], ["AAAe"]], "right"), made_of([["AAAAAAe"], ["Ae"]], "right")
    assert LAYOUTS["bidirectional"].looks(*even).masked is None
    assert LAYOUTS["bidirectional"].looks(*padded).masked.shape == (2, 1, 1, 7)
    assert LAYOUTS["causal"].looks(*padded).masked is None


def test_an_order_in_time_with_roles_cut_apart_has_no_segments() -> None:
    cut = LAYOUTS["causal"].without(Role.TARGET, Role.CONTEXT)
    with pytest.raises(ValueError, match="order in time"):
        cut.looks(*made_of([["AAeBB"]], "right"))
