"""The log of a server: a line for each request that is refused or fails, with its cause where that is ours."""

from __future__ import annotations

import logging

log = logging.getLogger("cocoa.serving")


def show_log() -> None:
    """Writes the log, from INFO on, to stderr, unless whoever runs the server has said where it goes."""
    if log.hasHandlers():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
