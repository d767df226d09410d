"""The peer of the benchmarks: sentence-transformers opening a model folder of this package, with its stock modules.

Import this before anything that imports transformers, which looks for torchvision once.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import torch

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[1]
OPEN_SETS = ROOT.parent / "shared" / "data"
TORCHVISION = Path(sys.prefix) / "torchvision"


def why_not() -> str | None:
    """Returns why there is no comparison here, or None if there is one."""
    if importlib.util.find_spec("sentence_transformers") is None:
        return "sentence-transformers is not installed"
    if importlib.util.find_spec("torchvision") is None and not TORCHVISION.is_dir():
        return "torchvision is not here (`make setup` puts it into .venv/torchvision)"
    if not (OPEN_SETS / "TASKS.md").is_file():
        return f"the open sets are not here ({OPEN_SETS})"
    return None


def _declare_torchvision() -> Any:
    sys.path.insert(0, str(ROOT / "tests" / "verification"))
    from stock_runner import add_torchvision

    return add_torchvision(str(TORCHVISION))


_OPERATORS = _declare_torchvision() if why_not() is None else None
"""Kept, because what it declares goes with it."""


def open_stock(folder: Path, device: torch.device = CPU, dtype: torch.dtype | None = None) -> Any:
    """Returns the folder as a `SentenceTransformer`; without a type of weights, bfloat16 on a GPU."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from sentence_transformers import SentenceTransformer

    if dtype is None:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    options = {"dtype": dtype}
    return SentenceTransformer(str(folder), device=str(device), model_kwargs=options)
