"""A Qwen-VL backbone: everything that the rest may ask of it, in one place, over stock `transformers` classes.

What differs between families stands as data in `families.py`. Shapes: N rows, S sequence, D hidden, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText
from transformers.utils import logging

from cocoa.backbones.encoded import Encoded, Kind
from cocoa.backbones.families import FAMILIES
from cocoa.backbones.patches import PatchGrid
from cocoa.backbones.rope import mrope_positions
from cocoa.backbones.tokens import TextTokens
from cocoa.errors import CocoaError, DataError, ModelError
from cocoa.images import open_rgb
from cocoa.sample import Sample


class Backbone(nn.Module):
    """A stock Qwen-VL model with its tokenizer and patch grid."""

    def __init__(self, stock: Any, text: TextTokens, grid: PatchGrid) -> None:
        super().__init__()
        self.stock = stock
        self.text = text
        self.grid = grid
        rows = stock.get_input_embeddings().weight.shape[0]
        if text.control.mask >= rows:
            stock.resize_token_embeddings(text.control.mask + 1)
        self.bridge = self._control(text.control.bridge)

    @property
    def hidden_size(self) -> int:
        """Length D of a hidden state, and of an embedding."""
        return int(self.stock.config.text_config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.stock.parameters()).device
        return device

    @property
    def layers(self) -> nn.ModuleList:
        """The language model's decoder layers."""
        layers: nn.ModuleList = self.stock.model.language_model.layers
        return layers

    def encode(self, sample: Sample) -> Encoded:
        """Returns tokens and patches of a sample, without a bridge token.

        Raises `DataError` for a sample with nothing in it or wrong placeholders, `ImageError` for a bad picture; both
        name the sample's file and row.
        """
        if not sample.text and not sample.images:
            raise DataError("E_DATA_EMPTY", "sample has neither text nor picture", where=sample.where)
        control = self.text.control
        ids: list[NDArray[np.int64]] = []
        kinds: list[NDArray[np.uint8]] = []
        patches, grids = [], []
        for piece in self.text.split(sample.text, len(sample.images), sample.where):
            if isinstance(piece, str):
                words = self.text.ids(piece)
                ids.append(np.array(words, np.int64))
                kinds.append(np.full(len(words), Kind.TEXT, np.uint8))
                continue
            try:
                cut, grid = self.grid.cut(open_rgb(sample.images[piece]))
            except CocoaError as error:
                raise error.at(sample.where) if sample.where else error from None
            num_tokens = len(cut) // self.grid.patches_per_token
            ids.append(np.array([control.vision_start, *[control.image] * num_tokens, control.vision_end], np.int64))
            kinds.append(np.array([Kind.CONTROL, *[Kind.IMAGE] * num_tokens, Kind.CONTROL], np.uint8))
            patches.append(cut)
            grids.append(grid)
        return Encoded(np.concatenate(ids), np.concatenate(kinds), tuple(patches), tuple(grids), sample.where)

    def positions(self, kinds: NDArray[np.uint8], grids: Sequence[tuple[int, int, int]]) -> NDArray[np.int64]:
        """Returns rotary positions [3, S] of one row."""
        return mrope_positions(kinds, grids, self.grid.merge_size)

    def hidden_states(
        self,
        input_ids: Tensor,
        kinds: Tensor,
        allowed: Tensor,
        position_ids: Tensor,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
    ) -> Tensor:
        """Returns the last layer's states after the final norm, [N, S, D].

        `input_ids` and `kinds` [N, S]; `allowed` bool [N, 1, S, S], may query look at key; `position_ids` [3, N, S];
        patches [P, F] and grids [I, 3] of all pictures in reading order.
        """
        output = self.stock.model(
            input_ids=input_ids,
            attention_mask=self.attention_mask(allowed),
            position_ids=position_ids,
            pixel_values=None if pixel_values is None else pixel_values.to(self.stock.dtype),
            image_grid_thw=image_grid_thw,
            mm_token_type_ids=(kinds == Kind.IMAGE).int(),
            use_cache=False,
        )
        states: Tensor = output.last_hidden_state
        return states

    def attention_mask(self, allowed: Tensor) -> Tensor:
        """Returns `allowed` as the attention backend must be given it.

        `sdpa` takes booleans; `eager` adds what it is given, so there a forbidden look is the lowest float.
        """
        if self.stock.config.text_config._attn_implementation == "sdpa":
            return allowed
        lowest = torch.finfo(self.stock.dtype).min
        return torch.zeros_like(allowed, dtype=self.stock.dtype).masked_fill(~allowed, lowest)

    def decode_once(self, layer: nn.Module, states: Tensor, allowed: Tensor, position_ids: Tensor) -> Tensor:
        """Returns [N, S, D]: one decoder layer (a copy of `layers[i]`) run over states."""
        rotary = self.stock.model.language_model.rotary_emb(states, position_ids)
        output = layer(states, attention_mask=self.attention_mask(allowed), position_embeddings=rotary)
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result

    def logits(self, states: Tensor) -> Tensor:
        """Returns float32 scores over the vocabulary, [..., V], of hidden states [..., D]."""
        scores: Tensor = self.stock.lm_head(states)
        return scores.float()

    def with_pixel_limits(self, min_pixels: int | None, max_pixels: int | None) -> Backbone:
        """Returns the same backbone with other picture limits (in pixels after resizing)."""
        self.grid = replace(
            self.grid, min_pixels=min_pixels or self.grid.min_pixels, max_pixels=max_pixels or self.grid.max_pixels
        )
        if self.grid.min_pixels > self.grid.max_pixels:
            raise ModelError(
                "E_MODEL_PIXELS", f"min_pixels {self.grid.min_pixels} is above max_pixels {self.grid.max_pixels}"
            )
        return self

    def save(self, folder: Path) -> None:
        """Writes weights, configuration, tokenizer and picture settings as `transformers` expects them."""
        with _without_bars():
            self.stock.save_pretrained(folder, safe_serialization=True)
        self.text.save(folder)
        settings = {
            "image_processor_type": "Qwen2VLImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "rescale_factor": 1 / 255,
            "resample": 3,
            "size": {"shortest_edge": self.grid.min_pixels, "longest_edge": self.grid.max_pixels},
            "min_pixels": self.grid.min_pixels,
            "max_pixels": self.grid.max_pixels,
            "patch_size": self.grid.patch_size,
            "merge_size": self.grid.merge_size,
            "temporal_patch_size": self.grid.temporal_patch_size,
            "image_mean": list(self.grid.mean),
            "image_std": list(self.grid.std),
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")

    def _control(self, token: int) -> Encoded:
        return Encoded(np.array([token], np.int64), np.array([Kind.CONTROL], np.uint8))


def load_backbone(name_or_path: str, *, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Backbone:
    """Returns the backbone of a model folder or hub id, in evaluation mode.

    Raises `ModelError`: `E_MODEL_MISSING` (nothing there), `E_MODEL_FAMILY` (not a family of this package),
    `E_MODEL_WEIGHTS` (a weight is missing, unexpected or of another shape; the message names it), `E_MODEL_TOKENIZER`.
    """
    try:
        config = AutoConfig.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise ModelError(
            "E_MODEL_MISSING", f"no model configuration at {name_or_path!r} (folder or hub id): {_first_line(error)}"
        ) from error
    if config.model_type not in FAMILIES:
        raise ModelError(
            "E_MODEL_FAMILY",
            f"{name_or_path!r} is a {config.model_type!r} model; supported: "
            + ", ".join(f"{family.model_type} (as {family.example})" for family in FAMILIES.values()),
        )
    try:
        with _without_bars():
            stock, report = AutoModelForImageTextToText.from_pretrained(
                name_or_path,
                dtype=dtype,
                attn_implementation=attention,
                output_loading_info=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # They are refused below, by name.
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            "E_MODEL_WEIGHTS", f"weights of {name_or_path!r} cannot be read: {_first_line(error)}"
        ) from error
    # A silent random weight is the worst failure there is, so anything that does not match refuses.
    for trouble in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(str(name) for name in report.get(trouble, ())):
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise ModelError("E_MODEL_WEIGHTS", f"{name_or_path!r} has {trouble.replace('_', ' ')}: {shown}")
    return Backbone(stock, TextTokens.load(name_or_path), _patch_grid(name_or_path)).eval()


def _patch_grid(name_or_path: str) -> PatchGrid:
    try:
        stock = AutoImageProcessor.from_pretrained(name_or_path, backend="pil")
    except (OSError, ValueError) as error:
        raise ModelError(
            "E_MODEL_MISSING", f"no preprocessor_config.json at {name_or_path!r}: {_first_line(error)}"
        ) from error
    return PatchGrid(
        min_pixels=int(stock.size["shortest_edge"]),
        max_pixels=int(stock.size["longest_edge"]),
        patch_size=int(stock.patch_size),
        merge_size=int(stock.merge_size),
        temporal_patch_size=int(stock.temporal_patch_size),
        mean=tuple(stock.image_mean),
        std=tuple(stock.image_std),
    )


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keeps the stock library's own bars out of ours."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
