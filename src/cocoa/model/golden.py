"""Golden vectors: a dozen fixed inputs and what the model made of them when it was saved, in `golden.json`.

Whoever opens the folder, with whatever versions, machine or language, can compare. The inputs stand in the file, the
pictures as PNG data URLs.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cocoa.errors import ModelError
from cocoa.model.embedding_model import EmbeddingModel
from cocoa.model.identity import identity_difference, identity_of
from cocoa.sample import Sample

GOLDEN = "golden.json"
Kind = Literal["text", "image", "both", "several"]
KINDS: tuple[Kind, ...] = ("text", "image", "both", "several")

_LONG = "A red apple lies left of a blue bird, and two cats sleep on the green grass behind them. "
_TEXTS = (
    "a red apple",
    " ",
    "two  spaces,\ta tab\nand a new line\n",
    "naïve Ünïcode — 日本語, العربية, 🍎🐦",
    "def area(r): return 3.14159 * r ** 2  # [0], {x}, 100%",
    (4 * _LONG).strip(),
)
_SIZES = ((60, 40), (300, 200), (20, 190), (97, 121))
"""Width and height in pixels; small, so that a large model can be tested where it is used."""


@dataclass(frozen=True)
class GoldenInput:
    """One fixed input: a text, PNG pictures, or both."""

    text: str
    pictures: tuple[bytes, ...] = ()

    @property
    def kind(self) -> Kind:
        """What is in it."""
        if len(self.pictures) > 1:
            return "several"
        return "text" if not self.pictures else "both" if self.text else "image"

    @property
    def sample(self) -> Sample:
        """The input as the model takes it."""
        return Sample(self.text, self.pictures, where=f"golden {self.kind} {self.text[:20]!r}")

    @property
    def picture_urls(self) -> list[str]:
        """The pictures as data URLs."""
        return ["data:image/png;base64," + base64.b64encode(picture).decode() for picture in self.pictures]


@dataclass(frozen=True)
class Golden:
    """The fixed inputs, their vectors float32 [N, D] of unit length, and what the vectors were made with."""

    inputs: tuple[GoldenInput, ...]
    vectors: NDArray[np.float32]
    settings: dict[str, Any]

    @classmethod
    def of(cls, model: EmbeddingModel) -> Golden:
        """Returns the golden vectors of a model, computed in float32; inputs that its rows would cut are left out."""
        most = model.max_content_tokens
        fitting = tuple(one for one in golden_inputs() if len(model.backbone.encode(one.sample, pixels=False)) <= most)
        with _in_float32(model):
            vectors = model.encode([one.sample for one in fitting])
            return cls(fitting, vectors, _settings(model))

    def to_json(self) -> str:
        """Returns the content of the file."""
        items = [
            {
                "kind": one.kind,
                "text": one.text,
                "images": one.picture_urls,
                # Nine digits give back the very float32.
                "vector": [float(f"{number:.9g}") for number in vector.tolist()],
            }
            for one, vector in zip(self.inputs, self.vectors, strict=True)
        ]
        lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in items)
        return f'{{"settings": {json.dumps(self.settings)},\n"items": [\n{lines}\n]}}\n'

    @classmethod
    def read(cls, folder: Path) -> Golden:
        """Returns the golden vectors of a model folder; raises `E_MODEL_GOLDEN` if they cannot be read."""
        try:
            content = json.loads((folder / GOLDEN).read_text())
            inputs = tuple(
                GoldenInput(str(item["text"]), tuple(base64.b64decode(url.partition(",")[2]) for url in item["images"]))
                for item in content["items"]
            )
            vectors = np.array([item["vector"] for item in content["items"]], np.float32)
            if vectors.ndim != 2 or not np.isfinite(vectors).all():
                raise ValueError("no vectors of one length")
            return cls(inputs, vectors, dict(content["settings"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ModelError("E_MODEL_GOLDEN", f"{GOLDEN} cannot be read: {error}", where=str(folder)) from error

    def difference(self, model: EmbeddingModel) -> str | None:
        """Returns in words how a model differs from the one that the vectors are of, before any is computed."""
        return identity_difference(self.settings, _settings(model))

    def cosines(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns the cosine [N] of each vector with its golden one; one that is not finite or zero has -1."""
        ours, theirs = self.vectors.astype(np.float64), np.asarray(vectors, np.float64)
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        usable = np.isfinite(norms) & (norms > 0)
        products = (ours * np.where(usable[:, None], theirs, 0)).sum(1)
        return np.where(usable, products / np.where(usable, norms, 1), -1.0)


def golden_inputs() -> tuple[GoldenInput, ...]:
    """Returns the fixed inputs; always the same, made from nothing but this code."""
    pictures = [_picture(*size, seed) for seed, size in enumerate(_SIZES)]
    return (
        *(GoldenInput(text) for text in _TEXTS),
        *(GoldenInput("", (picture,)) for picture in pictures),
        GoldenInput("a red apple", (pictures[0],)),
        GoldenInput("What is in the picture?\n" + _LONG, (pictures[3],)),
        GoldenInput("", (pictures[0], pictures[2])),
        GoldenInput("Which of the three is larger?", (pictures[3], pictures[0], pictures[2])),
    )


def _picture(width: int, height: int, seed: int) -> bytes:
    """A PNG with a colour gradient, stripes and a square: edges and flat parts, from integers alone."""
    y, x = np.mgrid[:height, :width]
    red, green = 255 * x // width, 255 * y // height
    blue = 255 * ((x // 7 + y // 5 + seed) % 2)
    pixels = np.stack([red, green, blue], 2).astype(np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = (250, 40 * seed, 20)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _settings(model: EmbeddingModel) -> dict[str, Any]:
    """What golden vectors depend on; the type of the weights has a tolerance instead, see `self_test`."""
    identity = identity_of(model, fingerprint="")
    return {name: value for name, value in identity.items() if name not in ("fingerprint", "dtype")}


def kinds_of(inputs: Sequence[GoldenInput]) -> dict[Kind, list[int]]:
    """Returns the places of the inputs of each kind that is there."""
    places = {kind: [place for place, one in enumerate(inputs) if one.kind == kind] for kind in KINDS}
    return {kind: found for kind, found in places.items() if found}


@contextmanager
def _in_float32(model: EmbeddingModel) -> Iterator[None]:
    """Makes the weights float32 and gives each its own type back, which loses nothing."""
    types = [(weight, weight.dtype) for weight in model.parameters()]
    try:
        for weight, _ in types:
            weight.data = weight.data.to(torch.float32)
        yield
    finally:
        for weight, own in types:
            weight.data = weight.data.to(own)
