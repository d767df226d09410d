"""The stores' own packages, imported when they are needed; a missing one says how it is installed."""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from typing import Any

from cocoa.errors import UsageError

Table = Any
"""A table of Lance: its own types leave out half of what it does."""


def lance(root: Path) -> Any:
    """Returns a fresh connection to a folder of Lance tables."""
    return _package("lancedb", "index").connect(root)


def lance_graphs(number: int) -> Any:
    """Returns the settings of an approximate index of Lance with so many graphs, for unit vectors."""
    graphs = _package("lancedb.index", "index").HnswSq
    return graphs(distance_type="dot", num_partitions=number, m=16, ef_construction=100)


def milvus() -> Any:
    """Returns the package `pymilvus`; it is told not to log what is raised anyway."""
    package = _package("pymilvus", "milvus")
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    return package


def _package(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        what = f"this index needs {name}: pip install 'cocoa-embeddings[{extra}]'"
        raise UsageError("E_USAGE_EXTRA", what) from error
