"""Each distinct picture of some samples goes through the vision tower once, though several samples show it.

Benchmarks ask many questions about one picture. What the tower made of it is kept until its last use.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import torch
from PIL import Image
from torch import Tensor

from cocoa.backbones import Backbone, Encoded, Seen
from cocoa.backbones.patches import Patches
from cocoa.backbones.tokens import TextTokens
from cocoa.batch import Batch
from cocoa.images import ImageSource
from cocoa.sample import Sample

_MOST_BYTES = 1 << 28
"""Kept at once; pictures beyond are seen again when they are needed again."""


Grid = tuple[int, int, int]


class SharedPictures:
    """The pictures of some samples, each by a key that equal pictures share; several threads may see them."""

    def __init__(self, keys: Sequence[Sequence[Hashable]]) -> None:
        self._keys = keys
        self._uses = Counter(key for some in keys for key in some)
        self.has_any = any(uses > 1 for uses in self._uses.values())
        self._kept: dict[Hashable, tuple[Tensor, ...]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    @classmethod
    def by_content(cls, samples: Sequence[Encoded]) -> SharedPictures:
        """Returns the pictures of samples that have been read, equal where their patches are."""
        # A whole digest is only made of pictures that begin and end alike.
        glances = [[_glance(*picture) for picture in _pictures(sample)] for sample in samples]
        often = {glance for glance, uses in Counter(one for some in glances for one in some).items() if uses > 1}
        return cls(
            [
                [
                    _digest(*picture) if glance in often else (number, place)
                    for place, (glance, picture) in enumerate(zip(some, _pictures(sample), strict=True))
                ]
                for number, (some, sample) in enumerate(zip(glances, samples, strict=True))
            ]
        )

    @classmethod
    def by_source(cls, samples: Sequence[Sample], text: TextTokens) -> SharedPictures:
        """Returns the pictures of samples that are still to be read, equal where they come from the same place."""
        # Patches stand in the order in which the text names its pictures, not in the one they were given in.
        pieces = ((sample, text.split(sample.text, len(sample.images), sample.where)) for sample in samples)
        return cls(
            [[_source(sample.images[piece]) for piece in read if isinstance(piece, int)] for sample, read in pieces]
        )

    def see(self, backbone: Backbone, batch: Batch, places: Iterable[int]) -> Seen | None:
        """Returns what the tower makes of a batch's pictures, run over those that are not kept; None without pictures.

        `places` are those of the batch's samples, in its reading order.
        """
        if batch.pixel_values is None or batch.image_grid_thw is None:
            return None
        keys = [key for place in places for key in self._keys[place]]
        with self._lock:
            layers = {key: self._kept[key] for key in set(keys) if key in self._kept}
        new: dict[Hashable, int] = {}
        for number, key in enumerate(keys):
            if key not in layers:
                new.setdefault(key, number)
        if new:
            patches = torch.split(batch.pixel_values, batch.image_grid_thw.prod(1).tolist())
            grids = batch.image_grid_thw[list(new.values())]
            seen = backbone.see(torch.cat([patches[number] for number in new.values()]), grids)
            sizes = (grids.prod(1) // backbone.grid.patches_per_token).tolist()
            parts = zip(*(torch.split(layer, sizes) for layer in (seen.features, *seen.deepstack)), strict=True)
            layers |= dict(zip(new, parts, strict=True))
        self._keep(keys, layers)
        features, *deepstack = (torch.cat(layer) for layer in zip(*(layers[key] for key in keys), strict=True))
        return Seen(features, tuple(deepstack))

    def _keep(self, keys: Sequence[Hashable], layers: dict[Hashable, tuple[Tensor, ...]]) -> None:
        """Counts uses; keeps what is needed again, a copy so that its neighbours are not held with it."""
        with self._lock:
            for key, uses in Counter(keys).items():
                self._uses[key] -= uses
                size = sum(layer.nbytes for layer in layers[key])
                if self._uses[key] == 0 and self._kept.pop(key, None) is not None:
                    self._bytes -= size
                elif self._uses[key] and key not in self._kept and self._bytes + size <= _MOST_BYTES:
                    self._kept[key] = tuple(layer.clone() for layer in layers[key])
                    self._bytes += size


def _source(image: ImageSource) -> Hashable:
    # A picture in memory is the same where it is the same object: its pixels would cost more to compare than to see.
    return id(image) if isinstance(image, Image.Image) else image


def _pictures(sample: Encoded) -> list[tuple[Patches, Grid]]:
    return list(zip(sample.patches, sample.grids, strict=True))


def _glance(patches: Patches, grid: Grid) -> tuple[object, ...]:
    return grid, patches[0, :16].tobytes(), patches[len(patches) // 2, :16].tobytes(), patches[-1, -16:].tobytes()


def _digest(patches: Patches, grid: Grid) -> str:
    digest = hashlib.sha256(repr(grid).encode())
    digest.update(patches.tobytes())
    return digest.hexdigest()
