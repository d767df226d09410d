"""Pixels to patches as Qwen-VL wants them: resize inside pixel limits, normalise, cut into patches.

The same arithmetic as the stock PIL image processor (a test holds them equal), without its per-call overhead.
Shapes: P patches of one image, F = channels x temporal x patch x patch values a patch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cocoa.errors import ImageError


@dataclass(frozen=True)
class PatchGrid:
    """How a backbone cuts pictures; sizes in pixels, `merge_size` x `merge_size` patches make one visual token."""

    min_pixels: int
    max_pixels: int
    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    @property
    def patches_per_token(self) -> int:
        """Patches behind one visual token."""
        return self.merge_size**2

    @property
    def values_per_patch(self) -> int:
        """Length F of one patch row (1176 for Qwen2-VL)."""
        return 3 * self.temporal_patch_size * self.patch_size**2

    def resized(self, width: int, height: int, *, max_ratio: float = 200) -> tuple[int, int]:
        """Returns (width, height) in pixels after resizing: multiples of patch x merge within the pixel limits.

        A long picture whose short side is one unit may pass `max_pixels`, as in the stock rule. Raises `E_IMAGE_RATIO`
        beyond `max_ratio` (Qwen-VL's own bound).
        """
        if max(width, height) > max_ratio * min(width, height):
            raise ImageError("E_IMAGE_RATIO", f"picture of {width}x{height} pixels is longer than 1:{max_ratio:g}")
        unit = self.patch_size * self.merge_size
        # A side that rounds to 0 here has an area below any limit, so the last rule gives it a unit.
        new_w, new_h = (round(side / unit) * unit for side in (width, height))
        if new_w * new_h > self.max_pixels:
            shrink = math.sqrt(width * height / self.max_pixels)
            new_w, new_h = (max(unit, math.floor(side / shrink / unit) * unit) for side in (width, height))
        elif new_w * new_h < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (width * height))
            new_w, new_h = (math.ceil(side * grow / unit) * unit for side in (width, height))
        return new_w, new_h

    def cut(self, picture: Image.Image) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
        """Returns (patches [P, F] normalised, grid (time, rows, columns) in patches) of an RGB picture.

        The patches of one visual token are consecutive rows.
        """
        size = self.resized(*picture.size)
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        scale = np.array([1 / (255 * std) for std in self.std], np.float32)
        shift = np.array([mean / std for mean, std in zip(self.mean, self.std, strict=True)], np.float32)
        pixels: NDArray[np.float32] = np.array(picture, np.float32) * scale - shift  # (H, W, 3)
        rows, columns = size[1] // self.patch_size, size[0] // self.patch_size
        merge, patch = self.merge_size, self.patch_size
        blocks: NDArray[np.float32] = pixels.reshape(rows // merge, merge, patch, columns // merge, merge, patch, 3)
        blocks = blocks.transpose(0, 3, 1, 4, 6, 2, 5)  # (rows, columns, merge, merge, 3, patch, patch)
        blocks = np.repeat(blocks[:, :, :, :, :, None], self.temporal_patch_size, axis=5)
        patches: NDArray[np.float32] = blocks.reshape(rows * columns, self.values_per_patch)
        return patches, (1, rows, columns)

    def blank(self, width: int, height: int) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
        """Returns what `cut` would of a picture of this size, but for the content: one zero, seen as many."""
        new_width, new_height = self.resized(width, height)
        rows, columns = new_height // self.patch_size, new_width // self.patch_size
        return np.broadcast_to(np.float32(0), (rows * columns, self.values_per_patch)), (1, rows, columns)

    def uncut(self, patches: NDArray[np.float32], grid: tuple[int, int, int]) -> NDArray[np.uint8]:
        """Returns the RGB picture [H, W, 3] that `cut` made these patches from (first of the doubled frames)."""
        _, rows, columns = grid
        merge, patch = self.merge_size, self.patch_size
        blocks = patches.reshape(
            rows // merge, columns // merge, merge, merge, 3, self.temporal_patch_size, patch, patch
        )[:, :, :, :, :, 0]
        pixels = blocks.transpose(0, 2, 5, 1, 3, 6, 4).reshape(rows * patch, columns * patch, 3)
        pixels = (pixels * np.asarray(self.std, np.float32) + np.asarray(self.mean, np.float32)) * 255
        return pixels.round().clip(0, 255).astype(np.uint8)
