"""Which side of a picture and its text is read, and which is rebuilt."""

from __future__ import annotations

import random
import re
from typing import Literal

from cocoa.sample import IMAGE_PLACEHOLDER, Pair, Sample

Side = Literal["image_to_text", "text_to_image", "same_text", "other_text"]
"""`image_to_text`: the pair as it is. `text_to_image`: read the text, rebuild the picture. `same_text`: read the text,
rebuild it. `other_text`: read the text, rebuild it in other words or another order."""

_PARTS = re.compile(r"(?<=[,;.!?])\s+|\s+(?=and\s)")


def seen_from(pair: Pair, side: Side, other: str | None = None) -> Pair:
    """Returns a pair of a picture and its text as one side reads it; `other` is the text in other words.

    The two sides of an image are an image alone: whatever text stood around its placeholder is not a caption.
    """
    text = Sample(pair.target.text, where=pair.target.where)
    match side:
        case "image_to_text":
            return pair
        case "text_to_image":
            return Pair(text, Sample(IMAGE_PLACEHOLDER, pair.query.images, pair.query.where))
        case "same_text":
            return Pair(text, text)
        case "other_text":
            return Pair(text, Sample(other if other is not None else text.text, where=text.where))


def reordered(text: str) -> str:
    """Returns a text with its parts (between commas, stops and "and") in another order; one part alone stays.

    Equal texts get equal orders, wherever they lie; a text of two parts or more never keeps its own.
    """
    parts = [part.strip(" ,;.") for part in _PARTS.split(text)]
    parts = [re.sub(r"^and\s+", "", part) for part in parts if part]
    if len(parts) < 2:
        return text
    rng = random.Random(text)
    order = list(range(len(parts)))
    while order == sorted(order):
        rng.shuffle(order)
    return ", ".join(parts[place] for place in order)
