"""A backbone in this process as an engine, for small use: one question at a time, no server."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch

from cocoa.backbones import Backbone, Encoded, Kind, open_backbone
from cocoa.errors import UsageError
from cocoa.model import best_device
from cocoa.sample import IMAGE_PLACEHOLDER, Sample
from cocoa.synthesis.chats import Chat, Reply, Sampling, StoppedError

_OPTIONS = frozenset({
    "do_sample", "length_penalty", "max_new_tokens", "min_new_tokens", "min_p", "no_repeat_ngram_size", "num_beams",
    "repetition_penalty", "temperature", "top_k", "top_p", "typical_p",
})  # fmt: skip
"""Of what `generate` takes, that which says how one reply is drawn; the rest is ours to say."""


class LocalEngine:
    """Asks a backbone. One whose tokenizer has a chat template is spoken to in ChatML, as all Qwen-VL models are.

    Any other (nano) gets the picture and the last turn, as it was trained: it knows no instructions and no history.
    """

    concurrency = 1

    def __init__(self, backbone: Backbone, name: str) -> None:
        self.model = name
        self._backbone = backbone.eval()
        self.follows_instructions = bool(getattr(backbone.text.stock, "chat_template", None))

    @classmethod
    def open(cls, name: str, *, device: str | None = None) -> LocalEngine:
        """Returns the engine of `nano`, a model folder or a hub id, on a GPU where there is one.

        Off the CPU its weights are in bfloat16.
        """
        device = device or best_device().type
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        return cls(open_backbone(name, dtype=dtype).to(device), name)

    def check(self, sampling: Sampling) -> None:
        """Raises `UsageError` E_USAGE_SYNTHESIS for extra fields that are no options of generation here."""
        if unknown := sorted(sampling.extra.keys() - _OPTIONS):
            what = f"extra fields that a local model does not know: {', '.join(unknown)}; it knows "
            raise UsageError("E_USAGE_SYNTHESIS", what + ", ".join(sorted(_OPTIONS)))

    def ask(self, chat: Chat, sampling: Sampling, stop: threading.Event) -> Reply:
        """Returns the reply, the same whenever and in whatever order it is asked for."""
        if stop.is_set():
            raise StoppedError
        query = self.encode(chat)
        text, device = self._backbone.text, self._backbone.device
        patches = torch.from_numpy(np.concatenate(query.patches)).to(device)
        ids = torch.from_numpy(query.ids)[None].to(device)
        options: dict[str, Any] = {
            "max_new_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            **sampling.extra,
        }
        options["temperature"] = options["temperature"] or None
        options.setdefault("do_sample", options["temperature"] is not None)
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(sampling.seed + int(chat.key[:12], 16))
            output = self._backbone.stock.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=torch.from_numpy((query.kinds == Kind.IMAGE).astype(np.int64))[None].to(device),
                pixel_values=self._backbone.grid.normalised(patches).to(self._backbone.stock.dtype),
                image_grid_thw=torch.tensor(query.grids, device=device),
                eos_token_id=[text.control.bridge, text.control.pad],
                pad_token_id=text.control.pad,
                **options,
            )
        said = output[0, ids.shape[1] :].tolist()
        ends = said and said[-1] in (text.control.bridge, text.control.pad)
        words = text.words(said[:-1] if ends else said).strip()
        return Reply(words, "stop" if ends else "length", ids.shape[1], len(said), "local")

    def encode(self, chat: Chat) -> Encoded:
        """Returns the tokens and patches of a conversation, up to where the model is to speak."""
        backbone, text = self._backbone, self._backbone.text

        def spoken(words: str) -> Encoded:
            ids = np.array(text.ids(words), np.int64)
            return Encoded(ids, np.full(len(ids), Kind.TEXT, np.uint8))

        def shown(words: str) -> Encoded:
            return backbone.encode(Sample(IMAGE_PLACEHOLDER + words, (chat.picture.rgb,), chat.picture.name))

        if not self.follows_instructions:
            return shown(f"\n{chat.turns[-1]}\n" if chat.turns[-1] else "\n")
        start, end = (_control(text.stock.convert_tokens_to_ids(name)) for name in ("<|im_start|>", "<|im_end|>"))
        parts = [start, spoken(f"system\n{chat.system}"), end, spoken("\n")] if chat.system else []
        for number, turn in enumerate(chat.turns):
            who, said = ("assistant", spoken(turn)) if number % 2 else ("user", spoken(turn) if number else shown(turn))
            parts += [start, spoken(f"{who}\n"), said, end, spoken("\n")]
        parts += [start, spoken("assistant\n")]
        return Encoded(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.kinds for part in parts]),
            tuple(patch for part in parts for patch in part.patches),
            tuple(grid for part in parts for grid in part.grids),
            chat.picture.name,
        )


def _control(token: int) -> Encoded:
    return Encoded(np.array([token], np.int64), np.array([Kind.CONTROL], np.uint8))
