"""Where training pairs come from, as a recipe says it; each builds a collection with `len()` and `[i] -> Pair`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import Field

from cocoa.data.image_text_pairs import ImageTextPairs
from cocoa.data.mmeb_train import MmebTrain
from cocoa.data.scene_pairs import ScenePairs
from cocoa.options import Options
from cocoa.sample import Pair

Count = Annotated[int, Field(gt=0)]


class Pairs(Protocol):
    """A collection of pairs; item i is the same whenever it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pair: ...


class ScenePairsSource(Options):
    """Generated emoji scenes with captions, or with questions and answers."""

    kind: Literal["scene_pairs"] = "scene_pairs"
    seed: int = 0
    num_pairs: Count
    num_things: Count = 128
    pixels: Count = 84
    questions: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Rate of pairs that ask and answer; the others describe."""

    max_items: Annotated[int, Field(ge=1, le=4)] = 4
    """The most things in one picture."""
    names_only: bool = False
    """A description is the names of the things and nothing more."""

    def build(self) -> Pairs:
        """Returns the pairs."""
        return ScenePairs(**self.model_dump(exclude={"kind"}))


class ImageTextPairsSource(Options):
    """A table of pictures and texts that describe them."""

    kind: Literal["image_text_pairs"] = "image_text_pairs"
    path: Path
    limit: Count | None = None

    def build(self) -> Pairs:
        """Returns the pairs."""
        return ImageTextPairs(self.path, limit=self.limit)


class MmebTrainSource(Options):
    """Training tables in MMEB's columns: one table, or a folder with all of them."""

    kind: Literal["mmeb_train"] = "mmeb_train"
    path: Path
    limit: Count | None = None
    """Rows kept of each table."""

    def build(self) -> Pairs:
        """Returns the pairs."""
        return MmebTrain(self.path, limit=self.limit)


Source = Annotated[ScenePairsSource | ImageTextPairsSource | MmebTrainSource, Field(discriminator="kind")]
