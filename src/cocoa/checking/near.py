"""Near neighbours without comparing all with all: fingerprints by bands, sets by their rarest members."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

_BITS = 64
_BLOCK = 1 << 20


def near_hashes(ours: NDArray[np.uint64], theirs: NDArray[np.uint64], most: int) -> Iterator[NDArray[np.int64]]:
    """Yields the places [K, 2] (in ours, in theirs) of hashes of 64 bits that differ in `most` bits or fewer, once.

    Cut into `most + 1` bands, two such hashes have at least one band in common, so only those are compared. A pair
    comes with the first of its bands, so that nobody need hold all pairs to tell which came before.
    """
    edges = [round(_BITS * band / (most + 1)) for band in range(most + 2)]
    done: list[np.uint64] = []
    for low, high in pairwise(edges):
        mask = np.uint64((1 << high) - (1 << low))
        own, other = ours & mask, theirs & mask
        order, own_order = np.argsort(other, kind="stable"), np.argsort(own, kind="stable")
        values, starts, counts = np.unique(own[own_order], return_index=True, return_counts=True)
        firsts, lasts = (np.searchsorted(other[order], values, side) for side in ("left", "right"))
        for start, count, first, last in np.stack([starts, counts, firsts, lasts], 1).tolist():
            here = order[first:last]
            # In blocks, since a band that says little (a flat picture's) is common to very many.
            step = max(1, _BLOCK // max(1, len(here)))
            for begin in range(start, start + count, step) if len(here) else ():
                mine = own_order[begin : min(begin + step, start + count)]
                apart = ours[mine, None] ^ theirs[None, here]
                i, j = np.nonzero(np.bitwise_count(apart) <= most)
                new, bits = np.ones(len(i), bool), apart[i, j]
                for band in done:
                    new &= (bits & band) != 0
                yield np.stack([mine[i[new]], here[j[new]]], 1)
        done.append(mask)


def near_sets(
    ours: Sequence[frozenset[str]], theirs: Sequence[frozenset[str]], least: float
) -> list[tuple[int, int, float]]:
    """Returns (place in ours, place in theirs, share) of sets that share at least `least` of all their members, sorted.

    A set that shares so much with another must share one of its rarest members, so only those are looked up. Empty
    sets are near to nothing.
    """
    counts = Counter(chain.from_iterable(chain(ours, theirs)))

    def rarest(members: frozenset[str]) -> list[str]:
        needed = math.ceil(least * len(members) - 1e-9)
        return sorted(members, key=lambda member: (counts[member], member))[: len(members) - needed + 1]

    index: defaultdict[str, list[int]] = defaultdict(list)
    for place, members in enumerate(theirs):
        for member in rarest(members):
            index[member].append(place)
    found = []
    for number, members in enumerate(ours):
        places = sorted({place for member in rarest(members) for place in index.get(member, ())})
        compared = ((number, place, shared(members, theirs[place])) for place in places)
        found += [each for each in compared if each[2] >= least]
    return found


def shared(one: frozenset[str], other: frozenset[str]) -> float:
    """Returns the share of all members of two sets that both have (Jaccard)."""
    both = len(one & other)
    return both / max(1, len(one) + len(other) - both)
