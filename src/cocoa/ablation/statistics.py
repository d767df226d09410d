"""Means with intervals, paired tests and their correction: the few formulas that a study needs, and no library."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from statistics import fmean, stdev

_EXACT_FLIPS = 12
"""Up to so many pairs every sign is tried; beyond, many random ones."""
_FLIPS = 20_000


def t_tail(t: float, freedom: int) -> float:
    """Returns the probability that Student's t of so many degrees of freedom is beyond ±|t| (two-sided).

    The finite sums for whole degrees of freedom, Abramowitz and Stegun 26.7.3 and 26.7.4.
    """
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom")
    if math.isinf(t):
        return 0.0
    angle = math.atan(abs(t) / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    term = cosine if freedom % 2 else 1.0
    total = term if freedom > 1 else 0.0
    for number in range(3 if freedom % 2 else 2, freedom - 1, 2):
        term *= cosine**2 * (number - 1) / number
        total += term
    inside = 2 / math.pi * (angle + sine * total) if freedom % 2 else sine * total
    return max(0.0, 1.0 - inside)


def t_quantile(confidence: float, freedom: int) -> float:
    """Returns the t within which ±t holds `confidence` (in (0, 1)) of the distribution."""
    low, high = 0.0, 1.0
    while t_tail(high, freedom) > 1 - confidence:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, freedom) > 1 - confidence else (low, middle)
    return high


def half_width(values: Sequence[float], confidence: float = 0.95) -> float | None:
    """Returns half of the t interval of the mean of independent values; None for fewer than two."""
    if len(values) < 2:
        return None
    return t_quantile(confidence, len(values) - 1) * stdev(values) / math.sqrt(len(values))


def paired_t(differences: Sequence[float]) -> float | None:
    """Returns the two-sided p of paired differences having mean 0, by Student's t; None for fewer than two."""
    if len(differences) < 2:
        return None
    mean, spread = fmean(differences), stdev(differences)
    if spread == 0:
        return 1.0 if mean == 0 else 0.0
    return t_tail(mean / (spread / math.sqrt(len(differences))), len(differences) - 1)


def sign_flips(differences: Sequence[float], seed: int = 0) -> float | None:
    """Returns the two-sided p of a mean so far from 0 if each pair's sign were a coin's; None for fewer than two.

    Exact up to 12 pairs: with n of them it is never below 2 / 2^n, so five seeds cannot give less than 0.0625.
    """
    if len(differences) < 2:
        return None
    found = abs(math.fsum(differences)) * (1 - 1e-12)
    if len(differences) <= _EXACT_FLIPS:
        signs = list(itertools.product((1, -1), repeat=len(differences)))
        return sum(abs(_flipped(differences, each)) >= found for each in signs) / len(signs)
    rng = random.Random(seed)
    beyond = sum(abs(_flipped(differences, [rng.choice((1, -1)) for _ in differences])) >= found for _ in range(_FLIPS))
    return (beyond + 1) / (_FLIPS + 1)


def holm(values: Sequence[float]) -> list[float]:
    """Returns p values corrected for being so many, by Holm's step-down: any false alarm at all is no likelier."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    corrected, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = highest
    return corrected


def _flipped(differences: Sequence[float], signs: Sequence[int]) -> float:
    return math.fsum(sign * difference for sign, difference in zip(signs, differences, strict=True))
