"""A document: a thing to embed under a name of its own, with what a result shows of it; and one that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cocoa.data.bad_rows import BadRow
from cocoa.errors import CocoaError
from cocoa.sample import Sample

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Document:
    """A thing to embed, under a name of its own.

    `text`, `image` (the place of the picture: a path, or `archive!member`) and `columns` are what a result shows of it.
    """

    id: str
    sample: Sample
    text: str = ""
    image: str = ""
    columns: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BadDocument:
    """A row that cannot be embedded: its id, as far as it is known, and why; the error says where it stands."""

    id: str
    error: CocoaError

    def to_json(self) -> dict[str, Any]:
        """Returns the keys `where`, `id`, `code` and `message`."""
        row = BadRow.of(self.error, self.error.where)
        return {"where": row.where, "id": self.id, "code": row.code, "message": row.message}
