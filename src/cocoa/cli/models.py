"""`cocoa verify`, `cocoa export`: a model folder, tested and made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cocoa.cli.console import A_MODEL, console, errors


def verify(
    model: Annotated[str, typer.Argument(help=A_MODEL)],
    against: Annotated[
        str | None,
        typer.Option(help="Who is asked for vectors: sentence-transformers or a server's URL; default this package."),
    ] = None,
    threshold: Annotated[float, typer.Option(min=-1, max=1, help="Smallest cosine that passes.")] = 0.9999,
    api_key: Annotated[str | None, typer.Option(envvar="COCOA_API_KEY", help="Key for the server.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the result there.")] = (
        None
    ),
) -> None:
    """Compare vectors with a model folder's golden ones, by kind of input; exit 1 if one is not the same."""
    from cocoa.files import write_file
    from cocoa.model import local_folder
    from cocoa.verification import verify as compare

    result = compare(local_folder(model), against=against, threshold=threshold, api_key=api_key)
    table = Table(
        "input", "number", "smallest cosine", *(["why not"] if any(kind.reason for kind in result.kinds) else [])
    )
    for kind in result.kinds:
        cosine = "-" if kind.smallest_cosine is None else f"{kind.smallest_cosine:.9f}"
        table.add_row(kind.kind, str(kind.count), cosine, *([escape(kind.reason)] if kind.reason else []))
    console.print(table)
    if json_file is not None:
        write_file(json_file, json.dumps(result.to_dict(), indent=2) + "\n")
    if not result.passed:
        errors.print(f"[bold red]not the golden vectors[/] by {escape(result.against)} (below {threshold})")
        raise typer.Exit(1)
    console.print(f"the golden vectors, by {escape(result.against)}")


def export(
    source: Annotated[Path, typer.Argument(help="Model folder, run folder, or checkpoint folder.")],
    out: Annotated[Path, typer.Option(help="New model folder.")],
    push: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Also upload it to the hub.")] = None,
    public: Annotated[bool, typer.Option("--public", help="A model that the upload makes is public.")] = False,
) -> None:
    """Write a model folder from a run, a checkpoint or an older model folder, and upload it if asked."""
    from cocoa.errors import UsageError
    from cocoa.exporting import export_model
    from cocoa.model import push as upload

    if public and push is None:
        raise UsageError("E_USAGE_PUSH", "--public has no effect without --push")
    export_model(source, out)
    console.print(f"Model in [bold]{escape(str(out))}[/]", soft_wrap=True)
    if push is not None:
        console.print(f"Uploaded to {escape(upload(out, push, public=public))}", soft_wrap=True)
