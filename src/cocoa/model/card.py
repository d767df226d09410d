"""`cocoa.json`: what a model folder says of itself, so that nobody has to remember how it was trained."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cocoa
from cocoa.errors import ModelError
from cocoa.layouts import LAYOUTS
from cocoa.pooling import BRIDGE, Pooling
from cocoa.prompts import PROMPTS

CARD = "cocoa.json"
FORMAT = 2
LIBRARIES = ("transformers", "torch", "pillow")
"""Whose versions decide the last digits of a vector."""


@dataclass(frozen=True)
class Card:
    """What is in `cocoa.json`; sizes in pixels and tokens, `matryoshka` in dimensions below the full length."""

    backbone: str
    layout: str
    bridge_token: int
    dimensions: int
    min_pixels: int
    max_pixels: int
    max_tokens: int
    prompts: dict[str, str]
    matryoshka: tuple[int, ...] = ()
    pooling: Pooling = BRIDGE
    receipt: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Returns the content of the file."""
        content = {
            "format": FORMAT,
            "backbone": self.backbone,
            "layout": self.layout,
            "pooling": self.pooling.name,
            "bridge_token": self.bridge_token,
            "normalized": True,
            "dimensions": self.dimensions,
            "matryoshka": list(self.matryoshka),
            "min_pixels": self.min_pixels,
            "max_pixels": self.max_pixels,
            "max_tokens": self.max_tokens,
            "prompts": self.prompts,
            "versions": self.versions,
            "receipt": self.receipt,
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, folder: Path, *, older: bool = False) -> Card:
        """Returns the card of a model folder; with `older` also one of format 1, which had no prompts of its own.

        Raises `E_MODEL_MISSING` where there is none, `E_MODEL_FORMAT` for one that this version cannot use.
        """
        if not (folder / CARD).is_file():
            raise ModelError("E_MODEL_MISSING", f"not a model folder: no {CARD}{_meant(folder)}", where=str(folder))
        try:
            content = json.loads((folder / CARD).read_text())
            found = content["format"]
            if found == 1 and older:
                content |= {"prompts": PROMPTS, "versions": {}}
            elif found != FORMAT:
                hint = f"; `cocoa export {folder} --out NEW` makes a folder of today's" if found == 1 else ""
                raise ModelError("E_MODEL_FORMAT", f"format {found}, this version reads {FORMAT}{hint}")
            card = cls(
                backbone=str(content["backbone"]),
                layout=content["layout"],
                bridge_token=content["bridge_token"],
                **{name: int(content[name]) for name in ("dimensions", "min_pixels", "max_pixels", "max_tokens")},
                prompts=_prompts(content["prompts"]),
                matryoshka=tuple(int(size) for size in content.get("matryoshka", ())),
                pooling=Pooling.named(content["pooling"]),
                receipt=dict(content["receipt"]),
                versions=dict(content["versions"]),
            )
            if card.layout not in LAYOUTS:
                raise ModelError("E_MODEL_FORMAT", f"layout {card.layout!r} unknown")
        except ModelError as error:
            raise error.at(str(folder)) from None
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ModelError("E_MODEL_FORMAT", f"{CARD} cannot be read: {error}", where=str(folder)) from error
        return card


def library_versions() -> dict[str, str]:
    """Returns the versions of what decides the numbers."""
    return {
        "cocoa": cocoa.__version__,
        **_installed(),
        "python": platform.python_version(),
    }


@cache
def _installed() -> dict[str, str]:
    """Of the libraries; read once, for a study writes them hundreds of times."""
    return {library: version(library) for library in LIBRARIES}


def _prompts(content: Mapping[str, str]) -> dict[str, str]:
    prompts = {str(key): str(prompt) for key, prompt in content.items()}
    if missing := [key for key in PROMPTS if key.count("/") == 1 and key not in prompts]:
        raise ValueError(f"no prompt for {missing[0]}")
    return prompts


def _meant(folder: Path) -> str:
    """What to do about a folder without a card, if it is one that people take for a model's."""
    if (folder / "config.json").is_file():
        return "; a bare backbone must be trained first"
    if (folder / "model" / CARD).is_file():
        return f"; this is the folder of a run, its model is {folder / 'model'}"
    return unfinished(folder)


def unfinished(run: Path) -> str:
    """Returns how a model comes of a run that has left checkpoints and no model yet; nothing for any other folder."""
    if not (run / "checkpoints").is_dir() or (run / "model").exists():
        return ""
    goes_on = f"`cocoa train RECIPE --out '{run}' --resume` goes on with it"
    return f"; the run has not ended: {goes_on}, `cocoa export '{run}' --out NEW` takes its last checkpoint"
