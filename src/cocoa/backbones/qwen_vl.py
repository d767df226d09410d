"""A Qwen-VL backbone: everything that the rest may ask of it, in one place, over stock `transformers` classes.

What differs between families stands as data in a file each, listed in `families.py`. Shapes: N rows, S sequence, D
hidden, V vocabulary, I pictures, P patches of B bytes or F values, T visual tokens.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.utils import logging

from cocoa.backbones.attention import attention_name
from cocoa.backbones.encoded import Encoded, Kind
from cocoa.backbones.families import FAMILIES
from cocoa.backbones.grid_facts import ENDS
from cocoa.backbones.patch_embedding import PatchEmbedding
from cocoa.backbones.patches import PatchGrid
from cocoa.backbones.reading import READ_AT, compute_where_read, only
from cocoa.backbones.rope import mrope_positions
from cocoa.backbones.seen import Seen
from cocoa.backbones.stand_ins import put_stand_ins
from cocoa.backbones.tokens import TextTokens
from cocoa.errors import CocoaError, DataError, ModelError
from cocoa.images import limits_of, open_rgb, picture_size
from cocoa.looks import Looks
from cocoa.sample import Sample
from cocoa.transfer import sent


class Backbone(nn.Module):
    """A stock Qwen-VL model with its tokenizer and patch grid, and the hub's `commit` that it was read from, if any."""

    def __init__(self, stock: Any, text: TextTokens, grid: PatchGrid, commit: str | None = None) -> None:
        super().__init__()
        self.stock = stock
        self.commit = commit
        self.text = text
        self.grid = grid
        self.family = FAMILIES[stock.config.model_type]
        rows = stock.get_input_embeddings().weight.shape[0]
        if text.control.mask >= rows:
            # New rows are drawn from the old ones' spread, where there are values at all.
            stock.resize_token_embeddings(text.control.mask + 1, mean_resizing=stock.device.type != "meta")
        self.bridge = self._control(text.control.bridge)
        if not isinstance(stock.model.visual.patch_embed, PatchEmbedding):  # else it has been a backbone's before
            put_stand_ins(stock)
            compute_where_read(self.layers)

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
    def attention(self) -> str:
        """How the language model attends: `split`, `sdpa` or `eager`; see `backbones.attention`."""
        return attention_name(self.stock)

    @property
    def layers(self) -> nn.ModuleList:
        """The language model's decoder layers."""
        layers: nn.ModuleList = self.stock.model.language_model.layers
        return layers

    @property
    def final_norm(self) -> nn.Module:
        """What the last layer's states go through before the head reads them."""
        norm: nn.Module = self.stock.model.language_model.norm
        return norm

    @property
    def vision(self) -> nn.Module:
        """The vision tower, with the map to the language model's width."""
        tower: nn.Module = self.stock.model.visual
        return tower

    def linear_targets(self, *, vision: bool) -> list[str]:
        """Returns the names, below `stock`, of the linear maps that adapters are put on; `vision` adds the tower's."""
        wanted = {"model.language_model.layers": self.family.language_linears}
        if vision:
            wanted["model.visual.blocks"] = self.family.vision_linears
        return [
            name
            for name, module in self.stock.named_modules()
            for prefix, linears in wanted.items()
            if isinstance(module, nn.Linear) and name.startswith(prefix + ".") and name.rpartition(".")[2] in linears
        ]

    def encode(self, sample: Sample, *, pixels: bool = True) -> Encoded:
        """Returns tokens and patches of a sample, without a bridge token.

        Without `pixels` only the headers of pictures are read, and the patches have their shape but no content.

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
                image = sample.images[piece]
                limits = limits_of(image)
                cut, grid = (
                    self.grid.cut(open_rgb(image, limits)) if pixels else self.grid.blank(*picture_size(image, limits))
                )
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

    def see(self, pixel_values: Tensor, image_grid_thw: Tensor) -> Seen:
        """Returns what the vision tower makes of patches of pictures with grids [I, 3].

        Patches are bytes [P, B], which are normalised where they are, or normalised already, [P, F].
        The grids are best on the CPU: what is worked out from them is then known before a GPU has done its work.
        """
        device, grids = pixel_values.device, image_grid_thw.cpu()
        facts = {
            name: fact for work_out in self.family.grid_facts for name, fact in work_out(self.vision, grids).items()
        }
        # Called below `get_image_features`, which splits by picture, and differently so in each version.
        output = self.vision(
            self.grid.normalised(pixel_values).to(self.stock.dtype),
            grid_thw=grids,
            return_dict=True,
            **{name: fact if name in ENDS else sent(fact, device) for name, fact in facts.items()},
        )
        return Seen(output.pooler_output, tuple(getattr(output, "deepstack_features", None) or ()))

    def hidden_states(
        self,
        input_ids: Tensor,
        kinds: Tensor,
        allowed: Tensor | Looks,
        position_ids: Tensor,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        *,
        seen: Seen | None = None,
        read_at: Tensor | None = None,
    ) -> Tensor:
        """Returns the last layer's states after the final norm, [N, S, D].

        `input_ids` and `kinds` [N, S]; `allowed` bool [N, 1, S, S], may query look at key, or the `Looks` that
        say the same to the attention `split`; `position_ids` [3, N, S];
        patches and grids [I, 3] of all pictures in reading order, as `see` takes them, or what was `seen` of them
        already: then the vision tower is not run. With `read_at`, int64 [R] places of the flattened rows, the last
        layer is computed for them only, and all other states are 0.
        """
        if seen is None and pixel_values is not None:
            assert image_grid_thw is not None, "patches come with their grids"
            seen = self.see(pixel_values, image_grid_thw)
        embedded = self.words(input_ids)
        is_image = kinds == Kind.IMAGE
        extra: dict[str, Any] = {} if read_at is None else {READ_AT: read_at}
        if seen is not None:
            # To ask a GPU would be to wait for all it was told to do; there the scattering itself refuses too few.
            if is_image.device.type == "cpu" and len(seen.features) != int(is_image.sum()):
                raise ValueError(f"{len(seen.features)} visual tokens seen, {int(is_image.sum())} in the rows")
            embedded = embedded.masked_scatter(is_image[:, :, None], seen.features.to(embedded.dtype))
            if seen.deepstack:
                extra |= {"visual_pos_masks": is_image, "deepstack_visual_embeds": list(seen.deepstack)}
        # The language model itself: the model around it can be given what was seen in newer versions only.
        output = self.stock.model.language_model(
            inputs_embeds=embedded,
            position_ids=position_ids,
            use_cache=False,
            **self._attending(allowed),
            **extra,
        )
        states: Tensor = output.last_hidden_state
        return states if read_at is None else only(states, read_at)

    def words(self, input_ids: Tensor) -> Tensor:
        """Returns [N, S, D]: the embeddings of tokens, before any layer."""
        embedded: Tensor = self.stock.get_input_embeddings()(input_ids)
        return embedded

    def _attending(self, allowed: Tensor | Looks) -> dict[str, Any]:
        """What decoder layers are told of who looks at whom."""
        if not isinstance(allowed, Looks):
            return {"attention_mask": self.attention_mask(allowed)}
        if self.attention != "split":
            raise ValueError(f"attention {self.attention!r} needs a square mask, not looks")
        return {"attention_mask": None, "looks": allowed}

    def attention_mask(self, allowed: Tensor) -> Tensor:
        """Returns `allowed` as the attention backend must be given it.

        `split` and `sdpa` take booleans; `eager` adds what it is given, so there a forbidden look is the lowest float.
        """
        if self.attention != "eager":
            return allowed
        lowest = torch.finfo(self.stock.dtype).min
        return torch.zeros_like(allowed, dtype=self.stock.dtype).masked_fill(~allowed, lowest)

    def decode_once(
        self,
        layer: nn.Module,
        states: Tensor,
        allowed: Tensor | Looks,
        position_ids: Tensor,
        *,
        read_at: Tensor | None = None,
    ) -> Tensor:
        """Returns [N, S, D]: one decoder layer (a copy of `layers[i]`) run over states.

        With `read_at`, int64 [R] places of the flattened rows, a layer that obeys it (`reading.obey`) is computed for
        them only; what stands in other places is not to be read.
        """
        rotary = self.stock.model.language_model.rotary_emb(states, position_ids)
        extra = {} if read_at is None else {READ_AT: read_at}
        output = layer(states, position_embeddings=rotary, **self._attending(allowed), **extra)
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result

    def logits(self, states: Tensor) -> Tensor:
        """Returns float32 scores over the vocabulary, [..., V], of hidden states [..., D]."""
        scores: Tensor = self.stock.lm_head(states)
        return scores.float()

    def checkpoint_activations(self) -> None:
        """Makes training keep only what goes into each layer and vision block, and compute its inside again.

        Less memory, a third more work, the same gradients. Layers copied afterwards do so too.
        """
        with warnings.catch_warnings():
            # The one name that all supported versions have; newer ones warn of it.
            warnings.simplefilter("ignore", FutureWarning)
            self.stock.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

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
        with without_bars():
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


@contextmanager
def without_bars() -> Iterator[None]:
    """Keeps the stock library's own bars out of ours."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
