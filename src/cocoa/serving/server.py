"""The server process: an application on a socket, until it is told to stop."""

from __future__ import annotations

from pathlib import Path

from cocoa.errors import UsageError
from cocoa.serving.settings import LOOPBACK, ServeSettings


def serve(model: Path, index: str | None, settings: ServeSettings) -> None:
    """Serves a model folder until a signal ends it."""
    try:
        import uvicorn

        from cocoa.serving.app import create_app
    except ImportError as error:
        raise UsageError("E_USAGE_EXTRA", "serving needs: pip install 'cocoa-embeddings[serve]'") from error
    from cocoa.corpus.index import Index
    from cocoa.embedder import Embedder
    from cocoa.serving.engine import Engine
    from cocoa.serving.forward import Forward
    from cocoa.serving.keys import ApiKeys
    from cocoa.serving.metrics import Metrics
    from cocoa.serving.plain_index import PlainIndex

    keys = ApiKeys.load(settings.key_file)
    if settings.host not in LOOPBACK and not keys:
        raise UsageError(
            "E_USAGE_KEYS", f"on {settings.host} others can reach the server: give it keys", where="--keys"
        )
    forward = Forward(Embedder.load(model), max_batch_tokens=settings.queue.max_batch_tokens)
    opened = PlainIndex(Index.open(index)) if index else None
    app = create_app(settings, Engine(forward, settings, Metrics()), opened, keys=keys)
    uvicorn.run(app, host=settings.host, port=settings.port, access_log=False, server_header=False)
