"""Pictures at which an endpoint went down: they are asked about last and alone, and set aside after a few tries."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from cocoa.files import write_file
from cocoa.synthesis.chats import EndpointError

MOST_TRIES = 2
"""Times that an endpoint may break off while a picture is all that it is asked about."""


class SetAsideError(EndpointError):
    """A picture is not asked about any more, for the endpoint has broken off at it each time (`E_ENDPOINT_DROPPED`)."""


class Suspects:
    """The pictures that were waiting for a reply when a job ended for want of any, each with its tries; kept in a file.

    Which of them the endpoint goes down at, if it is any of them, shows when each is asked about alone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.tries: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}

    def __contains__(self, picture: object) -> bool:
        return picture in self.tries

    def add(self, pictures: Iterable[str]) -> None:
        """Notes pictures; those that are known keep their tries."""
        self.tries = {**dict.fromkeys(sorted(pictures), 0), **self.tries}
        self._write()

    def blame(self, picture: str) -> None:
        """Counts a try of a picture: the endpoint was there, and broke off when it was asked about this one alone."""
        self.tries[picture] += 1
        self._write()

    def check(self, picture: str) -> None:
        """Raises `SetAsideError` for a picture that has had its tries."""
        if (tries := self.tries.get(picture, 0)) >= MOST_TRIES:
            what = f"the endpoint broke off each of {tries} times that it was asked about this picture alone"
            raise SetAsideError("E_ENDPOINT_DROPPED", f"{what}; --retry-bad asks again")

    def clear(self) -> None:
        """Forgets all of them."""
        self.tries = {}
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        write_file(self._path, json.dumps(self.tries, indent=1) + "\n")
