"""One odd thing that people send, by mistake or on purpose, and what must come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["image", "reference", "row", "geometry", "text", "json", "table"]


@dataclass(frozen=True, slots=True)
class BadInput:
    """One odd thing to send, and what must come of it.

    `code` is the code of the error, or its beginning where the library and the server may differ in the end of it;
    None: it is accepted. `or_accepted`: taking it is right too (a text may be cut where it may be refused).
    `statuses` are what HTTP may answer to a refused body, `content_type` what comes with it.
    """

    name: str
    kind: Kind
    make: Callable[[Path], Any]
    code: str | None = None
    same_as: Callable[[Path], Any] | None = None
    or_accepted: bool = False
    statuses: tuple[int, ...] = (400, 413, 422)
    content_type: str = "application/json"

    def __str__(self) -> str:
        return f"{self.kind}-{self.name}"

    def is_right(self, code: str | None) -> bool:
        """Returns whether this is what must come of it: the code of an error, or None for no error."""
        if code is None:
            return self.code is None or self.or_accepted
        return self.code is not None and code.startswith(self.code)
