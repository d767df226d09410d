"""Why a text that a model wrote is not worth learning from: one reason in a word, or none."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from cocoa.synthesis.prompts import Words

REASONS = (
    "empty",
    "cut",
    "refusal",
    "control_token",
    "repetition",
    "echo",
    "too_short",
    "too_long",
    "not_a_question",
    "duplicate",
    "too_many",
    "duplicate_image",
)
"""Every reason for which something is dropped."""

# A character of a script that is written without spaces counts as a word.
_WORD = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]|[^\W_]+(?:['’][^\W_]+)*")

_REFUSAL = re.compile(
    r"""
    ^\W*(?:(?:i['’]?m|i\ am|we['’]?re)\ (?:very\ |really\ )?(?:sorry|afraid|unable|not\ able)|sorry\b|apologies\b
      |i\ apologi[sz]e|as\ an?\ (?:ai|artificial|language|large|text)\b
      |unfortunately\b.{0,40}?\b(?:i|can(?:not|['’]t)|unable)\b
      |(?:i|we)\ (?:can(?:not|\ not|['’]t)|could\ not|couldn['’]t|do\ not|don['’]t)\b)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_UNANSWERED = re.compile(
    r"""
    \b(?:can(?:not|\ not|['’]t)|unable\ to|impossible\ to|not\ possible\ to)\s
      (?:(?:be\ )?(?:determined?|answer(?:ed)?|known)\b|assist\b|tell\b
        |(?:view|process|see)\ (?:the|any|this)\ (?:image|picture|photo))
    |\bno\ (?:image|picture|photo)\ (?:was|is|has\ been)\ (?:provided|attached|visible|given)\b
    |\bnot\ (?:enough|sufficient)\ information\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_LONGEST_UNANSWERED = 40
_CONTROL = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?(?:think|image|img|s)>")

_ROUNDS = 4
_LONGEST_ROUND = 40
_FEWEST_LOOPED = 8
_LONG = 60
_RUN = 4


def words(text: str) -> list[str]:
    """Returns the words of a text in small letters."""
    return [word.casefold() for word in _WORD.findall(text)]


_ASKS_WHAT = frozenset(words("what which who whom whose where when why how"))
_LIGHT = _ASKS_WHAT | frozenset(
    words(
        "a an the is are was were be been being do does did has have had of in on at to for from by with and it its "
        "this that these those there here picture image photo"
    )
)


def fault(text: str, length: Words, *, finish: str = "stop", question: str = "") -> str:
    """Returns the reason to drop a text, the first of `REASONS` that holds, or ''.

    `length` is the fewest and most words, `finish` why the model ended, `question` what the text answers, if anything.
    """
    found = words(text)
    checks = {
        "empty": not found and finish != "refused",
        "cut": finish == "length",
        "refusal": finish == "refused" or is_refusal(text),
        "control_token": _CONTROL.search(text) is not None,
        "repetition": is_repetition(found),
        "echo": bool(question) and is_echo(found, words(question), chooses=" or " in question.casefold()),
        "too_short": len(found) < length[0],
        "too_long": len(found) > length[1],
    }
    return next((reason for reason, holds in checks.items() if holds), "")


def is_refusal(text: str) -> bool:
    """Returns whether a text begins by declining, or is short and says that there is no telling (English)."""
    # A long caption may well say of one thing in it that its name cannot be read.
    is_short = len(words(text)) <= _LONGEST_UNANSWERED
    return _REFUSAL.search(text) is not None or (is_short and _UNANSWERED.search(text) is not None)


def is_repetition(found: list[str]) -> bool:
    """Returns whether words go round: the same 1 to 40 words four times over, or mostly the same runs of four."""
    for size in range(1, min(_LONGEST_ROUND, len(found) // _ROUNDS) + 1):
        needed = max((_ROUNDS - 1) * size, _FEWEST_LOOPED - size)
        run = 0
        for word, earlier in zip(found[size:], found, strict=False):
            run = run + 1 if word == earlier else 0
            if run >= needed:
                return True
    runs = [tuple(found[start : start + _RUN]) for start in range(len(found) - _RUN + 1)]
    return len(found) >= _LONG and len(set(runs)) < len(runs) / 2


def is_echo(answer: list[str], question: list[str], *, chooses: bool) -> bool:
    """Returns whether an answer only says its question again.

    That is, the same words in nearly the same order; or, for "what", "where" and the like (but not "red or blue?"),
    two or more weighty words and all of them from the question: "The colour of the cat."
    """
    if SequenceMatcher(None, answer, question, autojunk=False).ratio() >= 0.9:
        return True
    weighty = set(answer) - _LIGHT
    asks_what = bool(question) and question[0] in _ASKS_WHAT and not chooses
    return asks_what and len(weighty) >= 2 and weighty <= set(question)
