"""The model as the server drives it: an item is made ready in one thread, many are embedded in another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cocoa.backbones import Encoded
from cocoa.batch import row_length
from cocoa.embedder import Embedder
from cocoa.errors import DataError
from cocoa.images import limits_of, picture_size
from cocoa.prompts import Side, prompted
from cocoa.sample import Sample


@dataclass(frozen=True, slots=True)
class Ready:
    """An item as tokens and patches; `num_tokens` counts e too."""

    encoded: Encoded
    num_tokens: int
    num_pixels: int

    @property
    def size(self) -> tuple[int, int]:
        """Tokens, and pixels of its pictures before resizing."""
        return self.num_tokens, self.num_pixels


class Forward:
    """An `Embedder`, opened up between reading and computing."""

    def __init__(self, embedder: Embedder, *, max_batch_tokens: int) -> None:
        self.embedder = embedder
        self.model = embedder.model.eval()
        self.dimensions = embedder.dimensions
        self.matryoshka = self.model.matryoshka
        self.max_batch_tokens = max_batch_tokens

    def num_tokens(self, pixels: int) -> int:
        """Returns about how many tokens a picture of so many pixels becomes."""
        grid = self.model.backbone.grid
        side = grid.patch_size * grid.merge_size
        return max(grid.min_pixels, min(pixels, grid.max_pixels)) // side**2 + 2

    def ready(self, sample: Sample, side: Side | None, *, cut: bool = False) -> Ready:
        """Returns a sample ready to be embedded, in the words of its side if there is one.

        Raises `DataError` or `ImageError`; `E_DATA_TOO_LONG` where a text would be cut, unless `cut` allows it.
        """
        encoded = self.model.backbone.encode(prompted(sample, side, None, self.model.prompts) if side else sample)
        row = self.model.row(encoded)
        most = self.model.max_content_tokens
        if not cut and len(encoded) > most:
            raise DataError("E_DATA_TOO_LONG", f"{len(encoded)} tokens, {most} are read")
        sizes = (picture_size(image, limits_of(image)) for image in sample.images)
        return Ready(encoded, row_length(row), sum(width * height for width, height in sizes))

    def embed(self, items: Sequence[Ready]) -> NDArray[np.float32]:
        """Returns float32 [N, D] in the order given."""
        with torch.inference_mode():
            return (
                self.model.embed_all([item.encoded for item in items], max_batch_tokens=self.max_batch_tokens)
                .cpu()
                .numpy()
            )
