"""Objectives by the kind that a recipe gives them; one file each."""

from typing import Annotated

from pydantic import Field

from cocoa.objectives.bridged_patch import BridgedPatch, BridgedPatchOptions
from cocoa.objectives.bridged_text import BridgedText, BridgedTextOptions
from cocoa.objectives.contrastive import Contrastive, ContrastiveOptions
from cocoa.objectives.draws import Draws, choose
from cocoa.objectives.masked_patch import MaskedPatch, MaskedPatchOptions
from cocoa.objectives.masked_text import MaskedText, MaskedTextOptions
from cocoa.objectives.next_token import NextToken, NextTokenOptions
from cocoa.objectives.objective import Hidden, Loss, Reconstruction, Rows, View

ObjectiveOptions = Annotated[
    MaskedTextOptions
    | MaskedPatchOptions
    | NextTokenOptions
    | BridgedTextOptions
    | BridgedPatchOptions
    | ContrastiveOptions,
    Field(discriminator="kind"),
]

Objective = MaskedText | MaskedPatch | NextToken | BridgedText | BridgedPatch | Contrastive

__all__ = [
    "BridgedPatch",
    "BridgedPatchOptions",
    "BridgedText",
    "BridgedTextOptions",
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
    "Objective",
    "ObjectiveOptions",
    "Reconstruction",
    "Rows",
    "View",
    "choose",
]
