"""What all shapes share: an item is a text, pictures, or a list of parts; every one of them becomes a `Sample`.

Pictures stand in front of the text, as the model was trained; `<|image_1|>` in a text puts one elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from cocoa.options import Options
from cocoa.prompts import Side
from cocoa.sample import Sample


class Part(Options):
    """One part of a content list: `text`, or a picture under `image_url`, `image_base64` or `image`."""

    type: Literal["text", "image_url", "image_base64", "image"]
    text: str | None = None
    # Empty, a picture would be none, and the text would stand alone without a word about it.
    image_url: str | None = Field(None, min_length=1, description="A URL, or an object with a `url`.")
    image_base64: str | None = Field(None, min_length=1)
    image: str | None = Field(None, min_length=1)

    @field_validator("image_url", mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        if isinstance(value, dict) and "url" in value and set(value) <= {"url", "detail"}:
            return value["url"]
        return value

    @model_validator(mode="after")
    def _says_what_its_type_says(self) -> Part:
        given = {name for name in ("text", "image_url", "image_base64", "image") if getattr(self, name) is not None}
        if given != {self.type}:
            raise PydanticCustomError(
                "part", "a part of type {kind} has a {kind} and nothing else", {"kind": self.type}
            )
        return self

    @property
    def picture(self) -> str | None:
        """The reference to the part's picture, None for a text."""
        return self.image_url or self.image_base64 or self.image


class Content(Options):
    """An item as a list of parts."""

    content: list[Part] = Field(min_length=1)

    def sample(self, where: str) -> Sample:
        """Returns the parts as one sample."""
        return joined(self.content, where)


def joined(parts: Sequence[Part], where: str) -> Sample:
    """Returns parts as one sample, its texts a line each; an empty one, as vLLM's clients end a chat with, is none."""
    texts = [part.text for part in parts if part.text]
    return Sample("\n".join(texts), tuple(part.picture for part in parts if part.picture is not None), where)


def side_of(input_type: str | None) -> Side | None:
    """Returns the side that a client's word for it means; None for an input that is taken as it is."""
    match input_type:
        case "query" | "search_query" | "retrieval.query":
            return "query"
        case "document" | "search_document" | "retrieval.passage":
            return "document"
    return None
