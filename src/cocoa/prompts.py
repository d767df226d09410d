"""The words that a query or a document is wrapped in, so that a model is asked as it was trained (MMEB's own)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from cocoa.sample import IMAGE_PLACEHOLDER, Sample

Side = Literal["query", "document"]

PROMPTS: dict[str, str] = {
    "query/text": "Find me an everyday image that matches the given caption: {text}\n",
    "query/image": f"{IMAGE_PLACEHOLDER}\nFind a day-to-day image that looks similar to the provided image.\n",
    "query/both": f"{IMAGE_PLACEHOLDER}\nGiven an image, find a similar everyday image with the described changes: "
    "{text}\n",
    "document/text": "{text}",
    "document/image": f"{IMAGE_PLACEHOLDER}\nRepresent the given image.\n",
    "document/both": f"{IMAGE_PLACEHOLDER}\nRepresent the given image with related text information: {{text}}\n",
}


def prompted(sample: Sample, side: Side) -> Sample:
    """Returns the sample in the words of its side; what its text says is never read as part of the prompt."""
    kind = "both" if sample.text and sample.images else "image" if sample.images else "text"
    return replace(sample, text=PROMPTS[f"{side}/{kind}"].replace("{text}", sample.text))
