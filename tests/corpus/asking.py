"""Filters that tests put to every store: payloads that try to break out, and random ones."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from indexing import COLUMNS

PAYLOADS = [
    "'",
    "''",
    "' OR '1'='1",
    "' OR 1=1 --",
    "'; DROP TABLE rows; --",
    "') OR (id IS NOT NULL",
    "' UNION SELECT id FROM rows --",
    "cat' AND 'a'='a",
    "cat'--",
    "cat' /*",
    "\\' OR 1=1 --",
    "\\",
    "\\\\",
    "\\'",
    '"',
    '" OR "1"="1',
    '" || true || "',
    '") || (place >= 0',
    'a "b" \\',
    "owl's",
    "’ OR 1=1",
    "ʼ OR ʼ1ʼ=ʼ1",
    "＇ OR 1=1",
    "%",
    "_",
    "%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%a",
    "c_t",
    "c%",
    "[a-z]*",
    "cat\n' OR 1=1",
    "\r\n",
    "\t",
    "\u2028",
    "\u202e",
    "😀' OR 1=1",
    "NULL",
    "true",
    "column_0",
    "$(touch x)",
    "{{7*7}}",
    "CAST(1 AS INT)",
    "x" * 9000,
]
"""Values of a text column that other parsers have taken for more than a value."""

_TEXTS = st.one_of(
    st.sampled_from(["cat", "dog", "owl's", 'a "b" \\', "", "r1", "text of r1", *PAYLOADS[:34]]),
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8),
)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string": _TEXTS,
    "int": st.one_of(st.integers(1998, 2010), st.integers(-(2**63) + 1, 2**63 - 1)),
    "float": st.one_of(
        st.integers(-5, 40), st.sampled_from([0.333, 1.667, 5.0]), st.floats(allow_nan=False, allow_infinity=False)
    ),
    "bool": st.booleans(),
}
_KNOWN = {"id": "string", "text": "string", **COLUMNS}


def _comparisons(*, contains: bool) -> st.SearchStrategy[dict[str, Any]]:
    def of(column: str) -> st.SearchStrategy[dict[str, Any]]:
        kind = _KNOWN[column]
        ops = ["=", "!="] if kind == "bool" else ["=", "!=", "<", "<=", ">", ">="]
        some = st.lists(_VALUES[kind], min_size=1, max_size=4)
        choices = [
            st.builds(
                lambda op, value: {"column": column, "op": op, "value": value}, st.sampled_from(ops), _VALUES[kind]
            ),
            some.map(lambda values: {"column": column, "op": "in", "value": values}),
            st.just({"column": column, "op": "is_null"}),
        ]
        if kind == "string" and contains:
            parts = _TEXTS.filter(bool)
            choices.append(parts.map(lambda part: {"column": column, "op": "contains", "value": part}))
        return st.one_of(choices)

    return st.sampled_from(sorted(_KNOWN)).flatmap(of)


def filters(*, contains: bool = True) -> st.SearchStrategy[dict[str, Any]]:
    """Returns random filters over the columns of `indexing`."""
    return st.recursive(
        _comparisons(contains=contains),
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"and": parts}),
            st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"or": parts}),
            inner.map(lambda part: {"not": part}),
        ),
        max_leaves=8,
    )
