"""`cocoa index`, `cocoa search`: embeddings into an index, and answers out of it."""

from __future__ import annotations

import errno
import json
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cocoa.cli.console import complain, console, counted, errors, harmless, refuse_idle
from cocoa.errors import IndexingError, UsageError

if TYPE_CHECKING:
    from cocoa.corpus.index import Hit, Index


def index(
    source: Annotated[
        str, typer.Argument(metavar="EMBEDDINGS|URI", help="Folder of `cocoa embed`; without --out an index.")
    ],
    out: Annotated[str | None, typer.Option(metavar="URI", help="Where: a folder, or milvus://host:port/name.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Build anew what stands there.")] = False,
    add: Annotated[bool, typer.Option("--add", help="Add to what stands there; a known id is an error.")] = False,
    upsert: Annotated[bool, typer.Option("--upsert", help="Add to what stands there; known ids are replaced.")] = False,
    delete: Annotated[list[str] | None, typer.Option(metavar="ID", help="Remove a document; may be repeated.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check every file; exit 1 if one is damaged.")] = False,
    against: Annotated[
        Path | None, typer.Option(metavar="EMBEDDINGS", help="With --verify: also ids and vectors against these.")
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Go back to the newest version that is whole.")] = False,
    optimize: Annotated[bool, typer.Option("--optimize", help="Compact, and make the approximate index anew.")] = False,
) -> None:
    """Build an index of embeddings; or with a URI alone: look after the index there."""
    from cocoa.corpus.embeddings import Embeddings
    from cocoa.corpus.index import Index

    if sum([out is not None, bool(delete), verify, repair, optimize]) != 1:
        what = "give --out to build an index, or one of --delete, --verify, --repair, --optimize for the index at URI"
        raise UsageError("E_USAGE_INDEX", what)
    if sum([replace, add, upsert]) > (out is not None):
        raise UsageError("E_USAGE_INDEX", "use one of --replace, --add, --upsert, and only with --out")
    if against is not None and not verify:
        raise UsageError("E_USAGE_INDEX", "--against goes with --verify")
    if out is not None:
        embeddings = Embeddings.open(source)
        if add or upsert:
            opened = Index.open(out)
            written = opened.upsert(embeddings) if upsert else opened.add(embeddings)
            if opened.is_embedded:
                opened.optimize(say=_say)
            _say(f"{counted(written, 'document')} written")
        else:
            opened = Index.build(embeddings, out, replace=replace, say=_say)
        _say(f"{counted(len(opened), 'document')} of {opened.dimensions} dimensions in {out}, {_how(opened)}")
        return
    opened = Index.open(source)
    if delete:
        missing = opened.missing(delete)
        _say(f"{counted(opened.delete(delete), 'document')} removed, {len(opened):,} left")
        if missing:
            _say(f"no such document: {', '.join(map(repr, missing))}")
    elif repair:
        _say(opened.repair())
    elif optimize:
        opened.optimize(say=_say)
        _say(f"{counted(len(opened), 'document')}, {_how(opened)}")
    else:
        found = opened.verify(None if against is None else Embeddings.open(against))
        for line in found.damages:
            console.print(f"[red]{harmless(line)}[/]", soft_wrap=True, highlight=False)
        if not found.ok:
            raise IndexingError("E_INDEX_DAMAGED", f"{len(found.damages)} things are not as written", where=source)
        _say(f"{found.checked:,} files or rows are as they were written")


def search(
    context: typer.Context,
    uri: Annotated[str, typer.Argument(metavar="URI", help="Index, or folder of embeddings.")],
    text: Annotated[str | None, typer.Option(help="Words to search for.")] = None,
    image: Annotated[Path | None, typer.Option(help="Picture to search for.")] = None,
    like: Annotated[list[str] | None, typer.Option(metavar="ID", help="More like this document; repeatable.")] = None,
    unlike: Annotated[list[str] | None, typer.Option(metavar="ID", help="Less like this one; repeatable.")] = None,
    weight: Annotated[float, typer.Option(help="How much --unlike counts.")] = 0.5,
    k: Annotated[int, typer.Option("-k", help="How many to show.")] = 10,
    where: Annotated[str | None, typer.Option(help="Filter: 'price < 3 and kind = \"cat\"', or its JSON.")] = None,
    model: Annotated[str | None, typer.Option(help="Model, if it is not where it was.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the hits as JSON.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with the pictures.")] = None,
) -> None:
    """Search by words, a picture, both, or by examples of what is wanted and what is not."""
    from cocoa.corpus.index import Index
    from cocoa.corpus.where import read_where

    if not text and image is None and not like:
        raise UsageError("E_USAGE_SEARCH", "give --text, --image, --like, or several of them")
    if not unlike:
        refuse_idle(context, "without --unlike", "weight")
    if not text and image is None:
        refuse_idle(context, "without --text or --image: nothing is embedded", "model")
    condition = None if where is None else read_where(where)
    opened = Index.open(uri)
    _tell(opened)
    vectors = None
    if text or image is not None:
        from cocoa.embedder import Embedder

        embedder = Embedder.load(model or opened.model)
        opened.check_identity(embedder.identity, str(embedder.folder))
        vectors = embedder.encode_query([{"text": text or ""} | ({"image": image} if image else {})])
    start = time.perf_counter()
    hits = opened.search_examples(
        k, vectors=vectors, like=like or (), unlike=unlike or (), weight=weight, filter=condition
    )
    seconds = time.perf_counter() - start
    if html is not None:
        from cocoa.corpus.found import write_search_page

        lost = write_search_page(
            html, opened, hits, text=text or "", image=image, like=like or (), unlike=unlike or (),
            where=where or "", how=_how(opened), seconds=seconds,
        )  # fmt: skip
        if lost:
            errors.print(f"[yellow]{lost} pictures do not open[/]")
        if not as_json:
            _say(f"{len(hits)} hits in {html}")
            return
    if as_json:
        _write_json([asdict(hit) for hit in hits])
    else:
        console.print(_table(hits, opened))


def _write_json(content: Any) -> None:
    """Writes JSON in UTF-8, whatever the letters of the terminal: programs read it."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "the output is closed")
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    # JSON escapes C0 alone; a terminal may obey C1 and DEL, which stand only in texts.
    text = re.sub(r"[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text)
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def _table(hits: list[Hit], opened: Index) -> Table:
    columns = list(opened.columns)
    table = Table("rank", "score", "id", "text", *(harmless(name) for name in columns))
    for rank, hit in enumerate(hits, 1):
        kept = ("" if hit.columns[name] is None else harmless(str(hit.columns[name])) for name in columns)
        table.add_row(str(rank), f"{hit.score:.3f}", harmless(hit.id), harmless(hit.text), *kept)
    return table


def _how(opened: Index) -> str:
    made = opened.approximate
    if made is None:
        return "searched exactly"
    recall = f", measured recall@10 {made['recall_at_10']:.3f}" if "recall_at_10" in made else ""
    return f"searched approximately by {made['kind']}{recall}"


def _tell(opened: Index) -> None:
    if opened.notice:
        complain(f"{opened.uri}: {opened.notice}; `cocoa index --repair` makes it so for good")


def _say(text: str) -> None:
    console.print(harmless(text), soft_wrap=True, highlight=False)
