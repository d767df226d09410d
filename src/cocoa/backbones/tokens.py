"""Text to token ids, by one path for training, evaluation and use; user text can never become a control token."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from cocoa.errors import DataError, ModelError

PLACEHOLDER = re.compile(r"<\|image_(\d+)\|>")
"""MMEB's spelling of "picture number N stands here"."""
_LARGEST_ID = 10_000_000
"""A copy of a tokenizer is counted up to its largest id, in memory; real vocabularies end below 300,000."""


@dataclass(frozen=True)
class ControlTokens:
    """Ids of the tokens that are not text."""

    pad: int
    bridge: int
    mask: int
    vision_start: int
    vision_end: int
    image: int


class TextTokens:
    """The backbone's tokenizer with a mask token, and the ids that stand for control.

    `<|im_end|>` is the bridge token: its id never occurs in plain text, unlike the padding id (method O4). A tokenizer
    without `<|mask|>` gets one (method O5).
    """

    def __init__(self, stock: Any) -> None:
        if (largest := max(stock.get_vocab().values(), default=0)) > _LARGEST_ID:
            raise ModelError("E_MODEL_TOKENIZER", f"tokenizer has a token numbered {largest}, beyond {_LARGEST_ID}")
        if "<|mask|>" not in stock.get_vocab():
            stock.add_special_tokens({"additional_special_tokens": ["<|mask|>"]}, replace_extra_special_tokens=False)
        self.stock = stock
        names = {
            "pad": "<|endoftext|>",
            "bridge": "<|im_end|>",
            "mask": "<|mask|>",
            "vision_start": "<|vision_start|>",
            "vision_end": "<|vision_end|>",
            "image": "<|image_pad|>",
        }
        vocabulary = stock.get_vocab()
        if missing := sorted(set(names.values()) - set(vocabulary)):
            raise ModelError("E_MODEL_TOKENIZER", f"tokenizer has no {', '.join(missing)}")
        self.control = ControlTokens(**{role: vocabulary[name] for role, name in names.items()})
        # A copy, so that reading special tokens as plain text does not change what is saved.
        self._plain = Tokenizer.from_str(stock.backend_tokenizer.to_str())
        self._plain.encode_special_tokens = True
        self._plain.no_truncation()
        self._plain.no_padding()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A `Tokenizer` that was copied or pickled has forgotten that special tokens are plain text to it.
        self.__dict__.update(state)
        self._plain.encode_special_tokens = True

    @classmethod
    def load(cls, name_or_path: str, *, revision: str | None = None) -> TextTokens:
        """Returns the tokenizer of a model folder or hub id (`revision`: its commit, tag or branch).

        Raises `E_MODEL_TOKENIZER` where there is none, or none with Qwen-VL's control tokens.
        """
        try:
            return cls(AutoTokenizer.from_pretrained(name_or_path, revision=revision, trust_remote_code=False))
        except ModelError as error:
            raise error.at(name_or_path) from error
        except Exception as error:  # The tokenizer libraries raise nearly anything on missing or damaged files.
            raise ModelError(
                "E_MODEL_TOKENIZER", f"tokenizer of {name_or_path!r} cannot be read (tokenizer.json)"
            ) from error

    def save(self, folder: Path) -> None:
        """Writes the tokenizer files into `folder`."""
        self.stock.save_pretrained(folder)

    def ids(self, text: str) -> list[int]:
        """Returns the ids of a plain text; spelled-out special tokens are read as ordinary characters."""
        return list(self._plain.encode(text, add_special_tokens=False).ids) if text else []

    def words(self, ids: list[int]) -> str:
        """Returns the text of token ids, control tokens spelled out."""
        return str(self.stock.decode(ids, skip_special_tokens=False))

    def split(self, text: str, num_images: int, where: str = "") -> list[str | int]:
        """Returns text pieces and image numbers (from 0) in reading order.

        Pictures that no placeholder names stand in front. A placeholder for a picture that is not there is an error
        (`E_DATA_PLACEHOLDER`); in a sample with no picture at all, its spelling is ordinary text. Half a character
        (a lone surrogate) is `E_DATA_TEXT`.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError("E_DATA_TEXT", "text holds half a character (a lone surrogate)", where=where) from error
        if num_images == 0:
            return [text]
        pieces: list[str | int] = []
        for position, piece in enumerate(PLACEHOLDER.split(text)):
            if position % 2 == 0:
                pieces.append(piece)
            # Python refuses to make a number of thousands of digits.
            elif len(piece) < 10 and (number := int(piece) - 1) in range(num_images) and number not in pieces:
                pieces.append(number)
            else:
                raise DataError(
                    "E_DATA_PLACEHOLDER",
                    f"text names picture <|image_{piece[:20]}|> once too often or without one ({num_images} given)",
                    where=where,
                )
        unnamed = [number for number in range(num_images) if number not in pieces]
        return [*unnamed, *pieces]
