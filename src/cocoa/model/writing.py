"""From a model to the folder that it is kept in: whatever opens it must get the same vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cocoa.files import write_folder
from cocoa.layouts import LAYOUTS
from cocoa.model.card import CARD, Card, library_versions
from cocoa.model.embedding_model import EmbeddingModel
from cocoa.model.golden import GOLDEN, Golden
from cocoa.model.readme import README, readme
from cocoa.model.stock_files import write_stock_files
from cocoa.pooling import BRIDGE


def write_model(model: EmbeddingModel, folder: Path, *, receipt: dict[str, Any] | None = None) -> None:
    """Writes the model folder; all of it or nothing. `receipt` says how the model was made."""
    backbone = model.backbone
    # Stock code then reads the folder with the attention that the model was trained with.
    backbone.stock.config.text_config.is_causal = LAYOUTS[model.layout].causal
    card = Card(
        backbone=backbone.stock.config.model_type,
        layout=model.layout,
        bridge_token=backbone.text.control.bridge,
        dimensions=backbone.hidden_size,
        min_pixels=backbone.grid.min_pixels,
        max_pixels=backbone.grid.max_pixels,
        max_tokens=model.max_tokens,
        prompts=model.prompts,
        matryoshka=model.matryoshka,
        pooling=model.pooling,
        receipt=receipt or {},
        versions=library_versions(),
    )
    golden = Golden.of(model)
    with write_folder(folder) as draft:
        backbone.save(draft)
        # Stock code can pool the last token; what is pooled otherwise it must not open as if it were.
        if model.pooling == BRIDGE:
            write_stock_files(draft, dimensions=card.dimensions, prompts=card.prompts)
        (draft / CARD).write_text(card.to_json())
        (draft / GOLDEN).write_text(golden.to_json())
        (draft / README).write_text(readme(card, folder.name))
