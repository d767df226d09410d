"""MMEB-V1 as data: its 36 tasks with their prompts, and the named repairs of their texts; the table is a YAML file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Annotated, Literal

import yaml
from pydantic import Field

from cocoa.errors import UsageError
from cocoa.options import Options
from cocoa.sample import IMAGE_PLACEHOLDER, MetaTask, Task

Side = Literal["query", "target"]
_TEXT = "{text}"


class Family(Options):
    """How both sides of a task are written; `bare_target_end` closes a target that has no text of its own."""

    query_image: bool
    target_image: bool
    end: str
    bare_target_end: str


class Rule(Options):
    """A repair with a name: what `find` (a regular expression) matches becomes `replace`.

    Without `everywhere` only in tasks that list the rule among their quirks.
    """

    applied: bool
    side: Literal["query", "target", "both"]
    find: str
    replace: str
    why: str
    everywhere: bool = False
    without_image: bool = False

    def repair(self, text: str) -> str:
        """Returns the repaired text."""
        return re.sub(self.find, self.replace, text)


class BenchmarkTask(Options):
    """One of the 36 tasks: `query` and `target` are its prompts, with {text} for the row's own text.

    `candidates` is the number that each query has; `note` says what is not certain.
    """

    name: str
    meta_task: MetaTask
    family: str
    layout: Family
    split: Literal["ind", "ood"]
    queries: int
    candidates: int
    query: str
    target: str
    query_end: str | None = None
    train_name: str | None = None
    train_query: str | None = None
    quirks: Annotated[tuple[str, ...], Field(strict=False)] = ()
    note: str = ""

    def query_text(self, text: str = "") -> str:
        """Returns the query for a row's own text, exactly as the benchmark writes it."""
        return build_text(self.query, text, image=self.layout.query_image, end=self.end("query"))

    def target_text(self, text: str = "") -> str:
        """Returns the target for a row's own text, exactly as the benchmark writes it."""
        end = self.end("target", bare=_TEXT not in self.target)
        return build_text(self.target, text, image=self.layout.target_image, end=end)

    def end(self, side: Side, *, bare: bool = False) -> str:
        """Returns what closes the text of a side; `bare` is one without a text of its own."""
        if side == "query":
            return self.layout.end if self.query_end is None else self.query_end
        if not self.layout.target_image or bare:
            return self.layout.bare_target_end
        return self.layout.end


def build_text(prompt: str, text: str, *, image: bool, end: str) -> str:
    """Returns the text of one side as MMEB writes it: the image's line, the prompt with the row's text, its end.

    A prompt that is nothing but {text} gives the text as it is: labels, answers and captions.
    """
    before, hole, after = prompt.rpartition(_TEXT)
    body = before + text + after if hole else prompt
    if prompt != _TEXT:
        body = body.replace(" \n", "\n")
    if end:
        body = body.rstrip("\n") + end
    return f"{IMAGE_PLACEHOLDER}\n{body}" if image else body


def join_instruction(instruction: str, text: str, *, image: bool, side: Side, task: BenchmarkTask | None) -> str:
    """Returns the text of a row whose instruction stands apart, as the row with both in one has it.

    A task that is not of the benchmark ends as an instruction with text does: with a newline.
    """
    prompt = RULES["stray_placeholder"].repair(instruction).lstrip().rstrip(" ")
    # Labels, answers and captions stand alone, whatever the row says beside them.
    if not prompt or (side == "target" and task is not None and not task.layout.target_image):
        return text
    named = image or IMAGE_PLACEHOLDER in instruction
    bare = not text.strip()
    end = task.end(side, bare=bare) if task else "\n"
    return build_text(prompt if bare else f"{prompt.rstrip()} {_TEXT}", text, image=named, end=end)


@dataclass(frozen=True)
class Repairs:
    """The rules that hold for one task: `repairs(text, side, image=...)` is the repaired text."""

    names: frozenset[str]
    quirks: tuple[str, ...] = ()

    def __call__(self, text: str, side: Side, *, image: bool) -> str:
        for rule in self._rules:
            if rule.side in (side, "both") and not (rule.without_image and image):
                text = rule.repair(text)
        return text

    @cached_property
    def _rules(self) -> tuple[Rule, ...]:
        return tuple(
            rule for name, rule in RULES.items() if name in self.names and (rule.everywhere or name in self.quirks)
        )


def repairs_for(name: str, rules: Collection[str] | None = None) -> Repairs:
    """Returns the repairs of a task's texts by the rules named, by default those that the table applies.

    Raises:
        UsageError: E_USAGE_RULE for a rule that is not known.
    """
    chosen = DEFAULT_RULES if rules is None else frozenset(rules)
    for rule in sorted(chosen - set(RULES)):
        close = difflib.get_close_matches(rule, RULES, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(RULES)}"
        raise UsageError("E_USAGE_RULE", f"no rule {rule!r}; {hint}")
    return Repairs(chosen, TASKS[name].quirks if name in TASKS else ())


def canonical_name(name: str) -> str:
    """Returns the benchmark's spelling of a task's name (`imagenet_1k` is `ImageNet-1K`); another name as it is."""
    return _NAMES.get(_folded(name), name)


def missing_tasks(names: Iterable[str]) -> list[str]:
    """Returns the tasks of the benchmark that are not among the names; none if the names have no task of it."""
    present = set(names)
    return [name for name in TASKS if name not in present] if present & set(TASKS) else []


def prompt_differences(task: Task) -> list[str]:
    """Returns a sentence for each side of a task whose rows do not have the prompts of the table.

    Newlines at the end are not compared: where the sources disagree about them, the rows are right.
    """
    entry = TASKS.get(task.name)
    if entry is None:
        return []
    sides = (
        ("query", entry.query_text(_TEXT), (question.query for question in task.questions)),
        ("target", entry.target_text(_TEXT), (sample for one in task.questions for sample in one.candidates)),
    )
    sentences = []
    for side, expected, samples in sides:
        start, _, end = expected.rstrip("\n").partition(_TEXT)
        wrong = [
            sample
            for sample in {id(sample): sample for sample in samples}.values()
            if not (sample.text.startswith(start) and sample.text.rstrip("\n").endswith(end))
        ]
        if wrong:
            first = wrong[0]
            sentences.append(
                f"{len(wrong)} texts of the {side} side differ from the benchmark's prompt {expected!r}; "
                f"the first, {first.where}: {first.text[:200]!r}"
            )
    return sentences


def _folded(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


def _read_table() -> tuple[dict[str, BenchmarkTask], dict[str, Rule]]:
    table = yaml.safe_load((files("cocoa.data") / "mmeb_v1.yaml").read_text("utf-8"))
    families = {name: Family(**entry) for name, entry in table["families"].items()}
    rules = {name: Rule(**entry) for name, entry in table["rules"].items()}
    tasks = {
        name: BenchmarkTask(name=name, queries=table["queries"], layout=families[entry["family"]], **entry)
        for name, entry in table["tasks"].items()
    }
    return tasks, rules


TASKS, RULES = _read_table()
"""The tasks by name, in the order of the benchmark, and the rules by name."""

DEFAULT_RULES = frozenset(name for name, rule in RULES.items() if rule.applied)
"""The rules that hold where nothing is said; the others change what the benchmark asks."""

_NAMES = {_folded(name): name for name in TASKS}
