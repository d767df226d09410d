"""The model families that share `qwen_vl.py`: what differs between them, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A `model_type` of `transformers` that this package has been tested with."""

    model_type: str
    example: str


FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (Family("qwen2_vl", example="Qwen/Qwen2-VL-2B-Instruct"),)
}
