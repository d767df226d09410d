"""`cocoa embed`, `cocoa search`: documents in, answers out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from cocoa.cli.console import console
from cocoa.errors import UsageError


def embed(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    documents: Annotated[Path, typer.Argument(metavar="INPUT", help="Folder of pictures, or .parquet/.jsonl table.")],
    out: Annotated[Path, typer.Option(help="Folder for the embeddings.")],
) -> None:
    """Embed pictures or rows, ready to be searched."""
    from cocoa.corpus.shards import embed_path
    from cocoa.embedder import Embedder

    embeddings = embed_path(Embedder.load(model), documents, out)
    console.print(f"{len(embeddings)} vectors of {embeddings.dimensions} dimensions in {escape(str(out))}")


def search(
    index: Annotated[Path, typer.Argument(metavar="URI", help="Folder that `cocoa embed` wrote.")],
    text: Annotated[str | None, typer.Option(help="Words to search for.")] = None,
    image: Annotated[Path | None, typer.Option(help="Picture to search for.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many to show.")] = 10,
    model: Annotated[Path | None, typer.Option(help="Model folder, if it is not where it was.")] = None,
) -> None:
    """Search embeddings by words, by a picture, or both."""
    from cocoa.corpus.index import Index
    from cocoa.embedder import Embedder

    if not text and image is None:
        raise UsageError("E_USAGE_SEARCH", "give --text, --image, or both")
    opened = Index.open(index)
    embedder = Embedder.load(model or opened.embeddings.model)
    query: dict[str, Any] = {"text": text or ""} | ({"image": image} if image else {})
    table = Table("rank", "score", "id", "text")
    for rank, hit in enumerate(opened.search(embedder, [query], k)[0], 1):
        table.add_row(str(rank), f"{hit.score:.3f}", escape(hit.id), escape(hit.text))
    console.print(table)
