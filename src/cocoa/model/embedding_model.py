"""The embedding model: a backbone, the layout it reads with, and the state of e as the embedding.

Shapes: M samples, N lines, S sequence, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cocoa.backbones import Backbone, Encoded, Seen
from cocoa.batch import Batch, Row, collate, row_length, single_row
from cocoa.chunks import Chunk, padded_chunks
from cocoa.errors import ModelError
from cocoa.layouts import LAYOUTS
from cocoa.looks import Looks, placed
from cocoa.model.evaluating import evaluating
from cocoa.model.passes import num_readers, pass_tokens, run_passes
from cocoa.model.shared_pictures import SharedPictures
from cocoa.pooling import BRIDGE, Pooling
from cocoa.precision import LENGTH_ERROR
from cocoa.prompts import PROMPTS
from cocoa.sample import Sample

_WINDOW = 512
"""Samples that are sorted together: enough for even passes."""
MAX_BATCH_TOKENS = 16_384
"""The most padded tokens of a pass, on any device."""


class EmbeddingModel(nn.Module):
    """One unit vector for a text, an image, or both: the last state of e, appended to the input.

    `prompts` are the words around items (see `cocoa.prompts`), `matryoshka` the lengths below D whose first
    dimensions alone were trained to be a vector.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        layout: str = "bidirectional",
        max_tokens: int = 4096,
        prompts: Mapping[str, str] = PROMPTS,
        matryoshka: Sequence[int] = (),
        pooling: Pooling = BRIDGE,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.layout = layout
        self.max_tokens = max_tokens
        self.prompts = dict(prompts)
        self.matryoshka = tuple(sorted(matryoshka))
        self.pooling = pooling

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.parameters()).dtype

    def allowed(self, batch: Batch, layout: str | None = None) -> Tensor | Looks:
        """Returns who may look at whom in a batch under a layout (None: the model's own), as its attention takes it."""
        looks = self.looks(batch, layout)
        return LAYOUTS[layout or self.layout].allowed(batch.roles, batch.samples) if looks is None else looks

    def looks(self, batch: Batch, layout: str | None = None) -> Looks | None:
        """Returns who may look at whom as `split` attention takes it; None where attention takes a square mask."""
        if self.backbone.attention != "split":
            return None
        return LAYOUTS[layout or self.layout].looks(batch.roles, batch.samples, device=self.backbone.device.type)

    def num_looks(self, batch: Batch, looks: Looks | None, layout: str | None = None) -> tuple[int, int]:
        """Returns the query-key pairs that one head of one layer computes for a batch, and those that it needs.

        `looks` are the batch's own under that layout.
        """
        if looks is not None:
            return looks.num_computed, looks.num_needed
        rule = LAYOUTS[layout or self.layout]
        return batch.roles.numel() * batch.roles.shape[1], rule.num_needed(batch.roles, batch.samples)

    def states(
        self, batch: Batch, allowed: Tensor | Looks, seen: Seen | None = None, *, read_at: Tensor | None = None
    ) -> Tensor:
        """Returns the last hidden states [N, S, D] when query positions look where `allowed` says.

        With `seen`, what the vision tower made of the batch's pictures before, it is not run again; with `read_at`,
        places of the flattened lines, only their states are computed to the end and all others are 0.
        """
        return self.backbone.hidden_states(
            batch.input_ids,
            batch.kinds,
            placed(allowed, self.backbone.device),
            batch.position_ids,
            batch.pixel_values,
            batch.image_grid_thw,
            seen=seen,
            read_at=read_at,
        )

    def row(self, sample: Encoded) -> Row:
        """Returns a sample as it is embedded: with its bridge tokens behind it, its text cut to fit."""
        return single_row(self.backbone, sample, self.max_tokens, self.pooling.tokens)

    @property
    def max_content_tokens(self) -> int:
        """The most tokens of a sample that `row` takes: its bridge tokens need room too."""
        return self.max_tokens - self.pooling.tokens

    def embed(self, batch: Batch, seen: Seen | None = None) -> Tensor:
        """Returns float32 [M, D] of unit length: each sample's e."""
        return functional.normalize(self.pooled(batch, seen), dim=-1)

    def pooled(self, batch: Batch, seen: Seen | None = None, looks: Looks | None = None) -> Tensor:
        """Returns float32 [M, D]: the same vectors before they get unit length; `looks` if they were made before."""
        allowed = self.allowed(batch) if looks is None else looks
        states = self.states(batch, allowed, seen, read_at=self.pooling.places(batch))
        return self.pooling.pool(states, batch).float()

    def embed_all(self, samples: Sequence[Encoded], *, max_batch_tokens: int = MAX_BATCH_TOKENS) -> Tensor:
        """Returns float32 [len(samples), D] in the order given, without gradients.

        Rows of like length share a forward pass of at most `max_batch_tokens` padded tokens (on a CPU of fewer, see
        `passes.pass_tokens`): little is padding. A picture that several samples show is seen once.
        """
        shared = SharedPictures.by_content(samples)
        return self._embed_rows([self.row(sample) for sample in samples], max_batch_tokens, shared=shared)

    def _embed_rows(
        self,
        rows: Sequence[Row],
        max_batch_tokens: int,
        complete: Callable[[int], Row] | None = None,
        *,
        shared: SharedPictures,
    ) -> Tensor:
        """The vectors of rows; with `complete` the rows are outlines, and it returns the row that is read."""
        device = self.backbone.device
        readers = num_readers(device)

        def prepare(chunk: Chunk) -> tuple[Chunk, Batch]:
            places = [place for [place] in chunk]
            if complete is None:
                made = [rows[place] for place in places]
            elif readers == 1:
                made = [complete(place) for place in places]  # here: a thread of its own would only be waited for
            else:
                made = list(reading.map(complete, places))
            return chunk, collate(self.backbone, made).to(device)

        def embed(ready: tuple[Chunk, Batch]) -> Tensor:
            chunk, batch = ready
            seen = shared.see(self.backbone, batch, (place for [place] in chunk)) if shared.has_any else None
            return self.embed(batch, seen)

        most = pass_tokens(device, self.backbone.hidden_size, max_batch_tokens)
        # Longest first, so that passes that run side by side end together.
        chunks = padded_chunks([row_length(row) for row in rows], most, device.type)[::-1]
        with ThreadPoolExecutor(readers, thread_name_prefix="cocoa-picture") as reading:
            vectors = torch.cat(list(run_passes(chunks, prepare, embed, device)))
        order = torch.tensor([place for chunk in chunks for [place] in chunk]).argsort()
        return vectors[order.to(vectors.device)]

    @torch.inference_mode()
    def encode(
        self, samples: Sequence[Sample], *, on_progress: Callable[[int], None] | None = None
    ) -> NDArray[np.float32]:
        """Returns float32 [len(samples), D] of unit length, in the order given.

        `on_progress` is told how many samples are done. A picture that several of 512 neighbours show is seen once if
        they name the same place of it (or hold the same object). Raises `DataError` or `ImageError` naming the sample
        at fault, and `E_MODEL_OUTPUT` rather than return a vector that is not finite or not of unit length.
        """
        vectors = np.zeros((len(samples), self.backbone.hidden_size), np.float32)
        done = 0
        with evaluating(self):
            for outlines in self._windows(samples):
                window = self._embed_window(samples[done : done + len(outlines)], outlines)
                # Not a number is also not near 1.
                wrong = np.flatnonzero(~(np.abs(np.linalg.norm(window, axis=1) - 1) < LENGTH_ERROR))
                if len(wrong):
                    number = done + int(wrong[0])
                    what = "of unit length" if np.isfinite(window[wrong[0]]).all() else "finite"
                    raise ModelError(
                        "E_MODEL_OUTPUT", f"vector {number} is not {what}", where=samples[number].where or "encode"
                    )
                vectors[done : done + len(window)] = window
                done += len(window)
                if on_progress is not None:
                    on_progress(done)
        return vectors

    def _embed_window(self, samples: Sequence[Sample], outlines: Sequence[Encoded]) -> NDArray[np.float32]:
        rows = [self.row(outline) for outline in outlines]

        def complete(place: int) -> Row:
            sample = samples[place]
            return self.row(self.backbone.encode(sample)) if sample.images else rows[place]

        shared = SharedPictures.by_source(samples, self.backbone.text)
        return self._embed_rows(rows, MAX_BATCH_TOKENS, complete, shared=shared).cpu().numpy()

    def _windows(self, samples: Sequence[Sample]) -> Iterator[list[Encoded]]:
        """Samples without the pixels of their pictures, `_WINDOW` at a time, the next read while one is computed.

        Their lengths decide who shares a pass; a picture is decoded right before its pass, so few are in memory.
        """

        def read(start: int) -> list[Encoded]:
            return [self.backbone.encode(sample, pixels=False) for sample in samples[start : start + _WINDOW]]

        with ThreadPoolExecutor(1, thread_name_prefix="cocoa-read") as pool:
            upcoming = pool.submit(read, 0)
            for start in range(0, len(samples), _WINDOW):
                ready = upcoming.result()
                upcoming = pool.submit(read, start + _WINDOW)
                yield ready

    def save(self, folder: Path, *, receipt: dict[str, Any] | None = None) -> None:
        """Writes a model folder that describes itself; all of it or nothing."""
        # The folder is read and written by what stands above a model, so it is imported when it is used.
        from cocoa.model.writing import write_model

        write_model(self, folder, receipt=receipt)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        attention: str = "split",
        dtype: torch.dtype = torch.float32,
        device: str | torch.device | None = None,
        self_test: bool = True,
    ) -> EmbeddingModel:
        """Returns the model of a folder that `save` wrote, on the best device at hand unless one is named.

        Raises `ModelError` rather than give back a model that is not the one that was saved: `E_MODEL_MISSING`,
        `E_MODEL_INCOMPLETE`, `E_MODEL_FORMAT`, `E_MODEL_UNSAFE`, `E_MODEL_WEIGHTS`, `E_MODEL_TOKENIZER`, and from the
        self-test `E_MODEL_ATTENTION` and `E_MODEL_GOLDEN`.
        """
        from cocoa.model.reading import read_model

        return read_model(folder, attention=attention, dtype=dtype, device=device, self_test=self_test)


def best_device() -> torch.device:
    """Returns the first GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
