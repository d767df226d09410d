"""Embeds, indexes and searches all pictures of the emoji set: recall of the approximate index, and a page to look at.

`python scripts/search_emoji.py --out DIR [--model FOLDER]`; the set stands in ../shared/data/emoji. Writes
`DIR/search.json` and `DIR/search.html`; the embeddings in `DIR/embeddings` are taken up again where they stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cocoa import Embedder, Index
from cocoa.backbones.nano import load_nano
from cocoa.corpus.embeddings import Embeddings
from cocoa.corpus.found import write_search_page
from cocoa.corpus.job import embed_corpus
from cocoa.model import EmbeddingModel

EMOJI = Path(__file__).resolve().parents[2] / "shared" / "data" / "emoji"
K = 10


def write_rows(folder: Path) -> None:
    """Writes a row for each picture of the set, with its caption if one is known, beside a copy of the archive."""
    if (folder / "rows.parquet").is_file():
        return  # a job that goes on refuses an input that was written again
    folder.mkdir(parents=True)
    shutil.copy(EMOJI / "images.zip", folder)
    with zipfile.ZipFile(folder / "images.zip") as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    captions: dict[str, str] = {}
    for pairs in ("pairs_train", "pairs_test"):
        for row in pq.read_table(EMOJI / f"{pairs}.parquet").to_pylist():
            captions.setdefault(row["image_path"], row["text"])
    columns = {
        "id": names,
        "image": names,
        "caption": [captions.get(name) for name in names],
        "set": [name.rpartition("/")[0] for name in names],
    }
    pq.write_table(pa.table(columns), folder / "rows.parquet")


def measure(embeddings: Embeddings, embedder: Embedder, out: Path) -> dict[str, Any]:
    """Returns how the approximate index compares with exact search on the captions of the test pairs."""
    queries = embedder.encode_query(pq.read_table(EMOJI / "pairs_test.parquet")["text"].to_pylist()[:300])
    start = time.perf_counter()
    index = Index.build(embeddings, out / "index", replace=True, exact_rows=1000)
    seconds = time.perf_counter() - start
    exact = Index.open(embeddings.folder)
    pairs = zip(index.search_vectors(queries, K), exact.search_vectors(queries, K), strict=True)
    shares = [len({hit.id for hit in one} & {hit.id for hit in other}) / K for one, other in pairs]
    return {
        "pictures": len(index),
        "bad_rows": embeddings.card["bad_rows"],
        "build_seconds": round(seconds, 1),
        "queries": len(queries),
        "recall_at_10": round(sum(shares) / len(shares), 4),
        "approximate": index.approximate,
        "equals_its_embeddings": index.verify(embeddings).ok,
    }


def main() -> None:
    """Runs it all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="model folder; default: the nano backbone as it ships")
    options = parser.parse_args()
    model = options.model or options.out / "model"
    if not model.is_dir():
        EmbeddingModel(load_nano()).save(model)
    write_rows(options.out / "rows")
    embeddings = embed_corpus(model, options.out / "rows" / "rows.parquet", options.out / "embeddings")
    embedder = Embedder.load(model)
    result = measure(embeddings, embedder, options.out)
    (options.out / "search.json").write_text(json.dumps(result, indent=1) + "\n")
    index, like, unlike = Index.open(options.out / "index"), ["noto/1f600.webp"], ["fx/1f600.webp"]
    text, where = "smiling cat with heart eyes", 'not set contains "scenes"'
    hits = index.search_examples(
        12,
        vectors=embedder.encode_query([text]),
        like=like,
        unlike=unlike,
        filter={"not": {"column": "set", "op": "contains", "value": "scenes"}},
    )
    page = options.out / "search.html"
    how = f"recall@10 {result['recall_at_10']:.3f}"
    write_search_page(
        page, index, hits, text=text, image=None, like=like, unlike=unlike, where=where, how=how, seconds=0.0
    )
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
