"""What is wrong with options, in the words of those who wrote them: recipes, studies, settings of a server."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from cocoa.data.sources import Source
from cocoa.objectives import ObjectiveOptions


def explained(error: ValidationError, root: type[BaseModel]) -> Iterator[str]:
    """Yields what is wrong with each option of a kind, by the words that people wrote and not the library's."""
    problems = error.errors()
    for problem in problems:
        # A list whose items are wrong is also reported as too short, which would only distract.
        inner = [other for other in problems if other["loc"][: len(problem["loc"])] == problem["loc"]]
        if problem["type"] == "too_short" and len(inner) > 1:
            continue
        loc = [part for part in problem["loc"] if part not in _KINDS]
        place = ".".join(str(part) for part in loc) or root.__name__.lower()
        if problem["type"] == "extra_forbidden":
            yield f"{place}: unknown option{closest(str(loc[-1]), sorted(_known_keys(root, problem['loc'][:-1])))}"
        elif problem["type"] == "missing":
            yield f"{place}: is missing"
        elif problem["type"] == "too_short":
            yield f"{place}: needs at least {problem['ctx']['min_length']}, has {problem['ctx']['actual_length']}"
        elif problem["type"] == "union_tag_not_found":
            yield f"{place}.kind: is missing"
        elif problem["type"] == "union_tag_invalid":
            tag, known = problem["ctx"]["tag"], _QUOTED.findall(problem["ctx"]["expected_tags"])
            yield f"{place}.kind: unknown {tag!r}{closest(tag, known)}"
        elif problem["type"] == "literal_error" and isinstance(problem["input"], str):
            yield f"{place}: unknown {problem['input']!r}{closest(problem['input'], _QUOTED.findall(problem['msg']))}"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            value = problem["input"]
            shown = "" if isinstance(value, dict | list) else f" (got {value!r})"
            yield f"{place}: {message[0].lower()}{message[1:]}{shown}"


def closest(key: str, known: Sequence[str]) -> str:
    """Returns the end of an error that says which word was meant, or which there are."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _known_keys(root: type[BaseModel], loc: Sequence[int | str]) -> set[str]:
    models: list[type[BaseModel]] = [root]
    for part in loc:
        if isinstance(part, str) and part in _KINDS:
            models = [model for model in models if model.model_fields["kind"].default == part]
        elif isinstance(part, str):
            fields = [model.model_fields[part] for model in models if part in model.model_fields]
            models = [inner for field in fields for inner in _models(field.annotation)]
    return {name for model in models for name in model.model_fields}


_QUOTED = re.compile("'([^']*)'")
_KINDS = {model.model_fields["kind"].default for model in [*_models(ObjectiveOptions), *_models(Source)]}
