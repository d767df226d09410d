"""The embedding model: a backbone, the layout it reads with, and the state of e as the embedding.

Shapes: M samples, N lines, S sequence, D hidden.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import cocoa
from cocoa.backbones import Backbone, Encoded, Seen, load_backbone
from cocoa.batch import Batch, Row, collate, row_length, single_row
from cocoa.chunks import padded_chunks
from cocoa.errors import DataError, ModelError
from cocoa.files import check_folder, write_folder
from cocoa.layouts import LAYOUTS
from cocoa.pooling import BRIDGE, Pooling
from cocoa.prompts import PROMPTS
from cocoa.sample import Sample

CARD = "cocoa.json"
FORMAT = 1
_WINDOW = 512
"""Samples that are decoded and sorted together: enough for even batches, few enough to hold in memory."""


class EmbeddingModel(nn.Module):
    """One unit vector for a text, an image, or both: the last state of e, appended to the input."""

    def __init__(
        self, backbone: Backbone, *, layout: str = "bidirectional", max_tokens: int = 4096, pooling: Pooling = BRIDGE
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.layout = layout
        self.max_tokens = max_tokens
        self.pooling = pooling
        self.prompts = dict(PROMPTS)

    def states(self, batch: Batch, allowed: Tensor, seen: Seen | None = None) -> Tensor:
        """Returns the last hidden states [N, S, D] when query positions look where `allowed` [N, 1, S, S] says.

        With `seen`, what the vision tower made of the batch's pictures before, it is not run again.
        """
        return self.backbone.hidden_states(
            batch.input_ids,
            batch.kinds,
            allowed,
            batch.position_ids,
            batch.pixel_values,
            batch.image_grid_thw,
            seen=seen,
        )

    def row(self, sample: Encoded) -> Row:
        """Returns a sample as it is embedded: with its bridge tokens behind it, its text cut to fit."""
        return single_row(self.backbone, sample, self.max_tokens, self.pooling.tokens)

    def embed(self, batch: Batch, seen: Seen | None = None) -> Tensor:
        """Returns float32 [M, D] of unit length: each sample's e."""
        states = self.states(batch, LAYOUTS[self.layout].allowed(batch.roles, batch.samples), seen)
        return functional.normalize(self.pooling.pool(states, batch).float(), dim=-1)

    def embed_all(self, samples: Sequence[Encoded], *, max_batch_tokens: int = 16_384) -> Tensor:
        """Returns float32 [len(samples), D] in the order given.

        Rows of like length share a forward pass of at most `max_batch_tokens` padded tokens: little is padding.
        """
        rows = [self.row(sample) for sample in samples]
        vectors: list[Tensor] = []
        places: list[int] = []
        for chunk in padded_chunks([row_length(row) for row in rows], max_batch_tokens):
            batch = collate(self.backbone, [rows[place] for [place] in chunk]).to(self.backbone.device)
            vectors.append(self.embed(batch))
            places.extend(place for [place] in chunk)
        order = torch.tensor(places).argsort().to(vectors[0].device)
        return torch.cat(vectors)[order]

    @torch.inference_mode()
    def encode(
        self, samples: Sequence[Sample], *, on_progress: Callable[[int], None] | None = None
    ) -> NDArray[np.float32]:
        """Returns float32 [len(samples), D] of unit length, in the order given.

        `on_progress` is told how many samples are done. Raises `DataError` or `ImageError` naming the sample at fault,
        and `E_MODEL_OUTPUT` rather than return a vector that is not finite.
        """
        was_training = self.training
        self.eval()
        vectors = np.zeros((len(samples), self.backbone.hidden_size), np.float32)
        done = 0
        for encoded in self._windows(samples):
            window = self.embed_all(encoded).cpu().numpy()
            if not np.isfinite(window).all():
                number = done + int(np.flatnonzero(~np.isfinite(window).all(1))[0])
                raise ModelError(
                    "E_MODEL_OUTPUT", f"vector {number} is not finite", where=samples[number].where or "encode"
                )
            vectors[done : done + len(window)] = window
            done += len(window)
            if on_progress is not None:
                on_progress(done)
        self.train(was_training)
        return vectors

    def _windows(self, samples: Sequence[Sample]) -> Iterator[list[Encoded]]:
        """Decoded samples, `_WINDOW` at a time; one thread decodes the next window while this one is computed."""

        def decode(start: int) -> list[Encoded]:
            return [self.backbone.encode(sample) for sample in samples[start : start + _WINDOW]]

        with ThreadPoolExecutor(1, thread_name_prefix="cocoa-decode") as pool:
            upcoming = pool.submit(decode, 0)
            for start in range(0, len(samples), _WINDOW):
                ready = upcoming.result()
                upcoming = pool.submit(decode, start + _WINDOW)
                yield ready

    def save(self, folder: Path, *, receipt: dict[str, Any] | None = None) -> None:
        """Writes a model folder that describes itself; all of it or nothing."""
        # Stock code then reads the folder with the attention that the model was trained with.
        self.backbone.stock.config.text_config.is_causal = LAYOUTS[self.layout].causal
        card = {
            "format": FORMAT,
            "cocoa": cocoa.__version__,
            "backbone": self.backbone.stock.config.model_type,
            "layout": self.layout,
            "pooling": self.pooling.kind,
            "bridge_tokens": self.pooling.tokens,
            "bridge_token": self.backbone.text.control.bridge,
            "dimensions": self.backbone.hidden_size,
            "min_pixels": self.backbone.grid.min_pixels,
            "max_pixels": self.backbone.grid.max_pixels,
            "max_tokens": self.max_tokens,
            "receipt": receipt or {},
        }
        with write_folder(folder) as draft:
            self.backbone.save(draft)
            (draft / CARD).write_text(json.dumps(card, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, *, attention: str = "sdpa") -> EmbeddingModel:
        """Returns the model of a folder that `save` wrote, on the best device at hand.

        Raises `ModelError` (`E_MODEL_MISSING`, `E_MODEL_INCOMPLETE`, `E_MODEL_FORMAT`, `E_MODEL_WEIGHTS`) rather than
        give back a model that is not the one that was saved.
        """
        if not (folder / CARD).is_file():
            hint = "; a bare backbone must be trained first" if (folder / "config.json").is_file() else ""
            raise ModelError("E_MODEL_MISSING", f"not a model folder: no {CARD}{hint}", where=str(folder))
        try:
            check_folder(folder)
        except DataError as error:
            raise ModelError("E_MODEL_INCOMPLETE", error.message, where=str(folder)) from error
        try:
            card = json.loads((folder / CARD).read_text())
            if card["format"] != FORMAT:
                raise ModelError("E_MODEL_FORMAT", f"format {card['format']}, this version reads {FORMAT}")
            layout, max_tokens, bridge = card["layout"], int(card["max_tokens"]), card["bridge_token"]
            pooling = Pooling(kind=card["pooling"], tokens=card.get("bridge_tokens", 1))
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError("E_MODEL_FORMAT", f"{CARD} cannot be read: {error}", where=str(folder)) from error
        backbone = load_backbone(str(folder), attention=attention)
        if layout not in LAYOUTS or bridge != backbone.text.control.bridge:
            raise ModelError("E_MODEL_FORMAT", f"unknown layout {layout!r} or bridge token {bridge}", where=str(folder))
        return cls(backbone, layout=layout, max_tokens=max_tokens, pooling=pooling).to(best_device())


def best_device() -> torch.device:
    """Returns the first GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
