"""One shard of a folder of embeddings: collected, then committed whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cocoa.corpus.documents import BadDocument, Document
from cocoa.corpus.embeddings import (
    BAD_ROWS,
    SHARDS,
    TABLE,
    Embeddings,
    ShardEntry,
    shard_schema,
    write_card,
    write_table,
)
from cocoa.corpus.windows import Windows
from cocoa.embedder import Embedder
from cocoa.errors import DataError
from cocoa.files import MANIFEST, check_folder, write_folder

_CUT_TEXTS = b"cut_texts"


@dataclass
class Shard:
    """What has been made of a shard's rows so far."""

    documents: list[Document] = field(default_factory=list)
    vectors: list[NDArray[np.float32]] = field(default_factory=list)
    bad: list[BadDocument] = field(default_factory=list)
    cut_texts: int = 0

    def add(
        self,
        documents: Sequence[Document],
        vectors: NDArray[np.float32],
        bad: Sequence[BadDocument],
        cut_texts: int,
    ) -> None:
        """Takes what came of a window."""
        self.documents.extend(documents)
        self.vectors.append(vectors)
        self.bad.extend(bad)
        self.cut_texts += cut_texts

    def commit(self, folder: Path, name: str, dimensions: int, columns: Mapping[str, str]) -> None:
        """Writes the shard `name` of a folder of embeddings."""
        rows: dict[str, list[Any]] = {
            "id": [document.id for document in self.documents],
            "text": [document.text for document in self.documents],
            "image": [document.image for document in self.documents],
        }
        for column in columns:
            rows[column] = [document.columns.get(column) for document in self.documents]
        vectors = np.concatenate([np.zeros((0, dimensions), np.float32), *self.vectors])
        with write_folder(folder / SHARDS / name) as draft:
            # In the table, so that it is there with the shard whoever asks, after a kill too.
            counted = shard_schema(dimensions, columns).with_metadata({_CUT_TEXTS: str(self.cut_texts)})
            write_table(draft / TABLE, rows, vectors, counted)
            (draft / BAD_ROWS).write_text("".join(json.dumps(row.to_json()) + "\n" for row in self.bad))


def read_entry(folder: Path, name: str) -> ShardEntry:
    """Returns what the card says of a committed shard. Raises `E_DATA_INCOMPLETE` if it is not as it was written."""
    shard = folder / SHARDS / name
    check_folder(shard)
    files = json.loads((shard / MANIFEST).read_text())["files"]
    try:
        table = pq.read_metadata(shard / TABLE)
        cut_texts = int((table.metadata or {}).get(_CUT_TEXTS, 0))
        with (shard / BAD_ROWS).open("rb") as stream:
            bad = sum(1 for _ in stream)
        return ShardEntry(name, table.num_rows, bad, files[TABLE]["sha256"], cut_texts)
    except (OSError, ValueError, KeyError) as error:  # Arrow's errors are ValueErrors or OSErrors.
        what = "the shard is not as it was written: remove its folder to make it again"
        raise DataError("E_DATA_INCOMPLETE", what, where=str(shard)) from error


def embed_documents(embedder: Embedder, documents: Iterable[Document], folder: Path, *, threads: int = 2) -> Embeddings:
    """Returns the embeddings of documents that are at hand, in their order, after writing them to a new folder.

    A document that cannot be used raises its error: `DataError`, `ImageError` or `ModelError`.
    """
    with write_folder(folder) as draft:
        shard = Shard()
        with Windows(embedder, threads) as windows:
            for window in windows.decoded(documents):
                shard.add(*windows.embed(window), window.cut_texts)
                if shard.bad:
                    raise shard.bad[0].error
        shard.commit(draft, "000000", embedder.dimensions, {})
        write_card(
            draft,
            identity=embedder.identity,
            model=embedder.address,
            dimensions=embedder.dimensions,
            columns={},
            source={"kind": "documents"},
            shards=[read_entry(draft, "000000")],
        )
    return Embeddings.open(folder)
