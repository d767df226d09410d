"""What the vision tower hands to the language model.

Shapes: T visual tokens of all pictures in reading order, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Seen:
    """The pictures of a batch after the tower: `features` [T, D] stand where the image tokens do.

    `deepstack` [T, D] each are added to the states of the image tokens after the first decoder layers, one after each;
    it is empty for families without. Whoever hides a picture must hide both, or hide it before the tower.
    """

    features: Tensor
    deepstack: tuple[Tensor, ...] = ()
