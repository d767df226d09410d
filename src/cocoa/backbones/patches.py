"""Pixels to patches as Qwen-VL wants them: resize inside pixel limits, cut into patches, normalise.

Patches are bytes until they are computed with, an eighth as large: what is read ahead, joined to a batch and copied
to a GPU. The same arithmetic as the stock PIL image processor (a test holds them equal), without its per-call overhead.
Shapes: P patches, B = channels x patch x patch bytes a patch, F = channels x temporal x patch x patch values a patch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cocoa.errors import ImageError

Patches = NDArray[np.uint8 | np.float32]
"""Bytes [P, B] as they are cut from a picture, or float32 [P, F], normalised."""


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
    def bytes_per_patch(self) -> int:
        """Length B of a patch as it is cut (588 for Qwen2-VL)."""
        return 3 * self.patch_size**2

    @property
    def values_per_patch(self) -> int:
        """Length F of a patch as the tower reads it (1176 for Qwen2-VL)."""
        return self.temporal_patch_size * self.bytes_per_patch

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

    def cut(self, picture: Image.Image) -> tuple[NDArray[np.uint8], tuple[int, int, int]]:
        """Returns (patches [P, B], grid (time, rows, columns) in patches) of an RGB picture.

        A patch has its red values, then its green and blue ones. The patches of one visual token are consecutive rows.
        """
        size = self.resized(*picture.size)
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        rows, columns = size[1] // self.patch_size, size[0] // self.patch_size
        merge, patch = self.merge_size, self.patch_size
        blocks = np.asarray(picture, np.uint8).reshape(rows // merge, merge, patch, columns // merge, merge, patch, 3)
        blocks = blocks.transpose(0, 3, 1, 4, 6, 2, 5)  # (rows, columns, merge, merge, 3, patch, patch)
        return blocks.reshape(rows * columns, self.bytes_per_patch), (1, rows, columns)

    def blank(self, width: int, height: int) -> tuple[NDArray[np.uint8], tuple[int, int, int]]:
        """Returns what `cut` would of a picture of this size, but for the content: one zero, seen as many."""
        new_width, new_height = self.resized(width, height)
        rows, columns = new_height // self.patch_size, new_width // self.patch_size
        return np.broadcast_to(np.uint8(0), (rows * columns, self.bytes_per_patch)), (1, rows, columns)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Returns float32 [P, F], as the tower reads them, of patches [P, B], on their device; floats as they are."""
        if pixels.is_floating_point():
            return pixels
        size = self.patch_size**2
        frames = pixels.new_empty((len(pixels), 3, self.temporal_patch_size, size), dtype=torch.float32)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            # In place, since many patches are large; by plain numbers, since a GPU would have to be sent tensors.
            # The stock processor computes in float32, so they are rounded to it.
            scale, shift = float(np.float32(1 / (255 * std))), float(np.float32(mean / std))
            cut = pixels[:, channel * size : (channel + 1) * size]
            frames[:, channel, 0].copy_(cut).mul_(scale).sub_(shift)
        frames[:, :, 1:] = frames[:, :, :1]  # a still picture: all frames are the first
        return frames.flatten(1)

    def uncut(self, patches: Patches, grid: tuple[int, int, int]) -> NDArray[np.uint8]:
        """Returns the RGB picture [H, W, 3] of patches: the one that they were cut from, if they are bytes.

        Of normalised patches the first frame is shown, each value as the nearest that a byte can have.
        """
        _, rows, columns = grid
        merge, patch = self.merge_size, self.patch_size
        blocks = patches.reshape(rows // merge, columns // merge, merge, merge, 3, -1, patch, patch)[:, :, :, :, :, 0]
        pixels = blocks.transpose(0, 2, 5, 1, 3, 6, 4).reshape(rows * patch, columns * patch, 3)
        if pixels.dtype != np.uint8:
            pixels = (pixels * np.asarray(self.std, np.float32) + np.asarray(self.mean, np.float32)) * 255
            pixels = pixels.round().clip(0, 255)
        return pixels.astype(np.uint8)
