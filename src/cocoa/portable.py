"""Paths in what is kept or published: told from a folder that has a name, not from where it lies on one machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def own_places() -> dict[str, str]:
    """Returns the names of the working directory, `.`, and of the home folder, `~`; the longer path first."""
    places = {str(Path.cwd()): "."}
    # Not Path.home(), which raises for a user without a name, as containers have.
    if home := os.environ.get("HOME"):
        for path in (Path(home), Path(home).resolve()):
            places.setdefault(str(path), "~")
    return dict(sorted(places.items(), key=lambda place: -len(place[0])))


def portable(node: Any, places: Mapping[str, str]) -> Any:
    """Returns plain data in which a path in one of the folders begins with the name that stands for it; keys too."""
    if isinstance(node, dict):
        return {portable(key, places): portable(value, places) for key, value in node.items()}
    if isinstance(node, list):
        return [portable(value, places) for value in node]
    if isinstance(node, str):
        for folder, name in places.items():
            if node == folder or node.startswith(folder + "/"):
                return name + node[len(folder) :]
    return node
