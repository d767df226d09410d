"""What a vector depends on besides the input: an index is bound to it and refuses vectors of another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cocoa
from cocoa.files import read_manifest
from cocoa.model.card import LIBRARIES, Card
from cocoa.model.embedding_model import EmbeddingModel

_WORDS = {
    "backbone": "backbone family",
    "layout": "attention layout",
    "pooling": "pooling",
    "bridge_token": "bridge token",
    "dimensions": "number of dimensions",
    "dtype": "type of the weights",
    "normalized": "normalisation",
    "prompts": "prompts",
    "min_pixels": "smallest picture in pixels",
    "max_pixels": "largest picture in pixels",
    "max_tokens": "longest row in tokens",
    # Last: it differs with most of the others, which say more.
    "fingerprint": "fingerprint of weights, tokenizer and settings",
}
_DECIDING_FILES = ("config.json", "model", "preprocessor_config.json", "tokenizer", "vocab", "merges", "special_tokens")


def fingerprint(folder: Path) -> str:
    """Returns a digest of all in a model folder that decides a vector: equal for equal models, whatever their place.

    It is taken from the manifest. The receipt, the README and the prompts have no part in it.
    """
    files = read_manifest(folder)
    card = Card.read(folder, older=True)
    deciding = {
        "files": {name: entry["sha256"] for name, entry in files.items() if _decides(name)},
        "card": [card.layout, card.pooling.name, card.bridge_token, card.max_tokens, card.min_pixels, card.max_pixels],
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def _decides(name: str) -> bool:
    # `modules.json` is for sentence-transformers.
    return name.startswith(_DECIDING_FILES)


def identity_of(model: EmbeddingModel, fingerprint: str) -> dict[str, Any]:
    """Returns what vectors of a model depend on, as JSON can hold it; versions of libraries are told beside it."""
    grid = model.backbone.grid
    return {
        "fingerprint": fingerprint,
        "backbone": model.backbone.stock.config.model_type,
        "layout": model.layout,
        "pooling": model.pooling.name,
        "bridge_token": model.backbone.text.control.bridge,
        "dimensions": model.backbone.hidden_size,
        "dtype": str(model.dtype).removeprefix("torch."),
        "normalized": True,
        "prompts": _digest(model.prompts),
        "min_pixels": grid.min_pixels,
        "max_pixels": grid.max_pixels,
        "max_tokens": model.max_tokens,
        "cocoa": cocoa.__version__,
        **{library: version(library) for library in LIBRARIES},
    }


def identity_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Returns in words all that makes vectors of two identities incomparable; None if nothing does.

    Versions alone do not: the same model under another version is told by its golden vectors, not by a number.
    """
    found = [
        f"{words} {_shown(one.get(field))} and {_shown(other.get(field))}"
        for field, words in _WORDS.items()
        if one.get(field) != other.get(field)
    ]
    return f"they differ in {'; '.join(found)}" if found else None


def _digest(prompts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(prompts), sort_keys=True).encode()).hexdigest()[:16]


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)[:16]
