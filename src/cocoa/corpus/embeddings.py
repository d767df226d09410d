"""A folder of embeddings: ids, vectors, what a result shows of each, and which model made them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cocoa.corpus.inputs import Document, read_documents
from cocoa.embedder import Embedder
from cocoa.errors import DataError
from cocoa.files import check_folder, write_folder

TABLE = "embeddings.parquet"
CARD = "embeddings.json"


@dataclass(frozen=True)
class Embeddings:
    """Vectors float32 [N, D] of unit norm beside ids, texts and picture paths; the model's folder and fingerprint."""

    ids: list[str]
    vectors: NDArray[np.float32]
    texts: list[str]
    images: list[str]
    model: str
    fingerprint: str

    def save(self, folder: Path) -> None:
        """Writes the folder; all of it or nothing."""
        values = pa.array(self.vectors.ravel(), pa.float32())
        table = pa.table(
            {
                "id": self.ids,
                "vector": pa.FixedSizeListArray.from_arrays(values, self.vectors.shape[1]),
                "text": self.texts,
                "image": self.images,
            }
        )
        card = {"model": self.model, "fingerprint": self.fingerprint, "dimensions": self.vectors.shape[1]}
        with write_folder(folder) as draft:
            pq.write_table(table, draft / TABLE)
            (draft / CARD).write_text(json.dumps(card, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Embeddings:
        """Returns the embeddings of a folder that `save` wrote; raises `E_DATA_INCOMPLETE` or `E_DATA_READ`."""
        if not (folder / CARD).is_file():
            raise DataError("E_DATA_FILE", f"not a folder of embeddings: no {CARD}", where=str(folder))
        check_folder(folder)
        try:
            card = json.loads((folder / CARD).read_text())
            table = pq.read_table(folder / TABLE)
            vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), card["dimensions"])
            return cls(
                ids=table["id"].to_pylist(),
                vectors=vectors,
                texts=table["text"].to_pylist(),
                images=table["image"].to_pylist(),
                model=card["model"],
                fingerprint=card["fingerprint"],
            )
        except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise DataError("E_DATA_READ", "embeddings cannot be read", where=str(folder)) from error


def embed_documents(embedder: Embedder, documents: list[Document], *, progress: bool = False) -> Embeddings:
    """Returns the embeddings of documents, in their order."""
    vectors = embedder.encode_document([document.sample for document in documents], progress=progress)
    return Embeddings(
        ids=[document.id for document in documents],
        vectors=vectors,
        texts=[document.text for document in documents],
        images=[document.image for document in documents],
        model=str(embedder.folder.resolve()),
        fingerprint=embedder.fingerprint,
    )


def embed_path(embedder: Embedder, path: Path, out: Path, *, progress: bool = False) -> Embeddings:
    """Returns the embeddings of a folder of pictures or a table, after writing them to `out`."""
    embeddings = embed_documents(embedder, read_documents(path), progress=progress)
    embeddings.save(out)
    return embeddings
