"""`cocoa serve`: a model behind HTTP."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cocoa.cli.console import A_MODEL
from cocoa.errors import UsageError


class Engine(StrEnum):
    """Who runs the replicas of a server."""

    local = "local"
    ray = "ray"


def serve(
    model: Annotated[str, typer.Argument(help=A_MODEL)],
    index: Annotated[str | None, typer.Option(help="What to search: folder or URI.")] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(help="Another model to serve beside it: MODEL or MODEL=URI of its index; can be given often."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    keys: Annotated[Path | None, typer.Option(help="File of API keys: lines of `name scopes sha256`.")] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Name that a Host header may say; can be given often.")
    ] = None,
    root: Annotated[
        list[Path] | None, typer.Option(help="Folder that file: pictures may lie in; can be given often.")
    ] = None,
    fetch_from: Annotated[
        list[str] | None, typer.Option(help="Host that picture URLs may name; can be given often.")
    ] = None,
    engine: Annotated[Engine, typer.Option(help="ray: several replicas behind Ray Serve.")] = Engine.local,
    replicas: Annotated[int, typer.Option(help="Replicas, with --engine ray.")] = 1,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Another setting: key=value or limits.key=value.")
    ] = None,
) -> None:
    """Serve a model, and an index, over HTTP."""
    try:
        from cocoa.serving.server import serve
    except ImportError as error:
        raise UsageError("E_USAGE_EXTRA", "serving needs: pip install 'cocoa-embeddings[serve]'") from error
    from cocoa.serving.settings import settings_from

    if replicas < 1 or (engine is Engine.local and replicas != 1):
        raise UsageError("E_USAGE_ENGINE", "use --engine local, or --engine ray with --replicas of 1 or more")

    given = {
        "model_name": Path(model).resolve().name,
        "host": host,
        "port": port,
        "key_file": keys,
        "allowed_hosts": tuple(allow_host or ()),
        "roots": tuple(root or ()),
        "fetch_hosts": tuple(fetch_from or ()),
    }
    settings = settings_from(given, set_ or [])
    models = [(model, index), *(_compared(text) for text in compare or [])]
    if engine is Engine.local:
        serve(models, settings)
        return
    try:
        from cocoa.serving.replicas import serve_replicas
    except ImportError as error:
        raise UsageError("E_USAGE_EXTRA", "replicas need: pip install 'cocoa-embeddings[serve,ray]'") from error
    serve_replicas(models, settings, replicas)


def _compared(text: str) -> tuple[str, str | None]:
    """A model and the place of its index; a URI may have a `=` too, so the first one counts."""
    model, _, index = text.partition("=")
    return model, index or None
