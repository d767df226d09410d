"""The trained model for people: texts, pictures, or both in; unit vectors out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from cocoa.errors import UsageError
from cocoa.items import Item, as_sample, as_samples
from cocoa.model import EmbeddingModel, fingerprint, identity_difference, identity_of, local_folder
from cocoa.precision import PRECISIONS, Precision, quantized, shortened
from cocoa.prompts import Side, prompted, worded
from cocoa.sample import Sample

__all__ = ["Embedder", "Item", "as_sample", "as_samples", "identity_difference"]

_log = logging.getLogger(__name__)


class Embedder:
    """A model folder, opened for use."""

    def __init__(self, model: EmbeddingModel, folder: Path, *, address: str | None = None) -> None:
        self.model = model
        self.folder = folder
        self.address = address or str(folder.resolve())
        """What opens the same model again from anywhere: the folder, or a name that is no folder's."""
        self.fingerprint = fingerprint(folder)
        self._warned: set[int] = set()

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str = torch.float32,
        self_test: bool = True,
        revision: str | None = None,
    ) -> Embedder:
        """Returns the embedder of a model folder that `cocoa train` wrote, or of one on the hub.

        Args:
            folder: a folder, or `OWNER/NAME` of a model on the hub (with `revision`, that one of its versions).
            device: where it computes; None: a GPU if there is one.
            dtype: type of the weights, `float32` or `bfloat16`; vectors are float32 in any case.
            self_test: recompute the golden vectors before anything else; a model that gives others is refused.
            revision: branch, tag or commit on the hub.

        Raises:
            ModelError: if there is no such model, or if it is not the model that was saved (see `EmbeddingModel.load`).
            UsageError: E_USAGE_DTYPE for another type of weights.
        """
        types = {"float32": torch.float32, "bfloat16": torch.bfloat16}
        name = str(dtype).removeprefix("torch.")
        if name not in types:
            raise UsageError("E_USAGE_DTYPE", f"dtype is {name!r}; use {' or '.join(types)}")
        path = local_folder(folder, revision=revision)
        address = None if revision is not None or Path(folder).is_dir() else str(folder)
        model = EmbeddingModel.load(path, dtype=types[name], device=device, self_test=self_test)
        return cls(model, path, address=address)

    @property
    def dimensions(self) -> int:
        """Length D of a vector."""
        return self.model.backbone.hidden_size

    @property
    def identity(self) -> dict[str, Any]:
        """What its vectors depend on besides the input, as JSON can hold it; an index is bound to this."""
        return identity_of(self.model, self.fingerprint)

    def encode(
        self,
        items: Sequence[Item],
        *,
        prompt: str | None = None,
        dimensions: int | None = None,
        precision: Precision = "float32",
        progress: bool = False,
    ) -> NDArray[Any]:
        """Returns vectors (N, D) of unit norm, in the order of the items, their texts taken as they are.

        Args:
            items: texts, pictures or both, see `Item`; a `str` alone is a text.
            prompt: words around every item: its text stands at `{text}`, or behind words that do not say where; its
                pictures at `<|image_1|>`, or in front.
            dimensions: keep so many of the first dimensions, and make unit vectors of them. A length that the model
                was not trained for (`model.matryoshka`) costs quality, which is logged once.
            precision: `float32`, `float16`, `int8` or `binary`, see `cocoa.precision.quantized`.
            progress: show a bar.

        Raises:
            UsageError: for an item, length or precision that there is not; all name the item.
            DataError, ImageError: for an item that cannot be read.
            ModelError: E_MODEL_OUTPUT rather than return a vector that is not finite.
        """
        samples = as_samples(items)
        if prompt is not None:
            samples = [worded(sample, prompt) for sample in samples]
        return self._encode(samples, dimensions, precision, progress)

    def encode_query(
        self,
        items: Sequence[Item],
        *,
        task: str | None = None,
        dimensions: int | None = None,
        precision: Precision = "float32",
        progress: bool = False,
    ) -> NDArray[Any]:
        """Returns vectors (N, D): the items as things to search for, in the words of the model's prompts (MMEB's).

        `task` chooses the words of a task of training, such as `vqa`; the rest as in `encode`.
        """
        return self._encode(self._prompted(items, "query", task), dimensions, precision, progress)

    def encode_document(
        self,
        items: Sequence[Item],
        *,
        task: str | None = None,
        dimensions: int | None = None,
        precision: Precision = "float32",
        progress: bool = False,
    ) -> NDArray[Any]:
        """Returns vectors (N, D): the items as things to be found, in the words of the model's prompts (MMEB's).

        `task` chooses the words of a task of training, such as `grounding`; the rest as in `encode`.
        """
        return self._encode(self._prompted(items, "document", task), dimensions, precision, progress)

    def _prompted(self, items: Sequence[Item], side: Side, task: str | None) -> list[Sample]:
        return [prompted(sample, side, task, self.model.prompts) for sample in as_samples(items)]

    def _encode(
        self, samples: list[Sample], dimensions: int | None, precision: Precision, progress: bool
    ) -> NDArray[Any]:
        # Before hours are spent on vectors that cannot be given back.
        self._check(self.dimensions if dimensions is None else dimensions, precision)
        with Progress(disable=not progress) as bar:
            task = bar.add_task("embedding", total=len(samples))
            vectors = self.model.encode(samples, on_progress=lambda done: bar.update(task, completed=done))
        return quantized(vectors if dimensions is None else shortened(vectors, dimensions), precision)

    def _check(self, dimensions: int, precision: str) -> None:
        if not (isinstance(dimensions, int | np.integer) and 1 <= dimensions <= self.dimensions):
            raise UsageError("E_USAGE_DIMENSIONS", f"dimensions is {dimensions}; this model has 1 to {self.dimensions}")
        if precision not in PRECISIONS:
            raise UsageError("E_USAGE_PRECISION", f"precision is {precision!r}; use one of {', '.join(PRECISIONS)}")
        trained = (*self.model.matryoshka, self.dimensions)
        if dimensions not in trained and dimensions not in self._warned:
            self._warned.add(dimensions)
            listed = ", ".join(str(size) for size in trained)
            _log.warning("%d dimensions cost quality: this model was trained for %s", dimensions, listed)
