"""A small index to look through: generated scenes with columns, some texts, and ids that nobody should choose."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cocoa import Embedder, Index
from cocoa.corpus.embeddings import SHARDS, TABLE, ShardEntry, shard_schema, write_card, write_table
from cocoa.data.emoji_sheet import things
from cocoa.data.scenes import sample_scene
from cocoa.files import sha256, write_folder
from cocoa.sample import Sample

COLUMNS = {"ground": "string", "things": "int", "has_middle": "bool"}
ODD_IDS = ("../up.png", "a/b/image", "ä & b?.png#1", ".")
MARKUP = "<img src=x onerror=\"document.title='broken'\"> & <b>bold</b>"


@dataclass(frozen=True)
class Row:
    """A document; `picture` is embedded where there is one, and `image` names its file."""

    id: str
    text: str = ""
    image: str = ""
    columns: dict[str, Any] = field(default_factory=dict)
    picture: Image.Image | None = None


def scenes(folder: Path, number: int = 26) -> list[Row]:
    """Returns scenes, whose pictures are written to `folder`, and three texts."""
    rng = random.Random(3)
    rows = []
    for place in range(number):
        scene = sample_scene(rng, things(), pixels=84)
        picture = scene.render().crop((0, 0, 84, 84 if place % 4 else 56))
        path = folder / f"{place}.png"
        picture.save(path)
        has_middle = any(item.place == "middle" for item in scene.items)
        columns = {"ground": scene.ground, "things": len(scene.items), "has_middle": has_middle}
        name = ODD_IDS[place] if place < len(ODD_IDS) else f"scene-{place}"
        # Every fifth has no words of its own.
        rows.append(Row(name, scene.caption(rng) if place % 5 else "", str(path), columns, picture))
    blank = {"ground": "none", "things": 0, "has_middle": False}
    texts = {"note": "a short note", "long": "a long note " * 40, "markup": MARKUP}
    return rows + [Row(name, text, columns=blank) for name, text in texts.items()]


def index_of(embedder: Embedder, rows: Sequence[Row], folder: Path, columns: dict[str, str] = COLUMNS) -> Index:
    """Returns the index over the embeddings of rows, which are written to `folder`."""
    samples = [Sample(row.text, (row.picture,) if row.picture else ()) for row in rows]
    vectors = embedder.encode_document(samples) if rows else np.zeros((0, embedder.dimensions), np.float32)
    table = {name: [getattr(row, name) for row in rows] for name in ("id", "text", "image")}
    table |= {name: [row.columns[name] for row in rows] for name in columns}
    with write_folder(folder / SHARDS / "all") as draft:
        write_table(draft / TABLE, table, vectors, shard_schema(embedder.dimensions, columns))
    shard = ShardEntry("all", len(rows), 0, sha256(folder / SHARDS / "all" / TABLE))
    write_card(
        folder,
        identity=embedder.identity,
        model="tiny",
        dimensions=embedder.dimensions,
        columns=columns,
        source={},
        shards=[shard],
    )
    return Index.open(folder)
