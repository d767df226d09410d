"""Where training pairs come from, as a recipe says it; each builds a collection with `len()` and `[i] -> Pair`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Protocol, runtime_checkable

from pydantic import Field, model_validator

from cocoa.data.bad_rows import OnBad, fail
from cocoa.data.held_out import HeldOut
from cocoa.data.image_text_pairs import ImageTextPairs
from cocoa.data.mmeb_side import read_image
from cocoa.data.mmeb_train import MmebTrain
from cocoa.data.scene_pairs import ScenePairs
from cocoa.data.sides import Side
from cocoa.data.tables import Keep
from cocoa.options import Options
from cocoa.sample import Pair

Count = Annotated[int, Field(gt=0)]


class Pairs(Protocol):
    """A collection of pairs; item i is the same whenever it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pair: ...


@runtime_checkable
class Grouped(Protocol):
    """A collection whose pairs stand in groups, one after the other: `groups` are their sizes."""

    @property
    def groups(self) -> Sequence[int]: ...


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
    side: Side = "image_to_text"
    """What is read and what is rebuilt; `other_text` is another caption of the same scene."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """How often its pairs come in an epoch: 0.5 every other epoch, 2 twice."""

    def build(self, on_bad: OnBad = fail) -> Pairs:
        """Returns the pairs, none of which is ever bad."""
        return ScenePairs(**self.model_dump(exclude={"kind", "weight"}))

    @model_validator(mode="after")
    def _side_fits(self) -> ScenePairsSource:
        if self.side != "image_to_text" and self.questions:
            raise ValueError(f"side {self.side} is of descriptions; set questions to 0")
        if self.side == "other_text" and self.names_only:
            raise ValueError("names alone are not said in other words: side other_text needs captions")
        return self


class ImageTextPairsSource(Options):
    """A table of pictures and texts that describe them."""

    kind: Literal["image_text_pairs"] = "image_text_pairs"
    path: Path
    limit: Count | None = None
    """Good rows kept."""
    side: Side = "image_to_text"
    """What is read and what is rebuilt; `other_text` is the text with its parts in another order."""
    held_out: HeldOut | None = None
    """Pictures that are not trained on, so that a study can tune by them; None: all are."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """How often its pairs come in an epoch: 0.5 every other epoch, 2 twice."""

    def build(self, on_bad: OnBad = fail) -> Pairs:
        """Returns the pairs; bad rows go to `on_bad`."""
        keep = None if self.held_out is None else _shows_nothing_of(self.held_out)
        return ImageTextPairs(self.path, limit=self.limit, on_bad=on_bad, side=self.side, keep=keep)


class MmebTrainSource(Options):
    """Training tables in MMEB's columns: one table, or a folder with all of them."""

    kind: Literal["mmeb_train"] = "mmeb_train"
    path: Path
    limit: Count | None = None
    """Good rows kept of each table."""
    split: Annotated[str, Field(min_length=1)] = "original"
    """Which split of each subset of a published folder: `original` or `diverse_instruction`."""
    subsets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The subsets of a published folder to take; None: all."""
    held_out: HeldOut | None = None
    """Pictures that are not trained on, so that a study can tune by them; None: all are."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """How often its pairs come in an epoch: 0.5 every other epoch, 2 twice."""

    def build(self, on_bad: OnBad = fail) -> Pairs:
        """Returns the pairs; bad rows go to `on_bad`."""
        keep = None if self.held_out is None else self.held_out.trains
        return MmebTrain(self.path, limit=self.limit, on_bad=on_bad, split=self.split, subsets=self.subsets, keep=keep)


def _shows_nothing_of(held_out: HeldOut) -> Keep:
    return lambda row, where: not held_out.holds(read_image(row["image_path"], where))


Source = Annotated[ScenePairsSource | ImageTextPairsSource | MmebTrainSource, Field(discriminator="kind")]
