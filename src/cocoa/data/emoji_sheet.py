"""The drawings that generated scenes are made of: about 250 emoji, read once from one sheet."""

from __future__ import annotations

import functools
import io
import json
from dataclasses import dataclass
from importlib import resources

from PIL import Image

from cocoa.errors import UsageError


@dataclass(frozen=True, slots=True)
class _Sheet:
    picture: Image.Image
    cell: int
    columns: int
    order: dict[str, int]


@functools.cache
def _sheet() -> _Sheet:
    assets = resources.files("cocoa") / "assets"
    content = json.loads((assets / "emoji.json").read_text(encoding="utf-8"))
    with Image.open(io.BytesIO((assets / "emoji.webp").read_bytes())) as file:
        picture = file.convert("RGBA")
    order = {drawing["name"]: index for index, drawing in enumerate(content["drawings"])}
    return _Sheet(picture, content["cell"], content["columns"], order)


@functools.cache
def things() -> tuple[str, ...]:
    """Returns the names of all drawings, the most distinct first."""
    return tuple(_sheet().order)


@functools.lru_cache(maxsize=8192)
def drawing(name: str, pixels: int) -> Image.Image:
    """Returns the RGBA drawing of a thing, `pixels` wide and high; it is shared, so do not change it."""
    sheet = _sheet()
    if name not in sheet.order:
        raise UsageError("E_USAGE_SCENES", f"there is no drawing of '{name}'; see cocoa.data.emoji_sheet.things()")
    row, column = divmod(sheet.order[name], sheet.columns)
    left, top = column * sheet.cell, row * sheet.cell
    cell = sheet.picture.crop((left, top, left + sheet.cell, top + sheet.cell))
    return cell.resize((pixels, pixels), Image.Resampling.LANCZOS)
