"""`cocoa embed`: documents in, vectors out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cocoa.cli.console import A_MODEL, console, counted, errors, refuse_idle


class Engine(StrEnum):
    """Who runs the processes of an embedding job."""

    local = "local"
    ray = "ray"


def embed(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help=A_MODEL)],
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
    if strict:
        refuse_idle(context, "with --strict, which allows no bad row", "max_bad_rate")
    from cocoa.corpus.embeddings import BAD_ROWS
    from cocoa.corpus.job import embed_corpus
    from cocoa.corpus.progress import EmbeddingProgress

    with EmbeddingProgress(errors) as progress:
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
        console.print(f"[yellow]bad rows: {bad:,}[/], named in {escape(str(out / BAD_ROWS))}", soft_wrap=True)
    if cut := embeddings.card.get("cut_texts", 0):
        longest = embeddings.identity["max_tokens"]
        console.print(f"[yellow]texts cut: {cut:,}[/], since this model reads {longest:,} tokens", soft_wrap=True)
    words = f"{counted(len(embeddings), 'vector')} of {embeddings.dimensions} dimensions in {escape(str(out))}"
    console.print(words, soft_wrap=True)
