"""Plans the recipes of real size on data of stated lengths, keeps the plans, and writes hours into the recipes' heads.

    python -m scripts.plan_real_recipes

The data that they train on cannot be had here, so what stands in has lengths like theirs (`CAPTION_WORDS` and so on)
and pictures that use all of a stage's pixels. Nothing of it is measured: the device's rate is the published one, of
which an assumed share is reached. Without --write-only it needs the published configurations, and ten minutes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import re
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.backbones import REAL_SHAPES, shape_folder
from PIL import Image

from cocoa.planning.plan import plan
from cocoa.recipe import Recipe, parse_recipe, read_yaml

ROOT = Path(__file__).parents[1]
PLANS = ROOT / "reference" / "plans.json"
RECIPES = sorted((ROOT / "recipes").glob("cocoa-*.yaml"))
DEVICE = "h100"
PICTURES = ((640, 480), (480, 640), (500, 500), (800, 600))
CAPTION_WORDS, QUESTION_WORDS, ANSWER_WORDS = (90, 90), (15, 15), (10, 30)
ROWS = 512
HEAD = re.compile(r"# Expected hours:.*\n(?:#   (?!\*|one|eight|either|score).*\n)*")


def stand_ins(folder: Path) -> dict[str, dict[str, str]]:
    """Returns sources by kind, written to a folder: pictures with captions, and with questions and answers."""
    draw = random.Random(0)
    names = []
    for width, height in PICTURES:
        names.append(f"{width}x{height}.png")
        Image.new("RGB", (width, height)).save(folder / names[-1])
    images = [names[number % len(names)] for number in range(ROWS)]

    def texts(words: tuple[int, int]) -> list[str]:
        return [" ".join(draw.choices(WORDS, k=draw.randint(*words))) for _ in range(ROWS)]

    pq.write_table(pa.table({"image_path": images, "text": texts(CAPTION_WORDS)}), folder / "captions.parquet")
    questions = [f"<|image_1|>\n{text}" for text in texts(QUESTION_WORDS)]
    columns = {"qry": questions, "qry_image_path": images, "pos_text": texts(ANSWER_WORDS)}
    empty = {name: [""] * ROWS for name in ("pos_image_path", "neg_text", "neg_image_path")}
    pq.write_table(pa.table(columns | empty), folder / "questions.parquet")
    return {
        "image_text_pairs": {"kind": "image_text_pairs", "path": str(folder / "captions.parquet")},
        "mmeb_train": {"kind": "mmeb_train", "path": str(folder / "questions.parquet")},
    }


WORDS = ["a", "red", "bicycle", "leans", "against", "the", "old", "wooden", "fence", "beside", "two", "green", "trees"]


def stood_in(path: Path, work: Path, shapes: Path) -> Recipe:
    """Returns a recipe with the published shape for its backbone and stand-ins for its data."""
    tree = read_yaml(path.read_text(), "a recipe", where=path.name)
    shape = tree["backbone"]["name"].removeprefix("Qwen/").removesuffix("-Instruct").lower()
    (work / shape).mkdir(exist_ok=True)
    tree["backbone"]["name"] = str(shape_folder(shapes, shape, work / shape))
    sources = stand_ins(work)
    for stage in tree["stages"]:
        stage["data"] = [sources[stage["data"][0]["kind"]]]
    return parse_recipe(json.dumps(tree), where=path.name)


def planned(recipes: list[Path], shapes: Path) -> dict[str, Any]:
    """Returns by recipe the hours on one device, of all stages and of each, with the operations of a step."""
    hours = {}
    for path in recipes:
        with tempfile.TemporaryDirectory() as work:
            recipe = stood_in(path, Path(work), shapes)
            made = plan(recipe, device=DEVICE, sample=256)
        hours[path.stem] = {
            "hours": round(made.hours, 2),
            "fits": made.fits,
            "largest_chunk_tokens": made.chunk_tokens,
            "stages": {
                stage.name: {"hours": round(stage.hours, 2), "tflops_a_step": round(stage.flops / 1e12, 1)}
                for stage in made.stages
            },
        }
        print(path.stem, json.dumps(hours[path.stem]), flush=True)
    return hours


def head(made: dict[str, Any]) -> str:
    """Returns the lines of a recipe's head that say how long it takes."""
    parts = ", ".join(f"{name} {stage['hours']:.1f}" for name, stage in made["stages"].items())
    return (
        f"# Expected hours: {made['hours']:.0f} on one H100 ({parts}). Planned, not measured\n"
        "#   (`python -m scripts.plan_real_recipes`): pictures of full size, captions of 90 words, questions of 15,\n"
        "#   answers of 10 to 30, at an assumed 35 % of the published peak rate.\n"
    )


def with_head(text: str, made: dict[str, Any]) -> str:
    """Returns a recipe's text with these hours in its head."""
    lines = head(made)
    return HEAD.sub(lambda _: lines, text, count=1)


def main() -> None:
    """Writes both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", type=Path, default=REAL_SHAPES)
    parser.add_argument("--only", nargs="*", help="names of recipes to plan; the others' plans are kept")
    parser.add_argument("--write-only", action="store_true", help="plan nothing; write the heads from what is kept")
    arguments = parser.parse_args()
    if not arguments.write_only:
        date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
        kept = {"date": date, "command": "python -m scripts.plan_real_recipes", "device": DEVICE}
        chosen = [path for path in RECIPES if arguments.only is None or path.stem in arguments.only]
        old = json.loads(PLANS.read_text())["recipes"] if arguments.only is not None else {}
        made = dict(sorted((old | planned(chosen, arguments.shapes)).items()))
        PLANS.write_text(json.dumps(kept | {"recipes": made}, indent=2) + "\n")
    made = json.loads(PLANS.read_text())["recipes"]
    for path in RECIPES:
        path.write_text(with_head(path.read_text(), made[path.stem]))


if __name__ == "__main__":
    main()
