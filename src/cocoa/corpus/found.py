"""A search as a page: the hits with the pictures that they point at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cocoa.corpus.hits import Hit
from cocoa.corpus.index import Index
from cocoa.corpus.pictures import open_picture
from cocoa.errors import ImageError
from cocoa.files import write_file
from cocoa.images import open_rgb
from cocoa.report.search_page import Asked, Found, Picture, search_page


def write_search_page(
    path: Path,
    index: Index,
    hits: Sequence[Hit],
    *,
    text: str,
    image: Path | None,
    like: Sequence[str],
    unlike: Sequence[str],
    where: str,
    how: str,
    seconds: float,
) -> int:
    """Writes the page of a search and returns how many pictures do not open; the page says which."""
    found, lost = [], 0
    for hit in hits:
        picture = _opened(hit.image)
        is_lost = bool(hit.image) and picture is None
        lost += is_lost
        found.append(Found(hit.id, hit.score, hit.text, picture, is_lost, hit.columns))
    asked = Asked(
        text=text,
        picture=None if image is None else Picture.of(open_rgb(image)),
        like=[(row.id, _opened(row.image)) for row in index.get(like)],
        unlike=[(row.id, _opened(row.image)) for row in index.get(unlike)],
        where=where,
    )
    page = search_page(asked, found, place=index.uri, documents=len(index), how=how, seconds=seconds)
    write_file(path, page)
    return lost


def _opened(place: str) -> Picture | None:
    # Made small at once: of all that are found only one is held at its full size.
    try:
        return Picture.of(open_picture(place)) if place else None
    except ImageError:
        return None  # counted by the caller, and said on the page
