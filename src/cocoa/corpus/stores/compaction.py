"""Making a table small again: a copy by hard links, so that the commit before it keeps every file that it names."""

from __future__ import annotations

import os
import shutil
import warnings
from datetime import timedelta
from pathlib import Path

from cocoa.corpus.stores import connecting
from cocoa.corpus.stores.commits import Commit

MAX_FILES = 256
"""Files of a table above which the writer compacts it by itself."""


def compact(root: Path, commit: Commit) -> str:
    """Returns the name of a new table in the folder, with the commit's rows and nothing else; not acknowledged yet."""
    name = f"rows-{int(commit.table.removeprefix('rows-')) + 1:010}"
    folder, old = root / f"{name}.lance", root / f"{commit.table}.lance"
    for path in old.rglob("*"):
        place = folder / path.relative_to(old)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        elif str(path.relative_to(root)) in commit.files:
            place.parent.mkdir(parents=True, exist_ok=True)
            _link(path, place)
    table = connecting.lance(root).open_table(name)
    with warnings.catch_warnings():
        # It warns that other readers would lose what they read: nobody knows of this table yet.
        warnings.filterwarnings("ignore", message=".*cleanup_older_than")
        table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)
    return name


def _link(source: Path, place: Path) -> None:
    try:
        os.link(source, place)  # Lance never changes a file that it has written
    except OSError:
        shutil.copy2(source, place)  # a file system without hard links
