"""Texts as they are compared: without case, spacing and placeholders; near ones share most of their word pairs."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import chain, pairwise

from cocoa.checking.near import near_sets, shared

SHARED = 0.65
"""Share of word pairs that near texts have in common: in eleven words, one may be another."""
_TEMPLATE, _TEMPLATE_TEXTS = 0.02, 10
"""A word pair in more than this share of all texts, and in more than so many, is a template's."""
LEAST_WORDS = 5
"""Shorter texts are labels and answers, which training and evaluation share with reason."""
LEAST_WORDS_NEAR = 8
_LEAST_TEXTS = 8
_PLACEHOLDER = re.compile(r"<\|image_\d+\|>")
_WORD = re.compile(r"\w+")

Words = tuple[str, ...]


def plain(text: str) -> str:
    """Returns the text without case, doubled spaces, image placeholders and variants of the same character."""
    return " ".join(unicodedata.normalize("NFKC", _PLACEHOLDER.sub(" ", text)).casefold().split())


def words(text: str) -> Words:
    """Returns the words of a plain text, without punctuation."""
    return tuple(_WORD.findall(text))


def prompt_length(texts: Collection[Words]) -> int:
    """Returns how many words all of the texts begin with: their prompt. Of a few texts nothing is taken for one."""
    distinct = set(texts)
    if len(distinct) < _LEAST_TEXTS:
        return 0
    first, last = min(distinct), max(distinct)  # Whatever these two share, all between them share.
    return next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))


def near_texts(ours: Sequence[Words], theirs: Sequence[Words]) -> list[tuple[int, int, float]]:
    """Returns (place in ours, place in theirs, share of word pairs) of long texts that are nearly the same.

    They are so with all their word pairs, and with those alone that are not a template's: captions that were made by
    filling in one sentence differ in little and yet in all that matters.
    """
    own, other = [_pairs(text) for text in ours], [_pairs(text) for text in theirs]
    counts = Counter(chain.from_iterable(chain(own, other)))
    most = max(_TEMPLATE_TEXTS, _TEMPLATE * (len(own) + len(other)))
    template = frozenset(pair for pair, count in counts.items() if count > most)
    found = near_sets(own, other, SHARED)
    return [(i, j, share) for i, j, share in found if shared(own[i] - template, other[j] - template) >= SHARED]


def _pairs(text: Words) -> frozenset[str]:
    return frozenset(map(" ".join, pairwise(text))) if len(text) >= LEAST_WORDS_NEAR else frozenset()
