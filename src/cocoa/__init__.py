"""CoCoA: multimodal embedding models by reconstruction through one token (arXiv 2603.01471)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cocoa.corpus.index import Hit, Index
    from cocoa.embedder import Embedder
    from cocoa.errors import CocoaError
    from cocoa.recipe import Recipe, load_recipe
    from cocoa.sample import Pair, Sample
    from cocoa.training.loop import train

__version__ = "0.1.0"

_HOMES = {
    "CocoaError": "cocoa.errors",
    "Embedder": "cocoa.embedder",
    "Hit": "cocoa.corpus.index",
    "Index": "cocoa.corpus.index",
    "Pair": "cocoa.sample",
    "Recipe": "cocoa.recipe",
    "Sample": "cocoa.sample",
    "load_recipe": "cocoa.recipe",
    "train": "cocoa.training.loop",
}

__all__ = [
    "CocoaError",
    "Embedder",
    "Hit",
    "Index",
    "Pair",
    "Recipe",
    "Sample",
    "load_recipe",
    "train",
]


def __getattr__(name: str) -> Any:
    # Loaded when asked for, so that `cocoa --help` does not wait for torch.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'cocoa' has no attribute {name!r}")
