"""From a model folder to the model, or a refusal that says why: nothing in the folder is ever run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cocoa.backbones import load_backbone
from cocoa.errors import DataError, ModelError
from cocoa.files import MANIFEST, check_folder
from cocoa.model.card import CARD, Card
from cocoa.model.embedding_model import EmbeddingModel, best_device
from cocoa.model.golden import GOLDEN, Golden
from cocoa.model.readme import README
from cocoa.model.self_test import self_test as run_self_test

_CODE = frozenset({".py", ".pyc", ".so", ".dll", ".pyd", ".dylib", ".sh", ".bat", ".ps1", ".exe"})
_PICKLES = frozenset(
    {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".h5", ".joblib", ".msgpack", ".distcp"}
)
_PICKLED_NAMES = frozenset({".metadata"})
"""What torch calls the pickle beside a sharded checkpoint."""
_KEYS = frozenset(
    {
        "auto_map",  # a class of the folder's own code
        "trust_remote_code",
        "_attn_implementation",  # may name a kernel that is fetched and run
        "_attn_implementation_internal",
        "attn_implementation",
        "_experts_implementation",
        "_experts_implementation_internal",
        "quantization_config",  # other weights than those in the file
        "custom_generate",
    }
)
_DATA = frozenset({MANIFEST, GOLDEN, "tokenizer.json", "vocab.json"})
"""JSON whose keys are words and names, not settings."""
_LARGEST_HASHED = 32 * 2**20
"""Files of up to so many bytes are hashed on loading; what is larger are weights, which the golden vectors tell."""


def read_model(
    folder: Path,
    *,
    attention: str = "split",
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    self_test: bool = True,
    older: bool = False,
) -> EmbeddingModel:
    """Returns the model of a folder that `write_model` wrote; see `EmbeddingModel.load`.

    `older` also takes a folder of format 1; it has no golden vectors, so only without `self_test`.
    """
    card = Card.read(folder, older=older)
    refuse_what_could_run(folder)
    try:
        # People may write on in the README.
        check_folder(folder, hashes=_LARGEST_HASHED, free=(README,))
    except DataError as error:
        raise ModelError("E_MODEL_INCOMPLETE", error.message, where=str(folder)) from error
    backbone = load_backbone(str(folder), attention=attention, dtype=dtype)
    found = {
        "backbone": backbone.stock.config.model_type,
        "bridge_token": backbone.text.control.bridge,
        "dimensions": backbone.hidden_size,
        "min_pixels": backbone.grid.min_pixels,
        "max_pixels": backbone.grid.max_pixels,
    }
    for name, value in found.items():
        if value != getattr(card, name):
            message = f"{CARD} says {name} {getattr(card, name)}, the other files say {value}"
            raise ModelError("E_MODEL_FORMAT", message, where=str(folder))
    model = EmbeddingModel(
        backbone,
        layout=card.layout,
        max_tokens=card.max_tokens,
        prompts=card.prompts,
        matryoshka=card.matryoshka,
        pooling=card.pooling,
    )
    model.to(best_device() if device is None else torch.device(device))
    if self_test:
        run_self_test(model, Golden.read(folder), str(folder))
    return model


def stored_dtype(folder: Path) -> torch.dtype:
    """Returns the type that a model folder's weights have on disk; raises `E_MODEL_FORMAT` for an unknown one."""
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    try:
        return types[json.loads((folder / "config.json").read_text())["dtype"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError("E_MODEL_FORMAT", "config.json names no known type of weights", where=str(folder)) from error


def refuse_what_could_run(folder: Path) -> None:
    """Raises `E_MODEL_UNSAFE` for code, pickles, and settings that make a library fetch or run something."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.suffix.lower() in _CODE | _PICKLES or path.name in _PICKLED_NAMES:
            what = "code" if path.suffix.lower() in _CODE else "a file that may hold code (weights are safetensors)"
            raise ModelError("E_MODEL_UNSAFE", f"{name} is {what}; a model folder has none", where=str(folder))
        if path.suffix == ".json" and path.is_file() and path.name not in _DATA:
            try:
                bad = next((key for key in _keys(json.loads(path.read_text())) if key in _KEYS), None)
            except (ValueError, RecursionError) as error:
                raise ModelError("E_MODEL_FORMAT", f"{name} is not JSON", where=str(folder)) from error
            if bad is not None:
                message = f"{name} has {bad!r}, which makes a library run or fetch what is not in this package"
                raise ModelError("E_MODEL_UNSAFE", message, where=str(folder))


def _keys(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield key
            yield from _keys(value)
    elif isinstance(content, list):
        for value in content:
            yield from _keys(value)
