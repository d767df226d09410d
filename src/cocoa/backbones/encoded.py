"""A sample as the backbone reads it: token ids, what each token is, and the patches of its images.

Shapes: S tokens, P patches of one image, B bytes a patch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from cocoa.backbones.patches import Patches


class Kind(IntEnum):
    """What a token stands for: a piece of text, a piece of a picture, or control (vision tags, bridge, padding)."""

    TEXT = 0
    IMAGE = 1
    CONTROL = 2


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids [S] and kinds [S]; patches and a grid (time, rows, columns in patches) for each image.

    Patches are bytes [P, B] as `PatchGrid.cut` makes them; normalised ones stand for what no picture can show.
    """

    ids: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    patches: tuple[Patches, ...] = ()
    grids: tuple[tuple[int, int, int], ...] = ()
    where: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def content_key(self) -> str:
        """A digest that is equal for samples that look the same to the model, wherever they come from."""
        digest = hashlib.sha256(self.ids.tobytes())
        for patches, grid in zip(self.patches, self.grids, strict=True):
            digest.update(repr(grid).encode())
            digest.update(patches.tobytes())
        return digest.hexdigest()

    @property
    def num_uncuttable(self) -> int:
        """Tokens up to the end of the last picture (its closing tag included), which truncation must keep."""
        pictures = np.flatnonzero(self.kinds == Kind.IMAGE)
        return int(pictures[-1]) + 2 if len(pictures) else 0

    def cut(self, num_tokens: int) -> Encoded:
        """Returns the first `num_tokens` tokens, or more where a picture would be cut."""
        end = max(num_tokens, self.num_uncuttable)
        return self if end >= len(self) else replace(self, ids=self.ids[:end], kinds=self.kinds[:end])
