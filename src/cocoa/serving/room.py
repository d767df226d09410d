"""Room for the bytes that requests bring and name: one bound over all that are under way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cocoa.serving.problems import busy

Take = Callable[[int], None]
"""Takes up room for so many bytes. Raises `E_SERVER_BUSY` where there is none."""


class Room:
    """Room for `most` bytes."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0

    @contextmanager
    def share(self) -> Iterator[Take]:
        """Yields what takes up room for one request; all of it is given back at the end."""
        taken = 0

        def take(num_bytes: int) -> None:
            nonlocal taken
            if self.held + num_bytes > self.most:
                raise busy("bytes of bodies and pictures")
            self.held += num_bytes
            taken += num_bytes

        try:
            yield take
        finally:
            self.held -= taken
