"""The stores' own packages, imported when they are needed; a missing one says how it is installed."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from cocoa.errors import IndexingError, UsageError

Table = Any
"""A table of Lance: its own types leave out half of what it does."""
_SYSTEM_SAID = re.compile(r"LanceError\(IO\): (?:.*: )?(.*?) \(os error \d+\)")


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


@contextmanager
def told(root: Path) -> Iterator[None]:
    """Says in words, and of which index, that it cannot be written (`E_INDEX_WRITE`): full, read-only, over a quota."""
    try:
        yield
    except FileExistsError:
        raise
    except (OSError, RuntimeError) as error:
        # Lance has no errors of its own: what the system said stands in the text, before a place in its sources.
        found = _SYSTEM_SAID.search(str(error))
        if found is None and not isinstance(error, OSError):
            raise
        said = found[1] if found else getattr(error, "strerror", None) or error
        raise IndexingError("E_INDEX_WRITE", f"cannot be written: {said}", where=str(root)) from error


def _package(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        what = f"this index needs {name}: pip install 'cocoa-embeddings[{extra}]'"
        raise UsageError("E_USAGE_EXTRA", what) from error
