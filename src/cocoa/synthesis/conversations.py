"""What is said about one picture: a caption, or questions and then their answers; and what is kept of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from cocoa.data.bad_rows import BadRow
from cocoa.errors import CocoaError, ImageError
from cocoa.synthesis.chats import EndpointError, EndpointRefusedError, Reply
from cocoa.synthesis.filters import fault, words
from cocoa.synthesis.prompts import Prompts

Ask = Callable[[tuple[str, ...]], Reply]
"""Gives the reply to a conversation about the picture."""

_BULLET = re.compile(r"^\s*(?:[-*•–]|\(?(?:Q|Question)?\s*\d{1,2}\s*[.):]|Q\s*:)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Row:
    """A text to learn, the question that it answers ('' for a caption), the question's number and who wrote it."""

    text: str
    question: str
    turn: int
    host: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """What a filter took out, and why (one of `REASONS`)."""

    picture: str
    reason: str
    question: str
    text: str

    def to_json(self) -> dict[str, str]:
        """Returns the four fields."""
        return asdict(self)


@dataclass(slots=True)
class Outcome:
    """All that came of one picture; `failure` is the last question without a reply."""

    picture: str
    rows: list[Row] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    failure: EndpointError | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns what a shard keeps."""
        return {
            "picture": self.picture,
            "rows": [asdict(row) for row in self.rows],
            "dropped": [asdict(item) for item in self.dropped],
            "bad": [row.to_json() for row in self.bad],
        }

    @classmethod
    def of(cls, content: dict[str, Any]) -> Outcome:
        """Returns the outcome that `to_json` wrote."""
        return cls(
            content["picture"],
            [Row(**row) for row in content["rows"]],
            [Dropped(**item) for item in content["dropped"]],
            [BadRow(**row) for row in content["bad"]],
        )


def talk(picture: str, prompts: Prompts, ask: Ask) -> Outcome:
    """Returns what came of asking about a picture; raises `EndpointRefusedError` and what is no `CocoaError`."""
    outcome = Outcome(picture)
    try:
        if prompts.kind == "captions":
            _describe(outcome, prompts, ask)
        else:
            _question(outcome, prompts, ask)
    except (EndpointError, ImageError) as error:
        _fail(outcome, error, picture)
    return outcome


def _fail(outcome: Outcome, error: CocoaError, where: str) -> None:
    if isinstance(error, EndpointRefusedError):
        raise error
    if isinstance(error, EndpointError):
        outcome.failure = error
    outcome.bad.append(BadRow.of(error, where))


def _describe(outcome: Outcome, prompts: Prompts, ask: Ask) -> None:
    reply = ask((prompts.ask,))
    if reason := fault(reply.text, prompts.text_words, finish=reply.finish):
        outcome.dropped.append(Dropped(outcome.picture, reason, "", reply.text))
    else:
        outcome.rows.append(Row(reply.text, "", 0, reply.host))


def _question(outcome: Outcome, prompts: Prompts, ask: Ask) -> None:
    history: tuple[str, ...] = ()
    for number, question in enumerate(_questions(outcome, prompts, ask), 1):
        turn = prompts.answer.replace("{question}", question)
        try:
            reply = ask((*history, turn))
        except EndpointError as error:
            _fail(outcome, error, f"{outcome.picture}, question {number}")
            continue
        if reason := fault(reply.text, prompts.text_words, finish=reply.finish, question=question):
            # It does not stay in the conversation either: a model goes on as it began.
            outcome.dropped.append(Dropped(outcome.picture, reason, question, reply.text))
            continue
        outcome.rows.append(Row(reply.text, question, number, reply.host))
        history = (*history, turn, reply.text)


def _questions(outcome: Outcome, prompts: Prompts, ask: Ask) -> list[str]:
    """The questions to ask: those of the prompts, or the good ones of those that the model writes."""
    if prompts.questions:
        return list(prompts.questions)
    reply = ask((prompts.ask,))
    lines = _lines(reply.text)
    if reply.finish == "refused" or not lines:
        reason = "refusal" if reply.finish == "refused" else "empty"
        outcome.dropped.append(Dropped(outcome.picture, reason, "", reply.text))
        return []
    kept: list[str] = []
    for number, line in enumerate(lines, 1):
        # A list that was cut short has whole lines before its last.
        finish = reply.finish if number == len(lines) else "stop"
        if reason := _question_fault(line, kept, prompts, finish):
            outcome.dropped.append(Dropped(outcome.picture, reason, line, ""))
        else:
            kept.append(line)
    return kept


def _question_fault(line: str, kept: list[str], prompts: Prompts, finish: str) -> str:
    """The reason not to ask a question, or ''."""
    if reason := fault(line, prompts.question_words, finish=finish):
        return reason
    if not line.endswith(("?", "？")):
        return "not_a_question"
    if words(line) in [words(other) for other in kept]:
        return "duplicate"
    return "too_many" if len(kept) == prompts.most_questions else ""


def _lines(text: str) -> list[str]:
    """The lines with something in them, without bullets, numbers, bold marks and quotes around them."""
    bare = (line.replace("**", "").strip() for line in text.splitlines())
    return [_BULLET.sub("", line).strip().strip('"“”').strip() for line in bare if line]
