"""What a check finds: a level, a stable code, how often, and examples with file and row."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cocoa.images import ArchivedImage, ImageSource
from cocoa.sample import Sample

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")

MOST_EXAMPLES = 12
_ROW = re.compile(r"(.+):\d+(?:, .*)?")
_LONGEST_TEXT = 2000


@dataclass(frozen=True, slots=True)
class Rule:
    """How bad a kind of finding is, what it is called and what to do about it."""

    level: Level
    title: str
    advice: str


RULES: dict[str, Rule] = {
    "POSITIVE_IS_NEGATIVE": Rule(
        "error",
        "The right target is also a hard negative",
        "The loss pushes the right answer away: take it out of the negatives.",
    ),
    "LEAK_QUERY": Rule(
        "error",
        "Queries of the evaluation are in the training data",
        "Take these rows out, or the score of these tasks says nothing.",
    ),
    "TARGET_IS_QUERY": Rule(
        "warning",
        "The target is the query itself",
        "Such a pair is solved without understanding anything: take it out.",
    ),
    "DUPLICATE_PAIR": Rule(
        "warning",
        "Pairs that are there more than once",
        "Keep one of each; a copy only makes its pair come more often, for which a source has a weight.",
    ),
    "SAME_QUERY": Rule(
        "warning",
        "One query with several targets",
        "In one batch each of the targets is a negative of the other pair, although it is right.",
    ),
    "LEAK_PICTURE": Rule(
        "warning",
        "Pictures of the evaluation are in the training data",
        "Harmless if they are asked about other things; otherwise take the rows out.",
    ),
    "NEAR_PICTURE": Rule(
        "warning",
        "Pictures of the evaluation are in the training data, saved anew or resized",
        "Look at the examples; if they are the same pictures, take the rows out.",
    ),
    "LEAK_TEXT": Rule(
        "warning",
        "Texts of the evaluation are in the training data",
        "Take the rows out, unless the texts are labels that both sides must share.",
    ),
    "NEAR_TEXT": Rule(
        "warning",
        "Texts of the evaluation are in the training data, hardly changed",
        "Look at the examples; texts from a template are alike without being copies.",
    ),
    "TEXT_CUT": Rule("warning", "Texts are cut to fit", "Raise max_tokens, or lower max_pixels where pictures crowd."),
    "PICTURE_TARGET": Rule(
        "note",
        "Targets that are pictures, where words of targets are rebuilt",
        "Training leaves them out of this stage: their only words are those of the instruction.",
    ),
    "SHARED_TARGET": Rule(
        "note",
        "One target of many pairs",
        "Equal targets are left out of each other's negatives; where most are equal, few negatives remain.",
    ),
    "STRAY_PLACEHOLDER": Rule(
        "note", "Texts name a picture that the row does not have", "The name is taken out when the row is read."
    ),
    "UNUSED_COLUMN": Rule("note", "Columns that nothing reads", "Drop them, or rename them if they should be read."),
}

_BAD_ROWS: dict[str, Rule] = {
    "E_IMAGE_MISSING": Rule("error", "Pictures that are not there", "Get the files, or take the rows out."),
    "E_IMAGE": Rule("error", "Pictures that do not open", "Get the files again, or take the rows out."),
    "E_DATA_PLACEHOLDER": Rule(
        "error", "Placeholders do not match the pictures", "Name each picture of the row once: <|image_1|>."
    ),
    "E_DATA_TOO_LONG": Rule("error", "Pictures do not fit into a row", "Raise max_tokens or lower max_pixels."),
    "E_RECIPE": Rule("error", "The recipe does not fit its data", "Change the option that is named."),
    "": Rule("error", "Rows that cannot be read", "Mend the rows that are named, or take them out."),
}


@dataclass(frozen=True, slots=True)
class Shown:
    """A sample as an example shows it: its part (`training query`), its place, its text and its pictures."""

    part: str
    where: str
    text: str
    pictures: tuple[ImageSource, ...] = ()

    @classmethod
    def of(cls, sample: Sample, part: str) -> Shown:
        """Returns a sample in its part."""
        return cls(part, sample.where, sample.text[:_LONGEST_TEXT], sample.images)

    @property
    def named_pictures(self) -> dict[str, ImageSource]:
        """The pictures by a name: their place, or for those without one what they belong to."""
        return {
            str(picture)
            if isinstance(picture, str | Path | ArchivedImage)
            else f"{self.where}, {self.part}, {number}": picture
            for number, picture in enumerate(self.pictures, 1)
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns the sample with its pictures' names."""
        return {"part": self.part, "where": self.where, "text": self.text, "pictures": list(self.named_pictures)}


@dataclass(frozen=True, slots=True)
class Example:
    """One place where a finding holds: file and row, what is there, and the samples to be seen side by side."""

    where: str
    message: str
    shown: tuple[Shown, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the example as JSON would hold it."""
        return {"where": self.where, "message": self.message, "samples": [each.to_dict() for each in self.shown]}


@dataclass(frozen=True)
class Finding:
    """One kind of fault: `count` places, how many of each table, in which stages; `detail` says more in a sentence."""

    level: Level
    code: str
    title: str
    advice: str
    count: int
    detail: str
    stages: tuple[str, ...]
    tables: Mapping[str, int] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the finding as JSON would hold it."""
        return {
            **vars(self),
            "stages": list(self.stages),
            "tables": dict(self.tables),
            "examples": [example.to_dict() for example in self.examples],
        }


def find(
    code: str,
    examples: Sequence[Example],
    stages: Sequence[str],
    *,
    detail: str = "",
    level: Level | None = None,
    count: int | None = None,
    tables: Mapping[str, int] | None = None,
) -> list[Finding]:
    """Returns the one finding of a code, or none without examples; without `tables` the examples are counted."""
    if not examples:
        return []
    rule = RULES.get(code) or next(rule for start, rule in _BAD_ROWS.items() if code.startswith(start))
    counted = tables if tables is not None else dict(Counter(table_of(example.where) for example in examples))
    number = len(examples) if count is None else count
    kept = tuple(examples[:MOST_EXAMPLES])
    return [Finding(level or rule.level, code, rule.title, rule.advice, number, detail, tuple(stages), counted, kept)]


def merged(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Returns the findings, worst first; those that differ in nothing but their stages become one."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        content = {**finding.to_dict(), "stages": None}
        groups.setdefault(repr(content), []).append(finding)
    joined = [
        Finding(**{**vars(same[0]), "stages": tuple(dict.fromkeys(stage for each in same for stage in each.stages))})
        for same in groups.values()
    ]
    order = list(RULES)
    # What cannot be read comes first, the rest in the order of the rules.
    return tuple(
        sorted(joined, key=lambda each: (LEVELS.index(each.level), each.code in order and order.index(each.code)))
    )


def table_of(where: str) -> str:
    """Returns the file of a place `file:row`; places without a file are of what is generated."""
    match = _ROW.fullmatch(where)
    return match[1] if match else "generated" if where.startswith("generated") else where
