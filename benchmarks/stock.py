"""The peer of the benchmarks: sentence-transformers opening a model folder of this package, with its stock modules."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

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


def open_stock(folder: Path) -> Any:
    """Returns the folder as a `SentenceTransformer` on the CPU."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path.insert(0, str(ROOT / "tests" / "verification"))
    from stock_runner import add_torchvision

    # Kept with the model: the operators that it declares are gone with it.
    kept = add_torchvision(str(TORCHVISION))
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    model.declared_operators = kept
    return model
