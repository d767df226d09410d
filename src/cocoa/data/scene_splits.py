"""Which scenes belong to which split: each is a pure function of seed, split, series and index.

Of the first `num_things` drawings every fourth is unseen, and one fifth of the pairs of seen things is held out:
neither ever appears in a labelled training scene, so tests can ask for both.
"""

from __future__ import annotations

import functools
import itertools
import random
import zlib
from collections.abc import Sequence
from typing import Literal

from cocoa.data.emoji_sheet import things
from cocoa.data.scenes import Scene, sample_scene
from cocoa.errors import UsageError

SceneSplit = Literal["pretrain", "measure", "train", "seen", "combo", "unseen"]
"""pretrain and measure: all things, no labels. train: labelled. seen, combo, unseen: tests."""

SceneSeries = Literal["one", "any", "many"]
"""How many things a scene has: one, 1 to 4, or 2 to 4."""

_ITEMS: dict[SceneSeries, tuple[int, int]] = {"one": (1, 1), "any": (1, 4), "many": (2, 4)}
_UNSEEN_EVERY = 4
_HELD_OUT_EVERY = 5


@functools.cache
def all_things(num_things: int) -> tuple[str, ...]:
    """Returns the first `num_things` names of the sheet."""
    if not 32 <= num_things <= len(things()):
        raise UsageError("E_USAGE_SCENES", f"num_things is {num_things}; use 32 to {len(things())}")
    return things()[:num_things]


@functools.cache
def unseen_things(num_things: int) -> tuple[str, ...]:
    """Returns the names that no labelled training scene shows: every fourth."""
    return all_things(num_things)[_UNSEEN_EVERY - 1 :: _UNSEEN_EVERY]


@functools.cache
def seen_things(num_things: int) -> tuple[str, ...]:
    """Returns the names that labelled training scenes may show."""
    unseen = set(unseen_things(num_things))
    return tuple(name for name in all_things(num_things) if name not in unseen)


def split_things(split: SceneSplit, num_things: int) -> tuple[str, ...]:
    """Returns the names that scenes of a split are made of."""
    if split in ("pretrain", "measure"):
        return all_things(num_things)
    return unseen_things(num_things) if split == "unseen" else seen_things(num_things)


def held_out(first: str, second: str) -> bool:
    """Returns whether two things never stand together in a labelled training scene."""
    low, high = sorted((first, second))
    return zlib.crc32(f"{low}|{high}".encode()) % _HELD_OUT_EVERY == 0


def has_held_out(names: Sequence[str]) -> bool:
    """Returns whether any two of these things are a held-out combination."""
    return any(held_out(first, second) for first, second in itertools.combinations(names, 2))


def stream(seed: int, split: SceneSplit, series: SceneSeries, index: int, purpose: str = "scene") -> random.Random:
    """Returns the random numbers of one scene for one purpose, equal on every machine and in any order."""
    return random.Random(f"{seed}:{split}:{series}:{index}:{purpose}")


def draw_scene(
    seed: int,
    split: SceneSplit,
    series: SceneSeries,
    index: int,
    *,
    num_things: int = 128,
    max_items: int = 4,
    pixels: int = 84,
) -> Scene:
    """Returns scene `index` of a split, with at most `max_items` things."""
    names = split_things(split, num_things)
    if series == "one":
        turns = _turns(seed, split, num_things)
        names = (turns[index % len(turns)],)
    low, high = _ITEMS[series]
    high = min(high, max_items)
    if split == "combo":
        low, high, accept = max(2, low), max(2, high), has_held_out
    elif split in ("train", "seen"):
        accept = _has_no_held_out
    else:
        accept = None
    rng = stream(seed, split, series, index)
    return sample_scene(rng, names, min_items=low, max_items=high, pixels=pixels, accept=accept)


@functools.lru_cache(maxsize=16)
def _turns(seed: int, split: SceneSplit, num_things: int) -> tuple[str, ...]:
    """The order in which things stand alone: they take turns, so that no class is rare."""
    names = split_things(split, num_things)
    return tuple(random.Random(f"{seed}:{split}:turns").sample(names, len(names)))


def _has_no_held_out(names: Sequence[str]) -> bool:
    return not has_held_out(names)
