"""Rotary positions of a row with pictures (M-RoPE), and of patches in the tower, as all Qwen-VL models count them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cocoa.backbones.encoded import Kind


def mrope_positions(
    kinds: NDArray[np.uint8], grids: Iterable[tuple[int, int, int]], merge_size: int
) -> NDArray[np.int64]:
    """Returns positions [3, S]: (time, row, column) of each token.

    Text counts on in all three; a picture's tokens count its merged rows and columns from where the text stood, and the
    text after it goes on behind the picture's longer side (Qwen2-VL, arXiv 2409.12191, section 2.1).
    """
    positions = np.zeros((3, len(kinds)), np.int64)
    is_image = kinds == Kind.IMAGE
    index = start = 0
    for grid in grids:
        first = index + int(is_image[index:].argmax())
        positions[:, index:first] = np.arange(start, start + first - index)
        start += first - index
        time, rows, columns = grid
        shape = (time, rows // merge_size, columns // merge_size)
        index = first + shape[0] * shape[1] * shape[2]
        positions[:, first:index] = np.indices(shape).reshape(3, -1) + start
        start += max(shape)
    positions[:, index:] = np.arange(start, start + len(kinds) - index)
    return positions


def patch_positions(grids: Iterable[Sequence[int]], merge_size: int) -> Tensor:
    """Returns int64 [P, 2]: the row and column of each patch of pictures with grids (time, rows, columns).

    In the order of the tower, in which the patches that are merged into one token stand together.
    """
    return torch.cat([_positions_of(*grid, merge_size=merge_size) for grid in grids])


@lru_cache(maxsize=1024)
def _positions_of(time: int, rows: int, columns: int, *, merge_size: int) -> Tensor:
    # Most pictures have one of few shapes, and stock code makes these afresh for each of them.
    places = np.indices((rows, columns)).reshape(2, rows // merge_size, merge_size, columns // merge_size, merge_size)
    merged = places.transpose(0, 1, 3, 2, 4).reshape(2, -1).T
    return torch.from_numpy(np.tile(merged, (time, 1)))
