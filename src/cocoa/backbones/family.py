"""What differs between the model families behind `qwen_vl.py`, as data."""

from __future__ import annotations

from dataclasses import dataclass

from cocoa.backbones.grid_facts import GridFact, pictures


@dataclass(frozen=True)
class Family:
    """A `model_type` of `transformers` that this package has been tested with.

    `language_linears` and `vision_linears` are the names of the linear maps, inside a decoder layer and inside a block
    of the vision tower, that adapters are put on; `grid_facts` work out what the tower must know of its pictures.
    """

    model_type: str
    example: str
    language_linears: tuple[str, ...]
    vision_linears: tuple[str, ...]
    grid_facts: tuple[GridFact, ...] = (pictures,)


LANGUAGE_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The paper's targets in a decoder layer (method, section 5); equal in all families."""
