"""`/v2/embed`: Cohere's shape, with texts, pictures, or both (`inputs`)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from cocoa.options import Options
from cocoa.prompts import Side
from cocoa.sample import Sample
from cocoa.serving.shapes.items import Content, side_of
from cocoa.serving.vectors import Embedded, Packing, packed


class CohereBody(Options):
    """What Cohere's client sends to `/v2/embed`."""

    model: str
    input_type: Literal["search_query", "search_document", "classification", "clustering", "image"] = Field(
        "image", description="Queries and documents get their prompts; the others are taken as they are."
    )
    texts: list[str] | None = Field(None, min_length=1)
    images: list[str] | None = Field(None, min_length=1, description="Data URLs.")
    inputs: list[Content] | None = Field(None, min_length=1)
    embedding_types: list[Packing] = Field(["float"], min_length=1)
    output_dimension: int | None = Field(None, ge=1)
    truncate: Literal["NONE", "END"] = "END"

    @model_validator(mode="after")
    def _one_input(self) -> CohereBody:
        if sum(given is not None for given in (self.texts, self.images, self.inputs)) != 1:
            raise PydanticCustomError("input", "give one of texts, images and inputs")
        return self

    @property
    def side(self) -> Side | None:
        """The side that the client asked for."""
        return side_of(self.input_type)

    def samples(self) -> list[Sample]:
        """Returns the items in order."""
        if self.texts is not None:
            return [Sample(text, where=f"texts[{n}]") for n, text in enumerate(self.texts)]
        if self.images is not None:
            return [Sample(images=(image,), where=f"images[{n}]") for n, image in enumerate(self.images)]
        return [item.sample(f"inputs[{n}]") for n, item in enumerate(self.inputs or ())]

    def reply(self, embedded: Sequence[Embedded]) -> dict[str, Any]:
        """Returns the answer in Cohere's shape."""
        return {
            "id": str(uuid.uuid4()),
            "response_type": "embeddings_by_type",
            "embeddings": {kind: [packed(item, kind) for item in embedded] for kind in self.embedding_types},
            "texts": self.texts or [],
            "meta": {
                "api_version": {"version": "2"},
                "billed_units": {"input_tokens": sum(item.num_tokens for item in embedded)},
            },
        }
