"""A small index to look through: generated scenes with columns, some texts, and ids that nobody should choose."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cocoa import Embedder
from cocoa.data.emoji_sheet import things
from cocoa.data.scenes import sample_scene
from cocoa.errors import DataError
from cocoa.sample import Sample

COLUMNS = {"ground": "string", "things": "int", "has_middle": "bool"}
ODD_IDS = ("../up.png", "a/b/image", "ä & b?.png#1", ".")
MARKUP = "<img src=x onerror=\"document.title='broken'\"> & <b>bold</b>"


@dataclass(frozen=True)
class Row:
    """A document, and as a hit its score."""

    id: str
    text: str
    image: str
    columns: dict[str, Any] = field(default_factory=dict)
    vector: Any = None
    score: float = 0.0


class Gallery:
    """Exact search over a handful of documents, with the index's own interface."""

    def __init__(self, rows: Sequence[Row], columns: dict[str, str] = COLUMNS) -> None:
        self.rows = list(rows)
        self.columns = columns
        self._by_id = {row.id: row for row in rows}

    def count(self) -> int:
        return len(self.rows)

    def facets(self, column: str, limit: int) -> dict[Any, int]:
        return dict(Counter(row.columns[column] for row in self.rows).most_common(limit))

    def get(self, ids: Sequence[str]) -> list[Row]:
        if unknown := [name for name in ids if name not in self._by_id]:
            raise DataError("E_INDEX_ID", f"there is no document {unknown[0]!r}")
        return [self._by_id[name] for name in ids]

    def search_vectors(self, vectors: np.ndarray, k: int, *, filter: Any = None) -> list[list[Row]]:  # noqa: A002
        kept = [row for row in self.rows if _passes(row.columns, filter)]
        found = []
        for vector in vectors:
            scored = [Row(row.id, row.text, row.image, row.columns, None, float(row.vector @ vector)) for row in kept]
            found.append(sorted(scored, key=lambda row: -row.score)[:k])
        return found


def _passes(columns: dict[str, Any], wanted: Any) -> bool:
    if wanted is None:
        return True
    if "and" in wanted:
        return all(_passes(columns, part) for part in wanted["and"])
    value, given = columns[wanted["column"]], wanted["value"]
    return {"in": lambda: value in given, ">=": lambda: value >= given, "<=": lambda: value <= given}[wanted["op"]]()


def make_gallery(embedder: Embedder, folder: Path, num_scenes: int = 26) -> Gallery:
    """Returns an index of scenes whose pictures lie in `folder`, of three texts, and of a picture outside."""
    rng = random.Random(3)
    rows, samples = [], []
    for number in range(num_scenes):
        scene = sample_scene(rng, things(), pixels=84)
        picture = scene.render().crop((0, 0, 84, 84 if number % 4 else 56))
        name = ODD_IDS[number] if number < len(ODD_IDS) else f"scene-{number}"
        path = folder / f"{number}.png"
        picture.save(path)
        columns = {
            "ground": scene.ground,
            "things": len(scene.items),
            "has_middle": any(item.place == "middle" for item in scene.items),
        }
        # Every fifth has no words of its own.
        rows.append(Row(name, scene.caption(rng) if number % 5 else "", str(path), columns))
        samples.append(Sample("", (picture,)))
    blank = {"ground": "none", "things": 0, "has_middle": False}
    for name, text in (("note", "a short note"), ("long", "a long note " * 40), ("markup", MARKUP)):
        rows.append(Row(name, text, "", blank))
        samples.append(Sample(text))
    vectors = embedder.encode_document(samples)
    return Gallery(
        [Row(row.id, row.text, row.image, row.columns, vector) for row, vector in zip(rows, vectors, strict=True)]
    )
