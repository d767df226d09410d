"""Filters: a typed expression over known columns, read from JSON, and what it means.

`{"and": [F, ...]}`, `{"or": [F, ...]}`, `{"not": F}`, or a comparison `{"column": "price", "op": "<", "value": 3}` with
op one of = != < <= > >= in contains is_null. Nothing of it is ever passed to a store as it came: stores get it
translated from these types. `matches` is what every translation must agree with.

A comparison with a missing value is false, whatever the op; so `not` of it is true. Texts are ordered by code point.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cocoa.errors import UsageError

Value = str | int | float | bool
BUILT_IN = {"id": "string", "text": "string", "image": "string"}
"""Columns that every index has."""
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
"""What a comparison's op does, with values or with a column's expression."""
OPERATORS = (*COMPARISONS, "in", "contains", "is_null")
MAX_DEPTH = 16
MAX_PARTS = 256
MAX_VALUES = 1000
MAX_CHARACTERS = 10_000
_MOST_INTEGER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Compare:
    """`column op value`, for a column of the given type (string, int, float or bool) and a value of that type."""

    column: str
    type: str
    op: str
    value: Value


@dataclass(frozen=True, slots=True)
class OneOf:
    """The column's value is one of these."""

    column: str
    type: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Contains:
    """The column's text contains this one, letter for letter."""

    column: str
    part: str


@dataclass(frozen=True, slots=True)
class IsNull:
    """The column's value is missing."""

    column: str


@dataclass(frozen=True, slots=True)
class Every:
    """All parts hold."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """At least one part holds."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Filter


Filter = Compare | OneOf | Contains | IsNull | Every | Some | Not


def parse_filter(given: Any, columns: Mapping[str, str]) -> Filter:
    """Returns the filter that JSON says, checked against the columns' types (string, int, float or bool).

    `id`, `text` and `image` are always known. Raises `E_USAGE_FILTER`, naming the place, for what is not a filter, for
    an unknown column, an op or value that does not fit its type, and for more than 16 levels, 256 parts, 1000 values
    of an `in`, or 10 000 characters of a text.
    """
    return _Reader({**BUILT_IN, **columns}).read(given, "filter", 1)


def matches(condition: Filter, row: Mapping[str, Any]) -> bool:
    """Returns whether a row, given by column name with None for what is missing, passes."""
    match condition:
        case Every(parts):
            return all(matches(part, row) for part in parts)
        case Some(parts):
            return any(matches(part, row) for part in parts)
        case Not(part):
            return not matches(part, row)
        case IsNull():
            return row[condition.column] is None
    value = row[condition.column]
    if value is None:
        return False
    match condition:
        case Compare(op=op, value=other):
            return bool(COMPARISONS[op](value, other))
        case OneOf(values=values):
            return value in values
        case Contains(part=letters):
            return letters in value


def columns_of(condition: Filter) -> set[str]:
    """Returns the names of the columns that a filter looks at."""
    match condition:
        case Every(parts) | Some(parts):
            return set().union(*(columns_of(part) for part in parts))
        case Not(part):
            return columns_of(part)
    return {condition.column}


class _Reader:
    def __init__(self, columns: Mapping[str, str]) -> None:
        self._columns = columns
        self._parts = 0

    def read(self, given: Any, where: str, depth: int) -> Filter:
        self._parts += 1
        if depth > MAX_DEPTH:
            raise _refused(where, f"nested more than {MAX_DEPTH} deep")
        if self._parts > MAX_PARTS:
            raise _refused(where, f"more than {MAX_PARTS} parts")
        if not isinstance(given, Mapping):
            raise _refused(where, f"a {type(given).__name__} is not a filter; give an object")
        if set(given) in ({"and"}, {"or"}):
            [(name, parts)] = given.items()
            if not isinstance(parts, Sequence) or isinstance(parts, str) or not parts:
                raise _refused(f"{where}.{name}", "give a list of at least one filter")
            read = tuple(self.read(part, f"{where}.{name}[{place}]", depth + 1) for place, part in enumerate(parts))
            return Every(read) if name == "and" else Some(read)
        if set(given) == {"not"}:
            return Not(self.read(given["not"], f"{where}.not", depth + 1))
        return self._comparison(given, where)

    def _comparison(self, given: Mapping[str, Any], where: str) -> Filter:
        column, op = given.get("column"), given.get("op")
        if not isinstance(op, str) or op not in OPERATORS:
            raise _refused(where, f"give and, or, not, or a column with an op of {' '.join(OPERATORS)}")
        if not isinstance(column, str) or column not in self._columns:
            raise _refused(f"{where}.column", f"no such column; known: {', '.join(sorted(self._columns))}")
        wanted = {"column", "op"} if op == "is_null" else {"column", "op", "value"}
        if set(given) != wanted:
            raise _refused(where, f"{op} takes exactly the keys {', '.join(sorted(wanted))}")
        kind, place = self._columns[column], f"{where}.value"
        if op == "is_null":
            return IsNull(column)
        if op == "in":
            values = given["value"]
            if not isinstance(values, list | tuple) or not 1 <= len(values) <= MAX_VALUES:
                raise _refused(place, f"in takes a list of 1 to {MAX_VALUES} values")
            return OneOf(column, kind, tuple(_value(value, kind, place) for value in values))
        value = _value(given["value"], kind, place)
        if op == "contains":
            if not isinstance(value, str) or not value:
                raise _refused(where, f"contains takes a text column and a text that is not empty; {column} is {kind}")
            return Contains(column, value)
        if kind == "bool" and op not in ("=", "!="):
            raise _refused(where, f"{column} is true or false; use = or !=")
        return Compare(column, kind, op, value)


def _value(value: Any, kind: str, where: str) -> Value:
    """Returns a value in the column's own type; nothing but a whole number for a float column is turned."""
    if kind == "string" and isinstance(value, str):
        if len(value) > MAX_CHARACTERS:
            raise _refused(where, f"a text of more than {MAX_CHARACTERS} characters")
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise _refused(where, "the text holds NUL or half a surrogate pair, which no filter asks for")
        return value
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind in ("int", "float") and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > _MOST_INTEGER:
            raise _refused(where, "a number is at most 2^63 - 1, below zero too")
        return value if kind == "int" else float(value) + 0.0
    if kind == "float" and isinstance(value, float) and math.isfinite(value):
        return value + 0.0  # -0.0 becomes 0.0, as in the rows
    shown = {"string": "a text", "int": "a whole number", "float": "a finite number", "bool": "true or false"}[kind]
    raise _refused(where, f"the column takes {shown}")


def _refused(where: str, what: str) -> UsageError:
    return UsageError("E_USAGE_FILTER", what, where=where)
