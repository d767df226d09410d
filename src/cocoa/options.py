"""The strict, frozen base of everything that a recipe can say."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """A typed, immutable set of options; an unknown key or a wrong type is an error, nothing is coerced silently."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
