"""What the benchmarks embed: texts, pictures and both, a third each, distinct, drawn from the open sets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cocoa.archives import open_archive
from cocoa.backbones import Backbone
from cocoa.data.mmeb_eval import read_tasks
from cocoa.images import ArchivedImage
from cocoa.sample import IMAGE_PLACEHOLDER, Sample


@dataclass(frozen=True)
class Thing:
    """A text, a picture file, or both."""

    text: str
    picture: str | None

    def for_us(self) -> Any:
        """Returns it as `Embedder.encode` takes it."""
        if self.picture is None:
            return self.text
        return {"text": self.text, "image": self.picture}

    def for_stock(self) -> Any:
        """Returns it as `SentenceTransformer.encode` takes it; opened, because by a path it would sort by its name."""
        if self.picture is None:
            return self.text
        picture = Image.open(self.picture)
        return {"text": self.text, "image": picture} if self.text else picture


def draw(sets: Path, number: int, folder: Path, *, seed: int = 0) -> list[Thing]:
    """Returns so many things, their pictures written into a folder; none is like another, none transparent."""
    samples: dict[str, Sample] = {}
    for path in sorted(path for path in sets.iterdir() if path.is_dir()):
        for task in read_tasks(path):
            for question in task.questions:
                for sample in (question.query, *question.candidates):
                    samples.setdefault(sample.key, sample)
    texts = [sample for sample in samples.values() if not sample.images]
    seen = [sample for sample in samples.values() if sample.images]
    chance = random.Random(seed)
    chance.shuffle(texts)
    chance.shuffle(seen)
    things = [Thing(sample.text, None) for sample in texts[: number // 3]]
    used: set[Any] = set()
    for sample in seen:
        if len(things) == number:
            break
        picture = sample.images[0]
        assert isinstance(picture, ArchivedImage)
        data = open_archive(picture.archive).read(picture.member)
        file = folder / f"{len(things)}.webp"
        file.write_bytes(data)
        # Where white shines through, the plain conversion shows black: not the same picture.
        if picture in used or Image.open(file).has_transparency_data:
            continue
        used.add(picture)
        words = sample.text.replace(IMAGE_PLACEHOLDER, "").strip() if len(things) % 2 else ""
        things.append(Thing(words, str(file)))
    chance.shuffle(things)
    return things


def measured(backbone: Backbone, things: Sequence[Thing]) -> dict[str, Any]:
    """Returns what kinds they are of, and tokens and pixels at the percentiles 0, 10, 50, 90, 100."""
    kinds = ["text" if thing.picture is None else "both" if thing.text else "image" for thing in things]
    tokens = [len(backbone.encode(sample_of(thing), pixels=False)) for thing in things]
    sizes = [Image.open(thing.picture).size for thing in things if thing.picture]

    def spread(values: Sequence[float]) -> list[int]:
        return [round(float(value)) for value in np.percentile(values, [0, 10, 50, 90, 100])]

    return {
        "kinds": {kind: kinds.count(kind) for kind in ("text", "image", "both")},
        "tokens": {kind: spread([t for t, k in zip(tokens, kinds, strict=True) if k == kind]) for kind in set(kinds)},
        "pixels": spread([width * height for width, height in sizes]),
    }


def sample_of(thing: Thing) -> Sample:
    """Returns it as it travels through the code."""
    return Sample(thing.text, () if thing.picture is None else (thing.picture,))
