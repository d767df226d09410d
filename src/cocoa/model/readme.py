"""The model card that people see: `README.md` of a model folder, made from what the folder says of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cocoa.model.card import Card
from cocoa.model.hub import is_hub_id
from cocoa.prompts import tasks_of

README = "README.md"


def readme(card: Card, name: str) -> str:
    """Returns the text of the card, with the header that the hub reads."""
    base = str(card.receipt.get("recipe", {}).get("backbone", {}).get("name", ""))
    return f"""---
library_name: sentence-transformers
pipeline_tag: feature-extraction
tags: [cocoa, sentence-transformers, feature-extraction, multimodal, {card.backbone}]
{f"base_model: {base}" + chr(10) if is_hub_id(base) else ""}---

# {name}

One vector of {card.dimensions} dimensions and unit length for a text, an image, or both, made by
[CoCoA](https://arxiv.org/abs/2603.01471) training of a {card.backbone} model: the state of the bridge token, which
ends every input. Compare by cosine.

| | |
|---|---|
{_rows(_facts(card))}

## Use

```python
from cocoa import Embedder
embedder = Embedder.load("{name}")            # this folder; refuses to load if a vector is not what it was
queries = embedder.encode_query(["a red apple"])
documents = embedder.encode_document([{{"image": "apple.jpg"}}, {{"text": "an apple", "image": "apple.jpg"}}])
print(queries @ documents.T)
```

Without this package, by stock modules and without remote code:

```python
from sentence_transformers import SentenceTransformer
model = SentenceTransformer("{name}")
queries = model.encode_query(["a red apple"])
documents = model.encode_document([{{"image": "apple.jpg"}}])
```

`cocoa verify` compares the vectors of either with those in `golden.json`.

## Prompts

`encode_query` and `encode_document` add these words, which differ by kind of input. `encode` adds none.
{_tasks(card)}
| side and kind | words |
|---|---|
{_rows(_prompts(card))}

## Training

{_training(card.receipt)}
"""


def _facts(card: Card) -> dict[str, str]:
    lengths = ", ".join(str(size) for size in card.matryoshka)
    return {
        "backbone": card.backbone,
        "attention": card.layout,
        "dimensions": str(card.dimensions),
        "shorter vectors (Matryoshka)": lengths or "not trained",
        "pictures": f"{card.min_pixels} to {card.max_pixels} pixels after resizing",
        "longest input": f"{card.max_tokens} tokens; longer texts are cut",
        "made with": ", ".join(f"{name} {number}" for name, number in card.versions.items()),
    }


def _tasks(card: Card) -> str:
    named = tasks_of(card.prompts)
    if not named:
        return ""
    return f'\nWords of their own have {", ".join(named)}: `encode_query(items, task="{named[0]}")`.\n'


def _prompts(card: Card) -> dict[str, str]:
    return {key: f"`{prompt}`".replace("\n", "\\n").replace("|", "\\|") for key, prompt in card.prompts.items()}


def _training(receipt: Mapping[str, Any]) -> str:
    stages = receipt.get("stages", {})
    if not stages:
        return "No receipt: the model was written without one."
    lines = ["| stage | pairs | first loss | last loss |", "|---|---:|---:|---:|"]
    for name, stage in stages.items():
        lines.append(
            f"| {name} | {stage.get('pairs', '')} | {_losses(stage.get('first_losses', {}))} | "
            f"{_losses(stage.get('last_losses', {}))} |"
        )
    seed = receipt.get("recipe", {}).get("seed")
    return "\n".join([*lines, "", f"Seed {seed}. Recipe, seeds, data hashes and versions stand in `cocoa.json`."])


def _losses(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in losses.items())


def _rows(facts: Mapping[str, str]) -> str:
    return "\n".join(_lines(facts))


def _lines(facts: Mapping[str, str]) -> Iterator[str]:
    for name, value in facts.items():
        yield f"| {name} | {value} |"
