"""What the quickstart report tells: results, rebuilt pictures and words, searches; plain data, no HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from cocoa.layouts import Layout


@dataclass(frozen=True)
class VariantResult:
    """One way of training and how well it did.

    `summary` holds the mean hit@1 of each meta-task and `overall`; `tasks` holds of each task its `meta_task`,
    `hit_at_1`, `chance` and `blind` (None: not known). All are rates in [0, 1]. `seconds` is the time of each stage,
    `records` the run's numbers, one a step.
    """

    name: str
    title: str
    summary: Mapping[str, float]
    tasks: Mapping[str, Mapping[str, Any]]
    seconds: Mapping[str, float]
    records: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class RebuiltPicture:
    """A picture with hidden patches, as it was, and as the model rebuilt it."""

    masked: Image
    truth: Image
    rebuilt: Image


@dataclass(frozen=True)
class HiddenWord:
    """One token of a text, with its leading space; `predicted` is what the model put in its place if it was hidden."""

    text: str
    hidden: bool
    predicted: str | None = None


@dataclass(frozen=True)
class RebuiltWords:
    """A picture and its text, of which some words were hidden; words in reading order."""

    picture: Image
    words: Sequence[HiddenWord]


@dataclass(frozen=True)
class BridgedWords:
    """The same text rebuilt through its own picture's bridge token, and through another picture's."""

    picture: Image
    other_picture: Image
    truth: Sequence[HiddenWord]
    shuffled: Sequence[HiddenWord]


@dataclass(frozen=True)
class SearchHit:
    """One picture that a search found; `score` is the cosine to the query."""

    picture: Image
    score: float
    label: str


@dataclass(frozen=True)
class Search:
    """A query, with or without a picture, and its best pictures, best first."""

    query: str
    picture: Image | None
    hits: Sequence[SearchHit]


@dataclass(frozen=True)
class QuickstartContent:
    """All that the quickstart page shows; the first variant is what the others are measured against.

    The bridge losses are those of hidden words, read through the true bridge token and through another picture's
    (`shuffled`), after the bridge stage; the `before_` losses are the same two before that stage.
    `layouts` has each stage's title, its layout, and the letters of its rows.
    """

    variants: Sequence[VariantResult]
    layouts: Sequence[tuple[str, Layout, str]]
    pictures: Sequence[RebuiltPicture]
    words: Sequence[RebuiltWords]
    bridged: Sequence[BridgedWords]
    bridge_loss_true: float
    bridge_loss_shuffled: float
    before_true: float
    before_shuffled: float
    searches: Sequence[Search]
    seconds: float
    num_train_pairs: int
    hardware: str
