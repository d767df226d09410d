"""`/v1/multimodalembeddings`: Voyage's shape, items as lists of parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import AliasChoices, Field

from cocoa.options import Options
from cocoa.prompts import Side
from cocoa.sample import Sample
from cocoa.serving.shapes.items import Content, side_of
from cocoa.serving.vectors import Embedded, packed


class VoyageBody(Options):
    """What Voyage's client sends to `/v1/multimodalembeddings`."""

    model: str
    inputs: list[Content] = Field(min_length=1)
    input_type: Literal["query", "document"] | None = None
    truncation: bool = True
    output_encoding: Literal["base64"] | None = Field(
        None,
        validation_alias=AliasChoices("output_encoding", "encoding_format"),
        description="Voyage's own client calls it `encoding_format`.",
    )
    output_dtype: Literal["float"] | None = None
    output_dimension: int | None = Field(None, ge=1)

    @property
    def side(self) -> Side | None:
        """The side that the client asked for."""
        return side_of(self.input_type)

    def samples(self) -> list[Sample]:
        """Returns the items in order."""
        return [item.sample(f"inputs[{n}]") for n, item in enumerate(self.inputs)]

    def reply(self, embedded: Sequence[Embedded]) -> dict[str, Any]:
        """Returns the answer in Voyage's shape."""
        used = sum(item.num_tokens for item in embedded)
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": n, "embedding": packed(item, self.output_encoding or "float")}
                for n, item in enumerate(embedded)
            ],
            "model": self.model,
            "usage": {
                "total_tokens": used,
                "text_tokens": used,
                "image_pixels": sum(item.num_pixels for item in embedded),
                "video_pixels": 0,
            },
        }
