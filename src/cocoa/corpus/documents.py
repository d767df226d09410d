"""A document: a thing to embed under a name of its own, with what a result shows of it; and one that cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cocoa.corpus.sources.source import LONGEST_ROW, Raw, kind_of
from cocoa.data.bad_rows import BadRow
from cocoa.errors import CocoaError, DataError
from cocoa.images import ImageSource
from cocoa.sample import Sample

LONGEST_ID = 1024
"""Bytes."""

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


@dataclass(frozen=True)
class Reading:
    """How rows become documents: whether they have ids, the columns kept, and where pictures are looked for.

    `prefix` goes before the numbers that stand for ids, where several files have the same numbers.
    """

    named: bool
    prefix: str
    columns: Mapping[str, str]
    find: Callable[[str], ImageSource]

    def document(self, raw: Raw, first: str | None = None) -> Document | BadDocument:
        """Returns what a row says; `first` is where its id stood before, if it did."""
        known = "" if self.named else f"{self.prefix}{raw.number}"
        try:
            if raw.error is not None and not raw.fields:  # Nothing could be read, the id neither.
                raise raw.error
            if self.named:
                known = row_id(raw.fields.get("id"))
            if first is not None:
                raise DataError("E_DATA_ID", f"the id {known[:100]!r} stands in {first} too")
            if raw.error is not None:
                raise raw.error
            return self._document(raw, known)
        except CocoaError as error:
            return BadDocument(known, error if error.where else error.at(raw.where))

    def _document(self, raw: Raw, known: str) -> Document:
        text = _text(raw.fields.get("text"), "text")
        columns = {name: _scalar(name, kind, raw.fields.get(name)) for name, kind in self.columns.items()}
        size = len(text.encode()) + sum(len(value.encode()) for value in columns.values() if isinstance(value, str))
        if size > LONGEST_ROW:
            raise DataError("E_DATA_TOO_LONG", f"text and columns have {size} bytes, more than {LONGEST_ROW}")
        image, place = self._picture(raw)
        if not text and image is None:
            raise DataError("E_DATA_EMPTY", "row has neither text nor image")
        return Document(known, Sample(text, () if image is None else (image,), raw.where), text, place, columns)

    def _picture(self, raw: Raw) -> tuple[ImageSource | None, str]:
        value = raw.fields.get("image")
        if isinstance(value, Mapping) and set(value) == {"bytes", "path"}:
            value = value["bytes"] if value["bytes"] is not None else _text(value["path"], "picture's path")
        if value is None or value == "":
            return None, ""
        if isinstance(value, bytes | Path):
            return value, _text(raw.place, "picture's path")
        source = self.find(_text(value, "image"))
        return source, _text(str(source), "picture's path")


def row_id(value: Any) -> str:
    """Returns the id that a row gives; whole numbers are told in digits. Raises `E_DATA_ID` for what is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if -(2**63) <= value < 2**64 else None
    if not isinstance(value, str) or not value:
        kind = "empty" if value == "" else "missing" if value is None else f"a {type(value).__name__}"
        raise DataError("E_DATA_ID", f"the id is {kind}: give every row a string or a whole number of its own")
    if "\0" in value:
        raise DataError("E_DATA_ID", f"the id {value[:20]!r} holds NUL, which no index takes")
    if len(value) > LONGEST_ID or len(_utf8(value, "id", "E_DATA_ID")) > LONGEST_ID:
        raise DataError("E_DATA_ID", f"the id {value[:20]!r}... is longer than {LONGEST_ID} bytes")
    return value


def _text(value: Any, name: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        raise DataError("E_DATA_TEXT", f"the {name} is not UTF-8")
    if not isinstance(value, str):
        raise DataError("E_DATA_TYPE", f"the {name} is a {type(value).__name__}, not a string")
    if len(value) > LONGEST_ROW:
        raise DataError("E_DATA_TOO_LONG", f"the {name} has {len(value)} letters, a row at most {LONGEST_ROW} bytes")
    _utf8(value, name, "E_DATA_TEXT")
    return value


def _scalar(name: str, kind: str, value: Any) -> Scalar:
    if value is None:
        return None
    found = kind_of(value)
    if kind == "float" and found == "int":
        return float(value)
    if found != kind:
        raise DataError("E_DATA_TYPE", f"column {name!r} holds {kind} elsewhere, here a {type(value).__name__}")
    if isinstance(value, str):
        _utf8(value, name, "E_DATA_TEXT")
    scalar: Scalar = value
    return scalar


def _utf8(value: str, name: str, code: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise DataError(code, f"the {name} has half of a surrogate pair, which no text can have") from error
