"""Paths in what is kept or published: told from a folder that has a name, not from where it lies on one machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def portable(node: Any, places: Mapping[str, str]) -> Any:
    """Returns plain data in which a path in one of the folders begins with the name that stands for it."""
    if isinstance(node, dict):
        return {key: portable(value, places) for key, value in node.items()}
    if isinstance(node, list):
        return [portable(value, places) for value in node]
    if isinstance(node, str):
        for folder, name in places.items():
            if node == folder or node.startswith(folder + "/"):
                return name + node[len(folder) :]
    return node
