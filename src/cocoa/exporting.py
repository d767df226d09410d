"""A model folder of today from whatever training left: a run, a checkpoint, or an older model folder."""

from __future__ import annotations

from pathlib import Path

from cocoa.errors import ModelError, UsageError
from cocoa.model import CARD, Card, EmbeddingModel, read_model, stored_dtype
from cocoa.model.golden import GOLDEN
from cocoa.portable import own_places, portable
from cocoa.training.restoring import restored_model


def export_model(source: Path, out: Path) -> None:
    """Writes the model folder `out` from a model folder, a run's folder (its model, else its newest checkpoint), or a
    checkpoint.

    The weights keep their type. What was written is opened again, with its self-test, before this returns. Raises
    `E_USAGE_OUT` for an `out` that is not new or empty, `E_MODEL_MISSING` for a source that is none of these.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("E_USAGE_OUT", "folder is not empty; choose another --out", where=str(out))
    folder = next((place for place in (source, source / "model") if (place / CARD).is_file()), None)
    if folder is not None:
        model = read_model(folder, dtype=stored_dtype(folder), self_test=(folder / GOLDEN).is_file(), older=True)
        receipt = Card.read(folder, older=True).receipt
    elif (source / "checkpoints").is_dir() or (source / "state.json").is_file():
        model, receipt = restored_model(source)
    else:
        message = f"neither a model folder ({CARD}) nor a run (model/, checkpoints/) nor a checkpoint (state.json)"
        raise ModelError("E_MODEL_MISSING", message, where=str(source))
    # A folder of an older version may say where its maker's home folder lies.
    model.save(out, receipt=portable(receipt, own_places()))
    EmbeddingModel.load(out)
