"""A check written down: a list for programs and a page for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from cocoa.checking.check import DataCheck
from cocoa.errors import CocoaError
from cocoa.files import write_file
from cocoa.images import ImageSource, open_rgb
from cocoa.report.check_page import SHOWN, check_page

_PIXELS = 448


def write_check(check: DataCheck, out: Path) -> None:
    """Writes `OUT/check.json` and `OUT/check.html`."""
    content = check.to_dict()
    write_file(out / "check.json", json.dumps(content, indent=1, ensure_ascii=False, sort_keys=False) + "\n")
    write_file(out / "check.html", check_page(content, dict(_pictures(check))))


def _pictures(check: DataCheck) -> Iterator[tuple[str, Image.Image]]:
    """The pictures that the page shows, by their names in the list; what does not open is left out."""
    wanted: dict[str, ImageSource] = {}
    for finding in check.findings:
        for example in finding.examples[:SHOWN]:
            for shown in example.shown:
                wanted |= shown.named_pictures
    for name, source in wanted.items():
        try:
            picture = open_rgb(source)
        except CocoaError:
            continue
        picture.thumbnail((_PIXELS, _PIXELS))
        yield name, picture
    for stage in check.stages:
        for batch in stage.batches:
            for pair in batch.pairs:
                yield from pair.pictures(stage.name).items()
