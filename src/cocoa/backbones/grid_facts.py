"""What a vision tower works out from the grids of its pictures, worked out on the CPU before it runs.

The stock towers take all of it as keywords, and else ask the device where the grids lie, which on a GPU is to wait for
everything that it was told to do before.

Shapes: I pictures, P patches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_window_index,
)

from cocoa.backbones.rope import patch_positions

Facts = dict[str, Tensor]
GridFact = Callable[[Any, Tensor], Facts]
"""Returns some keywords of a tower for grids [I, 3]."""
ENDS = ("cu_seqlens", "cu_window_seqlens")
"""Keywords that `VisionAttention` looks into: they stay on the CPU."""


def pictures(tower: Any, grids: Tensor) -> Facts:
    """Returns where each picture ends, and the row and column of each patch."""
    positions = patch_positions(grids.tolist(), tower.config.spatial_merge_size)
    return {"cu_seqlens": get_vision_cu_seqlens(grids), "position_ids": positions}


def windows(tower: Any, grids: Tensor) -> Facts:
    """Returns the order of patches in which windows stand together, and where each window ends."""
    config = tower.config
    index, ends = get_vision_window_index(grids, config.spatial_merge_size, config.window_size, config.patch_size)
    return {"window_index": index, "cu_window_seqlens": ends}


def learned_positions(tower: Any, grids: Tensor) -> Facts:
    """Returns which rows of a square table of positions are mixed for each patch, and in what shares."""
    indices, weights = get_vision_interpolation_indices_and_weights(
        grids,
        num_grid_per_side=tower.num_grid_per_side,
        mode=tower.interpolation_mode,
        align_corners=tower.interpolation_align_corners,
        spatial_merge_size=tower.config.spatial_merge_size,
    )
    return {"interp_indices": indices, "interp_weights": weights}
