"""Positions of patches, made once a shape, are those that stock code makes anew for each picture."""

from __future__ import annotations

import pytest
import torch
from transformers.vision_utils import get_vision_position_ids

from cocoa.backbones.rope import patch_positions


@pytest.mark.parametrize("merge_size", [1, 2, 4])
def test_patch_positions_are_those_of_the_stock_tower(merge_size):
    grids = [(1, 4, 8), (1, 8, 4), (1, 12, 12), (3, 4, 8), (1, 4, 8)]
    stock = get_vision_position_ids(torch.tensor(grids), merge_size)
    for _ in range(2):
        positions = patch_positions(grids, merge_size)
        assert positions.dtype == stock.dtype
        assert torch.equal(positions, stock)


def test_what_is_kept_of_a_shape_is_not_handed_out():
    first = patch_positions([(1, 4, 4)], 2)
    first += 1
    assert torch.equal(patch_positions([(1, 4, 4)], 2), first - 1)
