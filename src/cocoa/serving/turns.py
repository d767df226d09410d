"""Turns: so many requests of a kind are under way, and no more."""

from __future__ import annotations

from cocoa.serving.problems import busy


class Turns:
    """Lets `most` in; `what` they are is told to who comes too many."""

    def __init__(self, most: int, what: str) -> None:
        self.most = most
        self.what = what
        self.inside = 0

    def __enter__(self) -> None:
        if self.inside >= self.most:
            raise busy(self.what)
        self.inside += 1

    def __exit__(self, *_: object) -> None:
        self.inside -= 1
