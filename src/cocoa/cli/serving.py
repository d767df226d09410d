"""`cocoa serve`: a model behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    index: Annotated[str | None, typer.Option(help="What to search: folder or URI.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    keys: Annotated[Path | None, typer.Option(help="File of API keys.")] = None,
) -> None:
    """Serve a model, and an index, over HTTP."""
    from cocoa.serving.server import serve
    from cocoa.serving.settings import ServeSettings

    serve(model, index, ServeSettings(model_name=model.resolve().name, host=host, port=port, key_file=keys))
