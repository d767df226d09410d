"""The trained model for people: texts, pictures, or both in; unit vectors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import Progress

from cocoa.errors import ModelError, UsageError
from cocoa.model import EmbeddingModel, fingerprint, identity_difference, identity_of
from cocoa.prompts import prompted
from cocoa.sample import Sample

__all__ = ["Embedder", "Item", "as_sample", "as_samples", "identity_difference"]

Item = str | Mapping[str, Any] | Image.Image | Sample
"""A text, a picture, `{"text": ..., "image": ...}` with either or both, or a `Sample`."""


class Embedder:
    """A model folder, opened for use."""

    def __init__(self, model: EmbeddingModel, folder: Path) -> None:
        self.model = model
        self.folder = folder
        self.fingerprint = fingerprint(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Embedder:
        """Returns the embedder of a model folder that `cocoa train` wrote.

        Raises `ModelError` if there is none, or if it is not the model that was saved.
        """
        path = Path(folder)
        if not path.is_dir():
            raise ModelError("E_MODEL_MISSING", "no such model folder", where=str(folder))
        return cls(EmbeddingModel.load(path), path)

    @property
    def dimensions(self) -> int:
        """Length D of a vector."""
        return self.model.backbone.hidden_size

    @property
    def identity(self) -> dict[str, Any]:
        """What its vectors depend on besides the input, as JSON can hold it; an index is bound to this."""
        return identity_of(self.model, self.fingerprint)

    def encode(self, items: Sequence[Item], *, progress: bool = False) -> NDArray[np.float32]:
        """Returns float32 (N, D) of unit norm, in the order of the items, their texts taken as they are.

        Raises `UsageError` for an item of another type, `DataError` or `ImageError` for one that cannot be read; all
        name the item.
        """
        return self._encode(as_samples(items), progress)

    def encode_query(self, items: Sequence[Item], *, progress: bool = False) -> NDArray[np.float32]:
        """Returns float32 (N, D): the items as things to search for, in the words the model was trained with."""
        return self._encode([prompted(sample, "query") for sample in as_samples(items)], progress)

    def encode_document(self, items: Sequence[Item], *, progress: bool = False) -> NDArray[np.float32]:
        """Returns float32 (N, D): the items as things to be found, in the words the model was trained with."""
        return self._encode([prompted(sample, "document") for sample in as_samples(items)], progress)

    def _encode(self, samples: list[Sample], progress: bool) -> NDArray[np.float32]:
        with Progress(disable=not progress) as bar:
            task = bar.add_task("embedding", total=len(samples))
            return self.model.encode(samples, on_progress=lambda done: bar.update(task, completed=done))


def as_samples(items: Sequence[Item]) -> list[Sample]:
    """Returns the samples of items that a person gave."""
    if isinstance(items, str | Mapping):
        raise UsageError("E_USAGE_ITEM", f"encode takes a list of items, not one {type(items).__name__}")
    return [as_sample(item, number) for number, item in enumerate(items)]


def as_sample(item: Item, number: int) -> Sample:
    """Returns the sample of an item that a person gave; `number` names it in errors."""
    where = f"item {number}"
    match item:
        case Sample():
            return item
        case str():
            return Sample(item, where=where)
        case Image.Image():
            return Sample(images=(item,), where=where)
        case Mapping():
            if unknown := sorted(set(item) - {"text", "image"}):
                raise UsageError("E_USAGE_ITEM", f"unknown key {unknown[0]!r}; known: text, image", where=where)
            image = item.get("image")
            return Sample(str(item.get("text") or ""), () if image is None else (image,), where)
    raise UsageError("E_USAGE_ITEM", f"a {type(item).__name__} is not a text, a picture or a mapping", where=where)
