"""Objectives by the kind that a recipe gives them; one file each."""

from typing import Annotated

from pydantic import Field

from cocoa.objectives.contrastive import Contrastive, ContrastiveOptions
from cocoa.objectives.draws import Draws, choose
from cocoa.objectives.masked_patch import MaskedPatch, MaskedPatchOptions
from cocoa.objectives.masked_text import MaskedText, MaskedTextOptions
from cocoa.objectives.next_token import NextToken, NextTokenOptions
from cocoa.objectives.objective import Hidden, Loss, Reconstruction, Rows, View

ObjectiveOptions = Annotated[
    MaskedTextOptions | MaskedPatchOptions | NextTokenOptions | ContrastiveOptions, Field(discriminator="kind")
]

__all__ = [
    "Contrastive",
    "ContrastiveOptions",
    "Draws",
    "Hidden",
    "Loss",
    "MaskedPatch",
    "MaskedPatchOptions",
    "MaskedText",
    "MaskedTextOptions",
    "NextToken",
    "NextTokenOptions",
    "ObjectiveOptions",
    "Reconstruction",
    "Rows",
    "View",
    "choose",
]
