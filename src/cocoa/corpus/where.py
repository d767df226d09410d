"""The small language of `--where`: `price < 3 and (kind = "cat" or not year is null)`, read into a filter's JSON."""

from __future__ import annotations

import json
import re
from typing import Any

from cocoa.corpus.filters import COMPARISONS, MAX_DEPTH
from cocoa.errors import UsageError

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<text>"(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*')
    | (?P<quoted>`[^`]+`)
    | (?P<number>-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![\w.]))
    | (?P<op><=|>=|!=|=|<|>)
    | (?P<mark>[(),])
    | (?P<word>[^\W\d]\w*)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_MAX_LETTERS = 100_000


def read_where(text: str) -> Any:
    """Returns the JSON of a filter that a person typed: JSON as it is, or the small language.

    Comparisons are `column op value` with = != < <= > >=, `column in (a, b)`, `column contains "text"`, and `column is
    null` or `is not null`; they are joined by and, or, not and parentheses, and binds tighter than or. A column whose
    name is no plain word stands in backticks; `\\` takes the next letter of a text as it is. Raises `E_USAGE_FILTER`.
    """
    if len(text) > _MAX_LETTERS:
        raise UsageError("E_USAGE_FILTER", f"more than {_MAX_LETTERS} characters", where="--where")
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError("E_USAGE_FILTER", f"not JSON: {error}", where="--where") from error
    reader = _Reader(_tokens(text))
    condition = reader.either(0)
    reader.end()
    return condition


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, place = [], 0
    text = text.rstrip()
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None or found.lastgroup is None:
            raise _refused(f"cannot read {text[place : place + 20]!r}")
        tokens.append((found.lastgroup, found[found.lastgroup]))
        place = found.end()
    return tokens


class _Reader:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._place = 0

    def either(self, depth: int) -> Any:
        parts = [self._both(depth)]
        while self._taken("or"):
            parts.append(self._both(depth))
        return parts[0] if len(parts) == 1 else {"or": parts}

    def end(self) -> None:
        if self._place < len(self._tokens):
            raise _refused(f"did not expect {self._tokens[self._place][1]!r}")

    def _both(self, depth: int) -> Any:
        parts = [self._one(depth)]
        while self._taken("and"):
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else {"and": parts}

    def _one(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _refused(f"nested more than {MAX_DEPTH} deep")
        if self._taken("not"):
            return {"not": self._one(depth + 1)}
        if self._taken("("):
            inner = self.either(depth + 1)
            self._expect(")")
            return inner
        return self._comparison()

    def _comparison(self) -> Any:
        kind, column = self._next()
        if kind not in ("word", "quoted"):
            raise _refused(f"expected a column, not {column!r}")
        column = column.strip("`")
        if self._taken("is"):
            negated = self._taken("not")
            self._expect("null")
            condition = {"column": column, "op": "is_null"}
            return {"not": condition} if negated else condition
        if self._taken("in"):
            self._expect("(")
            values = [self._value()]
            while self._taken(","):
                values.append(self._value())
            self._expect(")")
            return {"column": column, "op": "in", "value": values}
        if self._taken("contains"):
            return {"column": column, "op": "contains", "value": self._value()}
        kind, op = self._next()
        if op not in COMPARISONS:
            raise _refused(f"expected an operator after {column}, not {op!r}")
        return {"column": column, "op": op, "value": self._value()}

    def _value(self) -> Any:
        kind, token = self._next()
        if kind == "text":
            return _ESCAPE.sub(r"\1", token[1:-1])
        if kind == "number":
            if re.match(r"-?0\d", token):
                return self._unread(token)
            try:
                return json.loads(token)
            except ValueError as error:
                raise _refused(f"cannot read a number of {len(token):,} digits") from error
        if kind == "word" and token.lower() in ("true", "false"):
            return token.lower() == "true"
        return self._unread(token)

    def _unread(self, token: str) -> Any:
        raise _refused(f'expected a value, not {token}; a text stands in quotes: "{token}"')

    def _next(self) -> tuple[str, str]:
        if self._place == len(self._tokens):
            raise _refused("it ends too early")
        self._place += 1
        return self._tokens[self._place - 1]

    def _taken(self, word: str) -> bool:
        if self._place < len(self._tokens):
            kind, token = self._tokens[self._place]
            if kind in ("word", "mark") and token.lower() == word:
                self._place += 1
                return True
        return False

    def _expect(self, word: str) -> None:
        if not self._taken(word):
            raise _refused(f"expected {word!r}")


def _refused(what: str) -> UsageError:
    return UsageError("E_USAGE_FILTER", what, where="--where")
