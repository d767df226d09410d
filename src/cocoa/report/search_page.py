"""The page of a search: what was asked for, and the documents that were found, with their pictures inside the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from cocoa.report.page import _environment
from cocoa.report.pictures import data_url

_PIXELS = 448


@dataclass(frozen=True)
class Picture:
    """A picture as the page holds it: shrunk, inside its own address, with the size that it had."""

    url: str
    width: int
    height: int

    @classmethod
    def of(cls, image: Image.Image) -> Picture:
        """Returns the picture for the page, which keeps nothing of the image."""
        return cls(data_url(image, pixels=_PIXELS), image.width, image.height)


@dataclass(frozen=True)
class Asked:
    """A query: words, a picture, documents to be like and unlike (names, with a picture if they have one), a filter."""

    text: str = ""
    picture: Picture | None = None
    like: Sequence[tuple[str, Picture | None]] = ()
    unlike: Sequence[tuple[str, Picture | None]] = ()
    where: str = ""


@dataclass(frozen=True)
class Found:
    """A document that was found; `score` is the cosine; `picture` is None if it has none or it does not open."""

    id: str
    score: float
    text: str
    picture: Picture | None
    lost_picture: bool = False
    columns: Mapping[str, Any] = field(default_factory=dict)


def search_page(asked: Asked, found: Sequence[Found], *, place: str, documents: int, how: str, seconds: float) -> str:
    """Returns the HTML of a search in the index at `place` of so many `documents`; `how` says how it was searched."""
    environment = _environment()
    scores = [each.score for each in found]
    low, high = (min(scores), max(scores)) if scores else (0.0, 0.0)
    return environment.get_template("search.html.j2").render(
        asked=asked,
        found=found,
        title=_title(asked),
        place=place,
        documents=documents,
        how=how,
        seconds=seconds,
        # The bar of a score spans what was found: cosines of one search lie close together.
        bars=[0.12 + 0.88 * (score - low) / (high - low) if high > low else 1.0 for score in scores],
    )


def _title(asked: Asked) -> str:
    if asked.text:
        return asked.text
    return "Like this picture" if asked.picture else "Like these documents"
