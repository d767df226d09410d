"""`/v1/embeddings`: OpenAI's shape and what vLLM (`messages`), Jina, SGLang (`text`, `image`) and Voyage add to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, WithJsonSchema, field_validator, model_validator
from pydantic_core import PydanticCustomError

from cocoa.options import Options
from cocoa.prompts import Side
from cocoa.sample import Sample
from cocoa.serving.shapes.items import Part, joined, side_of
from cocoa.serving.vectors import Embedded, packed

Encoding = Literal["float", "base64"]


class InputItem(Options):
    """A text, a picture or several, both, or a list of parts."""

    text: str | None = None
    image: str | None = Field(None, description="Data URL or base64.")
    images: list[str] | None = None
    content: list[Part] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> InputItem:
        others = [self.text, self.image, self.images]
        if all(value is None for value in [*others, self.content]):
            raise PydanticCustomError("item", "an item has a text, an image, images or a content")
        if (self.content is not None and any(value is not None for value in others)) or (self.image and self.images):
            raise PydanticCustomError("item", "an item says the same thing in one way only")
        return self

    def sample(self, where: str) -> Sample:
        """Returns the item as a sample whose pictures are references."""
        if self.content is not None:
            return joined(self.content, where)
        return Sample(self.text or "", tuple([self.image] if self.image is not None else self.images or ()), where)


class Message(Options):
    """One message of a chat; all messages of a request are one item."""

    role: Literal["system", "user", "assistant"] = "user"
    content: list[Part] = Field(min_length=1)

    @field_validator("content", mode="before")
    @classmethod
    def _parts(cls, value: Any) -> Any:
        return [{"type": "text", "text": value}] if isinstance(value, str) else value


_ITEM = InputItem.model_json_schema(ref_template="#/components/schemas/{model}")
_ITEM.pop("$defs", None)
_INPUT_SCHEMA = {
    "description": "A text, or a list of texts and items. Lists of token ids are not accepted.",
    "anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"anyOf": [{"type": "string"}, _ITEM]}}],
}


class EmbeddingsBody(Options):
    """What OpenAI's client sends, and what others add to it."""

    model: str
    input: Annotated[list[InputItem], WithJsonSchema(_INPUT_SCHEMA)] | None = None
    messages: list[Message] | None = Field(None, min_length=1, description="One item, as vLLM takes it.")
    encoding_format: Encoding | None = Field(
        "float",
        validation_alias=AliasChoices("encoding_format", "embedding_type"),
        description="Jina calls it `embedding_type`.",
    )
    dimensions: int | None = Field(
        None,
        ge=1,
        validation_alias=AliasChoices("dimensions", "output_dimension"),
        description="Voyage calls it `output_dimension`.",
    )
    output_dtype: Literal["float"] | None = Field(None, description="Voyage's name of what there is one kind of here.")
    input_type: Literal["query", "document"] | None = Field(None, description="The side whose prompt is put around.")
    task: Literal["retrieval.query", "retrieval.passage", "text-matching", "classification", "separation"] | None = (
        Field(None, description="Jina's `input_type`; what is not of retrieval is taken as it is.")
    )
    late_chunking: Literal[False] = Field(False, description="Each item has one vector.")
    truncate: bool = Field(
        False,
        validation_alias=AliasChoices("truncate", "truncation"),
        description="Cut a text that is too long, rather than refuse it. Voyage calls it `truncation`.",
    )
    normalized: Literal[True] = True
    user: str | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _items(cls, value: Any) -> Any:
        items = value if isinstance(value, list) else [value]
        if value == [] or any(isinstance(item, int | list) and not isinstance(item, bool) for item in items):
            raise PydanticCustomError(
                "tokens", "input is a text or a list of texts or items; token ids of another tokenizer are not accepted"
            )
        return value if value is None else [{"text": item} if isinstance(item, str) else item for item in items]

    @model_validator(mode="after")
    def _one_input(self) -> EmbeddingsBody:
        if (self.input is None) == (self.messages is None):
            raise PydanticCustomError("input", "give either input or messages")
        return self

    @property
    def side(self) -> Side | None:
        """The side that the client asked for."""
        return side_of(self.input_type or self.task)

    def samples(self) -> list[Sample]:
        """Returns the items in order."""
        if self.messages is not None:
            return [joined([part for message in self.messages for part in message.content], "messages")]
        return [item.sample(f"input[{n}]") for n, item in enumerate(self.input or ())]

    def reply(self, embedded: Sequence[Embedded]) -> dict[str, Any]:
        """Returns the answer in OpenAI's shape."""
        encoding = self.encoding_format or "float"
        used = sum(item.num_tokens for item in embedded)
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": n, "embedding": packed(item, encoding)}
                for n, item in enumerate(embedded)
            ],
            "model": self.model,
            "usage": {"prompt_tokens": used, "total_tokens": used},
        }
