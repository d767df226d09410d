"""A small folder of training data without a fault, and the tasks that go with it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cocoa.recipe import Recipe, parse_recipe

Row = dict[str, Any]

_VOCABULARY = (
    "amber birch cedar delta ember fjord grove heron island juniper kestrel lagoon meadow nectar orchid pebble quartz "
    "raven saffron thistle umber violet willow yarrow zephyr anchor beacon canyon dagger engine falcon garnet harbor "
    "ivory jasper kernel lantern marble needle onyx pepper quiver ribbon saddle timber urchin velvet walnut"
)
WORDS = _VOCABULARY.split()


def photo(seed: int, size: tuple[int, int] = (84, 84)) -> Image.Image:
    """Returns a picture with soft shapes, as photographs have, other for each seed."""
    coarse = np.random.default_rng([7, seed]).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def sentence(seed: int, length: int = 14) -> str:
    """Returns a text of drawn words, other for each seed."""
    return " ".join(np.random.default_rng([3, seed]).choice(WORDS, length).tolist())


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


class Folder:
    """Training tables, pictures and one task, written when asked for; a test changes the rows before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images: dict[str, bytes] = {}
        self.rows: list[Row] = []
        self.test_rows: list[Row] = []
        for number in range(12):
            self.images[f"train_{number}.png"] = encoded(photo(number))
            self.rows.append(
                {
                    "qry": f"<|image_1|>\nWhat is at place {number}?",
                    "qry_image_path": f"train_{number}.png",
                    "pos_text": f"the {WORDS[number]}",
                    "pos_image_path": "",
                    "neg_text": [f"the {WORDS[number + 20]}"],
                    "neg_image_path": [""],
                }
            )
        for number in range(10):
            self.images[f"test_{number}.png"] = encoded(photo(100 + number))
            self.test_rows.append(
                {
                    "qry_text": f"<|image_1|>\nWhat is at spot {number}?",
                    "qry_img_path": f"test_{number}.png",
                    "tgt_text": [f"a {word}" for word in WORDS[number : number + 4]],
                    "tgt_img_path": ["", "", "", ""],
                }
            )

    def add(self, query: str, target: str, *, image: str = "", negatives: list[str] | None = None, **other: Any) -> str:
        """Adds a training row and returns its place."""
        negatives = negatives or ["something else altogether"]
        row = {"qry": query, "qry_image_path": image, "pos_text": target, "pos_image_path": "", "neg_text": negatives}
        self.rows.append({**row, "neg_image_path": [""] * len(negatives), **other})
        return f"{self.table}:{len(self.rows)}"

    def ask(self, query: str, *candidates: str, image: str = "", pictures: tuple[str, ...] = ()) -> None:
        """Adds a row to the task."""
        texts, paths = list(candidates) or ["<|image_1|>\n"] * len(pictures), list(pictures) or [""] * len(candidates)
        self.test_rows.append({"qry_text": query, "qry_img_path": image, "tgt_text": texts, "tgt_img_path": paths})

    @property
    def table(self) -> Path:
        return self.path / "set" / "train" / "shapes.jsonl"

    @property
    def tasks(self) -> Path:
        return self.path / "tasks"

    def write(self) -> Recipe:
        """Writes it all and returns the recipe of one contrastive stage."""
        self._write(self.table, self.rows)
        self._write(self.tasks / "test" / "puzzle.jsonl", self.test_rows)
        manifest = {"tasks": {"puzzle": {"meta_task": "vqa"}}}
        (self.tasks / "manifest.json").write_text(json.dumps(manifest))
        for name, content in self.images.items():
            for home in (self.path / "set" / "images", self.tasks / "images"):
                home.mkdir(parents=True, exist_ok=True)
                (home / name).write_bytes(content)
        return recipe_of(f"[{{kind: mmeb_train, path: {self.path / 'set'}}}]")

    @staticmethod
    def _write(path: Path, rows: list[Row]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def recipe_of(
    data: str, *, objective: str = "{kind: contrastive}", layout: str = "bidirectional", **top: Any
) -> Recipe:
    """Returns a recipe of one stage on the nano backbone's shape."""
    options = "".join(f"{key}: {value}\n" for key, value in top.items())
    return parse_recipe(
        f"""
name: checked
backbone: {{name: nano}}
{options}
stages:
  - name: only
    layout: {layout}
    objectives: [{objective}]
    data: {data}
    steps: 4
    batch_size: 5
    learning_rate: 1.0e-3
"""
    )
