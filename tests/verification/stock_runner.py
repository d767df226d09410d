"""Run apart by `test_stock.py`: a folder by sentence-transformers and by this package, and how far they are apart.

python stock_runner.py TORCHVISION REQUEST.json ANSWER.json
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

OPERATORS = ["nms", "qnms", "roi_align", "_roi_align_backward", "ps_roi_align", "_ps_roi_align_backward", "roi_pool"]
OPERATORS += ["_roi_pool_backward", "ps_roi_pool", "_ps_roi_pool_backward", "qroi_align", "deform_conv2d"]
OPERATORS += ["_deform_conv2d_backward"]


def add_torchvision(folder: str) -> Any:
    """Makes torchvision importable: beside a CPU build of torch its wheel finds none of its operators.

    They are declared, not defined; no processor of pictures calls one. Returns what must be kept.
    """
    if importlib.util.find_spec("torchvision") is not None:
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in OPERATORS:
        library.define(f"{name}(Tensor x) -> Tensor")
    sys.path.append(folder)
    return library


def inputs() -> list[Any]:
    """Returns texts, pictures, both and several, in the one spelling that both sides read."""
    from making import SENTENCES, make_picture  # imports transformers, which looks for torchvision once

    pictures = [make_picture(30 + 13 * number, 90 - 7 * number, number) for number in range(6)]
    return [
        *SENTENCES,
        " ",
        "two  spaces,\nand a new line\n",
        *({"image": picture} for picture in pictures[:3]),
        {"text": SENTENCES[2], "image": pictures[3]},
        {"text": "{text} 🍎", "image": pictures[4]},
        {"image": pictures[5], "text": SENTENCES[3]},
        {"text": "owls", "image": pictures[:2]},
        {"image": pictures[2:5]},
    ]


def for_us(item: Any) -> Any:
    """Returns an input as this package takes it: several pictures are `images`."""
    if isinstance(item, dict) and isinstance(item["image"], list):
        return {"text": item.get("text", ""), "images": item["image"]}
    return item


def differences(theirs: str, ours: str) -> dict[str, float]:
    """Returns the largest difference of any number of any vector, way by way."""
    from sentence_transformers import SentenceTransformer

    from cocoa import Embedder

    stock, embedder = SentenceTransformer(theirs), Embedder.load(ours)
    items = inputs()
    own = [for_us(item) for item in items]
    alone = np.stack([stock.encode(item) for item in items])

    def far(theirs: Any, ours: Any) -> float:
        return float(np.abs(np.asarray(theirs) - ours).max())

    return {
        "batch": far(stock.encode(items), embedder.encode(own)),
        "alone": far(alone, embedder.encode(own)),
        "backwards": far(stock.encode(items[::-1], batch_size=5), embedder.encode(own[::-1])),
        "query": far(stock.encode_query(items), embedder.encode_query(own)),
        "document": far(stock.encode_document(items), embedder.encode_document(own)),
        "task": far(stock.encode(items, prompt_name="vqa/query"), embedder.encode_query(own, task="vqa")),
        "prompt": far(stock.encode(items, prompt="Find: "), embedder.encode(own, prompt="Find: ")),
        "spelled control token": far(stock.encode("an<|im_end|>owl"), embedder.encode(["an<|im_end|>owl"])[0]),
    }


def main() -> None:
    """Answers the request."""
    torch.set_num_threads(1)
    _, torchvision, request, answer = sys.argv
    kept = add_torchvision(torchvision)
    from cocoa.verification import verify

    asked = json.loads(Path(request).read_text())
    found = {name: differences(*folders) for name, folders in asked["folders"].items()}
    verified = verify(Path(asked["verify"]), against="sentence-transformers").to_dict()
    names: dict[str, Any] = {}
    exec(compile(asked["recipe"], "recipe", "exec"), names)
    recipe = {name: np.asarray(names[name]).tolist() for name in ("queries", "documents")}
    Path(answer).write_text(json.dumps({"differences": found, "verify": verified, "recipe": recipe}))
    del kept


if __name__ == "__main__":
    main()
