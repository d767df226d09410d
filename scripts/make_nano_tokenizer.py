"""Writes the nano backbone's tokenizer into the package, learnt from generated captions and from the names of Unicode.

python scripts/make_nano_tokenizer.py
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

from cocoa.backbones.nano import train_tokenizer
from cocoa.data.emoji_sheet import things
from cocoa.data.scene_pairs import ScenePairs

FOLDER = Path(__file__).parents[1] / "src" / "cocoa" / "assets" / "nano"


def texts() -> Iterator[str]:
    """Yields generated texts, and the names of symbols and emoji as a small English word list with an open licence."""
    for pair in map(ScenePairs(seed=0, num_pairs=8000, questions=0.5).__getitem__, range(8000)):
        yield pair.query.text.removeprefix("<|image_1|>")
        yield pair.target.text
    for name in things() * 20:
        yield f"a {name}"
    for code in range(0x2000, 0x20000):
        if unicodedata.category(chr(code)) == "So":
            yield unicodedata.name(chr(code), "").lower()


if __name__ == "__main__":
    tokens = train_tokenizer(texts(), vocab_size=2048)
    FOLDER.mkdir(parents=True, exist_ok=True)
    tokens.save(FOLDER)
    print(f"{len(tokens.stock)} tokens in {FOLDER}")
