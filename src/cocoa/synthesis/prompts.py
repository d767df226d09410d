"""What a model is asked, as data: a prompt file, and the lengths that a good answer to it has."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from cocoa.errors import RecipeError, UsageError
from cocoa.plain_yaml import parse_yaml
from cocoa.sample import IMAGE_PLACEHOLDER

Kind = Literal["captions", "questions"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Words = tuple[int, int]
"""The fewest and the most words."""

_OF_WRITTEN_QUESTIONS = ("question_words", "most_questions")
_OF_QUESTIONS = ("questions", "answer", "query", *_OF_WRITTEN_QUESTIONS)


@dataclass(frozen=True, slots=True)
class Prompts:
    """The words of one prompt file; `name` and `sha256` are the file's.

    `system` opens each conversation, if it is not empty. `ask` asks for a caption, or for questions, one a line; a
    list of `questions` is asked of every picture instead, whole and as it stands. `answer` asks a question, `query` is
    how it stands in the table; both hold `{question}`. A text outside `text_words` is dropped, and of the questions
    that a model writes those outside `question_words` and all after `most_questions`.
    """

    name: str
    sha256: str
    kind: Kind
    ask: str = ""
    system: str = ""
    questions: tuple[str, ...] = ()
    answer: str = "{question}"
    query: str = IMAGE_PLACEHOLDER + "\n{question}\n"
    most_questions: int = 5
    question_words: Words = (1, 60)
    text_words: Words = (1, 400)


def load_prompts(name: str) -> Prompts:
    """Returns the prompts of a file that ships here (`captions`, `questions`, ...) or of a path ending in .yaml.

    Raises:
        UsageError: E_USAGE_PROMPTS if there is no such file.
        RecipeError: E_RECIPE_PROMPTS for wrong content, naming the key; also for one that would do nothing.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        shipped = files("cocoa") / "assets" / "prompts"
        known = sorted(entry.name.removesuffix(".yaml") for entry in shipped.iterdir() if entry.name.endswith(".yaml"))
        if name not in known:
            what = f"no prompts named {name!r}; there are {', '.join(known)}, or give a .yaml file"
            raise UsageError("E_USAGE_PROMPTS", what)
        return _parse(name, (shipped / f"{name}.yaml").read_bytes(), f"prompts {name}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError("E_USAGE_PROMPTS", "the prompt file cannot be read", where=name) from error
    return _parse(path.stem, content, name)


def _parse(name: str, content: bytes, where: str) -> Prompts:
    def wrong(what: str) -> RecipeError:
        return RecipeError("E_RECIPE_PROMPTS", what, where=where)

    try:
        given = parse_yaml(content.decode())
    except UnicodeDecodeError as error:
        raise wrong("the file is not UTF-8") from error
    except RecipeError as error:
        raise wrong(f"the file is {error.message}") from error
    if not isinstance(given, dict) or given.get("kind") not in KINDS:
        raise wrong(f"the file needs `kind`, one of {', '.join(KINDS)}")
    keys = [field.name for field in fields(Prompts)][2:]
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in keys:
            raise wrong(f"unknown key {key!r}; there are {', '.join(keys)}")
        values[key] = _read(key, value, wrong)
    prompts = Prompts(name, hashlib.sha256(content).hexdigest(), **values)
    for key in ("answer", "query"):
        if "{question}" not in getattr(prompts, key):
            raise wrong(f"{key!r} must hold {{question}}")
    if prompts.kind == "questions" and bool(prompts.ask) == bool(prompts.questions):
        raise wrong("questions need either `ask` (the model writes them) or a list of `questions`")
    idle = _OF_QUESTIONS if prompts.kind == "captions" else _OF_WRITTEN_QUESTIONS if prompts.questions else ()
    if named := [repr(key) for key in idle if key in values]:
        of = "captions" if prompts.kind == "captions" else "a list of questions, which is asked whole"
        raise wrong(f"without effect for {of}: {', '.join(named)}")
    return prompts


def _read(key: str, value: Any, wrong: Any) -> Any:
    """One value in its type."""
    if key in ("question_words", "text_words"):
        if not (isinstance(value, list) and [type(number) for number in value] == [int, int] and value[0] <= value[1]):
            raise wrong(f"{key!r} must be [fewest, most]")
        return tuple(value)
    if key == "questions":
        if not (isinstance(value, list) and all(isinstance(item, str) and item.strip() for item in value)):
            raise wrong("'questions' must be a list of texts")
        return tuple(value)
    if key == "most_questions":
        if type(value) is not int or value < 1:
            raise wrong("'most_questions' must be a number from 1")
        return value
    if not isinstance(value, str):
        raise wrong(f"{key!r} must be a text")
    return value
