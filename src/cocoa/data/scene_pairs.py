"""Unlabelled pairs without end: a generated scene and its caption, or a scene with a question and its answer."""

from __future__ import annotations

from dataclasses import dataclass

from cocoa.data.scene_splits import all_things, draw_scene, stream
from cocoa.data.sides import Side, seen_from
from cocoa.errors import UsageError
from cocoa.sample import IMAGE_PLACEHOLDER, Pair, Sample


@dataclass(frozen=True, slots=True)
class ScenePairs:
    """`num_pairs` generated pairs, drawn when asked for; pair i depends on `seed` and i alone.

    All of the first `num_things` things appear, in all combinations. `questions` is the rate of pairs that ask;
    the others describe. `pixels` is the width and height of a picture, `max_items` the most things in one.
    With `names_only` a description is the names of the things and nothing more. `side` says what is read and what is
    rebuilt, see `sides`; the other text of a scene is another caption of it.
    """

    seed: int
    num_pairs: int
    num_things: int = 128
    pixels: int = 84
    questions: float = 0.0
    max_items: int = 4
    names_only: bool = False
    side: Side = "image_to_text"

    def __post_init__(self) -> None:
        if self.num_pairs < 0:
            raise UsageError("E_USAGE_SCENES", f"num_pairs is {self.num_pairs}; use 0 or more")
        if not 0.0 <= self.questions <= 1.0:
            raise UsageError("E_USAGE_SCENES", f"questions is {self.questions}; it is a rate from 0 to 1")
        if not 1 <= self.max_items <= 4:
            raise UsageError("E_USAGE_SCENES", f"max_items is {self.max_items}; use 1 to 4")
        if self.pixels < 28:
            raise UsageError("E_USAGE_SCENES", f"pixels is {self.pixels}; use 28 or more")
        all_things(self.num_things)

    def __len__(self) -> int:
        return self.num_pairs

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < self.num_pairs:
            raise IndexError(f"pair {index} of {self.num_pairs}")
        scene = draw_scene(
            self.seed,
            "pretrain",
            "any",
            index,
            num_things=self.num_things,
            max_items=self.max_items,
            pixels=self.pixels,
        )
        rng = stream(self.seed, "pretrain", "any", index, "text")
        if rng.random() < self.questions:
            question, target = scene.ask(rng)
            text = f"{IMAGE_PLACEHOLDER}\n{question}\n"
        else:
            text, target = f"{IMAGE_PLACEHOLDER}\n", ", ".join(scene.names) if self.names_only else scene.caption(rng)
        where = f"generated pair {index}"
        if self.side in ("same_text", "other_text"):
            # No picture is looked at, so none is drawn.
            other = scene.caption(stream(self.seed, "pretrain", "any", index, "other text"))
            return seen_from(Pair(Sample(text, where=where), Sample(target, where=where)), self.side, other)
        return seen_from(Pair(Sample(text, (scene.render(),), where), Sample(target, where=where)), self.side)
