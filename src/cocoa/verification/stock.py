"""Vectors by sentence-transformers, from the same folder and by its stock modules."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cocoa.errors import ModelError, UsageError
from cocoa.model.golden import GoldenInput
from cocoa.model.stock_files import MODULES


def ask_stock(folder: Path) -> Callable[[Sequence[GoldenInput]], NDArray[np.float32]]:
    """Returns what embeds inputs with `SentenceTransformer(folder)`, in float32.

    Raises `E_USAGE_EXTRA` where it, or the torchvision that it needs, is not installed; `E_MODEL_STOCK` if it cannot
    open the folder, or would pool otherwise than the model does.
    """
    if not (folder / MODULES).is_file():
        # Without its list sentence-transformers would pool by the mean of all tokens, and say so only in a log.
        message = f"no {MODULES}: the model pools in a way that sentence-transformers has no stock module for"
        raise ModelError("E_MODEL_STOCK", message, where=str(folder))
    try:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(folder), model_kwargs={"dtype": "float32"}, local_files_only=True)
    except ImportError as error:
        # The extra alone would bring a torchvision that a CPU build of torch cannot import, and transformers with it.
        hint = "it needs the extra sentence-transformers, with a torchvision of the same build as torch (docs/use.md)"
        reason = str(error).strip().splitlines()[0]
        raise UsageError("E_USAGE_EXTRA", f"sentence-transformers lacks a part: {hint}: {reason}") from error
    except Exception as error:  # It raises nearly anything on a folder that it cannot open.
        raise ModelError("E_MODEL_STOCK", f"sentence-transformers: {error}", where=str(folder)) from error
    return lambda inputs: np.asarray(
        model.encode([_stock_input(one) for one in inputs], show_progress_bar=False, convert_to_numpy=True), np.float32
    )


def _stock_input(one: GoldenInput) -> Any:
    pictures = [Image.open(io.BytesIO(picture)) for picture in one.pictures]
    if not pictures:
        return one.text
    image = {"image": pictures if len(pictures) > 1 else pictures[0]}
    return {**image, "text": one.text} if one.text else image
