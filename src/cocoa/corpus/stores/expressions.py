"""Filters in the words of the stores: only field names of ours and escaped literals, never a string as it was given.

All agree with `filters.matches`: a comparison with a missing value is false, and `not` of that is true.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from cocoa.corpus.filters import (
    BUILT_IN,
    COMPARISONS,
    Compare,
    Contains,
    Every,
    Filter,
    IsNull,
    Not,
    OneOf,
    Some,
    Value,
)
from cocoa.errors import IndexingError

_SQL = {"=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_MILVUS = {"=": "==", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


def to_sql(condition: Filter, fields: Mapping[str, str]) -> str:
    """Returns a filter as Lance's SQL; `fields` has each column's name in the store."""
    match condition:
        case Every(parts):
            return f"({' AND '.join(to_sql(part, fields) for part in parts)})"
        case Some(parts):
            return f"({' OR '.join(to_sql(part, fields) for part in parts)})"
        case Not(part):
            return f"(NOT {to_sql(part, fields)})"
        case IsNull(column):
            return f"({fields[column]} IS NULL)"
        case Compare(column, _, op, value):
            said = f"{fields[column]} {_SQL[op]} {_sql_literal(value)}"
        case OneOf(column, _, values):
            said = f"{fields[column]} IN ({', '.join(map(_sql_literal, values))})"
        case Contains(column, part):
            said = f"contains({fields[column]}, {_sql_literal(part)})"
    # Without the first half a missing value would be neither true nor false, and stay so under NOT.
    return f"({fields[condition.column]} IS NOT NULL AND {said})"


def _sql_literal(value: Value) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return f"CAST('{value!r}' AS DOUBLE)"
    return "'" + value.replace("'", "''") + "'"


def to_arrow(condition: Filter, fields: Mapping[str, str], schema: pa.Schema) -> pc.Expression:
    """Returns a filter as an expression over tables of a schema."""
    match condition:
        case Every(parts):
            return functools.reduce(operator.and_, [to_arrow(part, fields, schema) for part in parts])
        case Some(parts):
            return functools.reduce(operator.or_, [to_arrow(part, fields, schema) for part in parts])
        case Not(part):
            return ~to_arrow(part, fields, schema)
    name = fields[condition.column]
    field, kind = pc.field(name), schema.field(name).type
    match condition:
        case IsNull():
            return field.is_null()
        case Compare(_, _, op, value):
            said = COMPARISONS[op](field, pa.scalar(value, kind))
        case OneOf(_, _, values):
            said = field.isin(pa.array(values, kind))
        case Contains(_, letters):
            said = pc.match_substring(field, letters)
    # As in SQL: a missing value would be neither true nor false.
    return field.is_valid() & said


def to_milvus(condition: Filter, fields: Mapping[str, str], *, can_contain: bool) -> str:
    """Returns a filter as a Milvus expression; beside each kept column stands a flag that its value is missing.

    Raises `E_INDEX_FILTER` for `contains` if the server is too old for it.
    """
    match condition:
        case Every(parts):
            return "(" + " && ".join(to_milvus(part, fields, can_contain=can_contain) for part in parts) + ")"
        case Some(parts):
            return "(" + " || ".join(to_milvus(part, fields, can_contain=can_contain) for part in parts) + ")"
        case Not(part):
            return f"(not {to_milvus(part, fields, can_contain=can_contain)})"
        case IsNull(column):
            # The built-in columns have a value in every row, and no flag.
            return f"({missing(fields[column])} == true)" if column not in BUILT_IN else "(place < 0)"
        case Compare(column, _, op, value):
            said = f"{fields[column]} {_MILVUS[op]} {_milvus_literal(value)}"
        case OneOf(column, _, values):
            said = f"{fields[column]} in [{', '.join(map(_milvus_literal, values))}]"
        case Contains(column, part):
            if not can_contain:
                what = "contains needs Milvus 2.5 or newer; this server compares whole texts only"
                raise IndexingError("E_INDEX_FILTER", what)
            said = f"{fields[column]} like {_milvus_literal('%' + _like(part) + '%')}"
    field = fields[condition.column]
    return f"({said})" if condition.column in BUILT_IN else f"({missing(field)} == false && {said})"


def missing(field: str) -> str:
    """Returns the name of the flag beside a field of Milvus."""
    return f"{field}_missing"


def _like(part: str) -> str:
    return part.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _milvus_literal(value: Value) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
    # Every letter outside plain ASCII is escaped, so that no parser's idea of quotes or line ends matters.
    return '"' + "".join(_milvus_letter(letter) for letter in value) + '"'


def _milvus_letter(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    if " " <= letter <= "~":
        return letter
    return f"\\u{ord(letter):04x}" if ord(letter) <= 0xFFFF else f"\\U{ord(letter):08x}"
