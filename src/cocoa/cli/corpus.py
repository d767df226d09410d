"""`cocoa embed`, `cocoa search`: documents in, answers out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from cocoa.cli.console import console
from cocoa.errors import UsageError


class Engine(StrEnum):
    """Who runs the processes of an embedding job."""

    local = "local"
    ray = "ray"


def embed(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help=".jsonl, .parquet or .tar, a folder of such, or of pictures.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the embeddings.")],
    engine: Annotated[Engine, typer.Option(help="Who runs the processes: this command, or Ray.")] = Engine.local,
    workers: Annotated[int, typer.Option(help="Processes that share the work.")] = 1,
    threads: Annotated[int, typer.Option(help="Threads of each process that read and decode.")] = 2,
    shard_rows: Annotated[int, typer.Option(help="Rows that are written together.")] = 1024,
    max_bad_rate: Annotated[float, typer.Option(help="Stop if more of the rows are bad, from 0 to 1.")] = 1.0,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad row.")] = False,
) -> None:
    """Embed rows or pictures, ready to be searched. Killed and started again, it goes on."""
    from cocoa.corpus.embeddings import BAD_ROWS
    from cocoa.corpus.job import embed_corpus
    from cocoa.corpus.progress import EmbeddingProgress

    with EmbeddingProgress(console) as progress:
        embeddings = embed_corpus(
            model,
            source,
            out,
            engine=engine.value,
            workers=workers,
            threads=threads,
            shard_rows=shard_rows,
            max_bad_rate=None if strict else max_bad_rate,
            on_progress=progress.show,
        )
    for note in embeddings.card["input"]["notes"]:
        console.print(escape(note), soft_wrap=True, highlight=False)
    if bad := embeddings.card["bad_rows"]:
        console.print(f"[yellow]{bad:,} bad rows[/] are named in {escape(str(out / BAD_ROWS))}", soft_wrap=True)
    words = f"{len(embeddings):,} vectors of {embeddings.dimensions} dimensions in {escape(str(out))}"
    console.print(words, soft_wrap=True)


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
