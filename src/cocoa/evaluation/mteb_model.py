"""A model as `mteb` wants it, so that its benchmarks (MIEB, ViDoRe) run on ours; mteb itself is not a dependency.

import mteb
from cocoa.evaluation.mteb_model import MtebModel
mteb.evaluate(MtebModel.load("runs/mine/model"), mteb.get_benchmark("MIEB(lite)").tasks)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cocoa.errors import DataError, UsageError
from cocoa.model import EmbeddingModel, fingerprint, local_folder
from cocoa.prompts import Side, prompted
from cocoa.sample import Sample

_WINDOW = 512
"""Samples that are embedded together."""
_SIDES: dict[str | None, Side] = {"query": "query", "document": "document", "passage": "document", None: "document"}


class MtebModel:
    """An embedding model with the methods that mteb calls.

    A text, a picture or both come in the words that the model has for their side, query or document; a
    task without sides counts as documents. A sample that is asked for twice is embedded once.
    """

    def __init__(self, model: EmbeddingModel, *, name: str = "cocoa/model", revision: str = "local") -> None:
        self.model = model
        self.name = name
        self.revision = revision

    @classmethod
    def load(cls, folder: str | Path) -> MtebModel:
        """Returns the wrapper of a model folder or hub model; mteb knows results by folder name and fingerprint."""
        path = local_folder(folder)
        model = EmbeddingModel.load(path)
        return cls(model, name=f"cocoa/{Path(folder).absolute().name}", revision=fingerprint(path)[:12])

    @cached_property
    def mteb_model_meta(self) -> Any:
        """What mteb must know of a model. Raises `UsageError` (`E_USAGE_MTEB`) where mteb is not installed."""
        try:
            meta = import_module("mteb.models.model_meta").ModelMeta
        except ImportError as error:
            raise UsageError("E_USAGE_MTEB", "mteb is not installed: pip install mteb") from error
        known = {"name": self.name, "revision": self.revision, "modalities": ["text", "image"]}
        return meta.create_empty(known | {"embed_dim": self.model.backbone.hidden_size})

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **options: Any,
    ) -> NDArray[np.float32]:
        """Returns float32 [samples, D] of unit length; `inputs` yields batches {"text": [...], "image": [...]}."""
        side = _SIDES.get(getattr(prompt_type, "value", prompt_type), "document")
        rows: list[int] = []
        places: dict[str, int] = {}
        vectors: list[NDArray[np.float32]] = []
        waiting: list[Sample] = []
        words = self.model.prompts
        for sample in (prompted(one, side, None, words) for batch in inputs for one in _samples(batch)):
            key = sample.key
            if key not in places:
                places[key] = len(places)
                waiting.append(sample)
            rows.append(places[key])
            # Not all at once: the pictures of a data set do not fit in memory.
            if len(waiting) == _WINDOW:
                vectors.append(self.model.encode(waiting))
                waiting = []
        vectors.append(self.model.encode(waiting))
        return np.concatenate(vectors)[rows]

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Returns the cosine of each with each."""
        return torch.as_tensor(embeddings1) @ torch.as_tensor(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Returns the cosine of each with its own."""
        return (torch.as_tensor(embeddings1) * torch.as_tensor(embeddings2)).sum(-1)


def _samples(batch: Mapping[str, Any]) -> list[Sample]:
    columns = {name: batch[name] for name in ("text", "image") if batch.get(name) is not None}
    if not columns:
        raise DataError("E_DATA_EMPTY", f"a batch of mteb has neither text nor image, but {sorted(batch)}")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [
        Sample(row.get("text") or "", () if row.get("image") is None else (row["image"],), f"mteb item {number}")
        for number, row in enumerate(rows)
    ]
