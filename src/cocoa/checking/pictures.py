"""Pictures as they are compared: by their pixels, and by a fingerprint that new encodings and small resizing keep.

A fingerprint has 64 bits: in a grey picture of 9 x 8 cells, whether each cell is darker than the one right of it. Few
bits say little of a picture, so two of like fingerprints are then compared at 16 x 16 pixels in colour.
"""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cocoa.checking.near import near_hashes
from cocoa.errors import CocoaError
from cocoa.images import ImageSource, image_key, open_rgb

MOST_BITS = 4
"""Bits of the fingerprint that may differ."""
_MARGIN = 4
"""Levels by which a cell must be darker: on a flat ground an encoder's noise must not set bits."""
_SIDE = 16
_MEAN_LEVELS, _MOST_LEVELS = 4.0, 40
"""How far two small pictures may be apart, on the mean and anywhere, of 255 levels."""
_CONTRAST_SHARE = 0.25
"""And on the mean, as a share of their own contrast: a faint drawing is not an empty sheet."""

_BLOCK = 1 << 14


@dataclass(frozen=True, slots=True)
class Look:
    """A decoded picture: a digest of its size and pixels, its fingerprint, and its 16 x 16 pixels.

    `contrast` is how far these are from their mean, on the mean, of 255 levels.
    """

    pixels: bytes
    fingerprint: int
    small: bytes
    contrast: float


def look(picture: Image.Image) -> Look:
    """Returns what is compared of an RGB picture."""
    digest = hashlib.blake2b(picture.tobytes(), digest_size=16, person=repr(picture.size).encode()[:16])
    cells = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = np.packbits(cells[:, 1:] > cells[:, :-1] + _MARGIN)
    small = np.asarray(picture.resize((_SIDE, _SIDE), Image.Resampling.BOX))
    contrast = float(np.abs(small - small.mean()).mean())
    return Look(digest.digest(), int.from_bytes(bits.tobytes(), "big"), small.tobytes(), contrast)


def near_looks(ours: Sequence[Look], theirs: Sequence[Look]) -> list[tuple[int, int]]:
    """Returns the places (in ours, in theirs) of pictures that look the same, sorted; of ours, the first for each.

    Plain ones look like none.
    """
    mine, others = _unlike(ours), _unlike(theirs)
    if not mine or not others:
        return []
    one, two = [ours[places[0]] for places in mine], [theirs[places[0]] for places in others]
    own, other = _pixels(one), _pixels(two)
    contrasts = np.array([each.contrast for each in one]), np.array([each.contrast for each in two])
    first = np.full(len(two), len(one))
    for pairs in near_hashes(_fingerprints(one), _fingerprints(two), MOST_BITS):
        for start in range(0, len(pairs), _BLOCK):
            i, j = pairs[start : start + _BLOCK].T
            apart = np.abs(own[i].astype(np.int16) - other[j])
            limit = np.minimum(_MEAN_LEVELS, _CONTRAST_SHARE * np.minimum(contrasts[0][i], contrasts[1][j]))
            near = (apart.mean(1) <= limit) & (apart.max(1, initial=0) <= _MOST_LEVELS)
            np.minimum.at(first, j[near], i[near])
    found = [
        (mine[number][0], place)
        for number, places in zip(first.tolist(), others, strict=True)
        if number < len(one)
        for place in places
    ]
    return sorted(found)


def _unlike(looks: Sequence[Look]) -> list[list[int]]:
    """The places of looks that are compared as one, in the order of the first of each; plain looks are left out.

    Blank sheets, pages and drawings crowd on a few fingerprints: most of them need no comparing of their own.
    """
    groups: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)
    for place, each in enumerate(looks):
        if each.contrast > 0:
            groups[each.fingerprint, each.small].append(place)
    return list(groups.values())


def _pixels(looks: Sequence[Look]) -> NDArray[np.uint8]:
    """The 16 x 16 pixels of pictures, a row each."""
    return np.frombuffer(b"".join(each.small for each in looks), np.uint8).reshape(len(looks), -1)


def _fingerprints(looks: Sequence[Look]) -> NDArray[np.uint64]:
    return np.array([each.fingerprint for each in looks], np.uint64)


class Gallery:
    """Pictures that have been looked at; one that stands in many rows is decoded once. Any thread may ask."""

    def __init__(self) -> None:
        self._seen: dict[str, Look | CocoaError] = {}
        self._num_made = 0
        self._lock = threading.Lock()

    @property
    def num_pictures(self) -> int:
        """Pictures that were looked at, those that do not open included."""
        return len(self._seen) + self._num_made

    def look(self, source: ImageSource, where: str) -> Look:
        """Returns what is compared of a picture. Raises ImageError, of the row `where`."""
        if isinstance(source, Image.Image):  # Made for one row: nobody asks for it again.
            with self._lock:
                self._num_made += 1
            return look(open_rgb(source, where=where))
        key = image_key(source)
        seen = self._seen.get(key)
        if seen is None:
            # Two threads that ask at once both decode it: rarely, and for the same result.
            try:
                seen = look(open_rgb(source))
            except CocoaError as error:
                seen = error
            self._seen[key] = seen
        if isinstance(seen, CocoaError):
            raise seen.at(where)
        return seen
