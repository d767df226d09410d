"""What the training data has of the evaluation: whole queries, pictures and texts, the same or nearly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cocoa.checking.findings import MOST_EXAMPLES, Example, Finding, Level, Shown, find, table_of
from cocoa.checking.pictures import Gallery, Look, near_looks
from cocoa.checking.rows import Progress, ReadSource, Seen, in_threads, part_of, see
from cocoa.checking.texts import LEAST_WORDS, Words, near_texts, prompt_length, words
from cocoa.data.bad_rows import BadRow
from cocoa.errors import CocoaError
from cocoa.sample import Sample, Task

_PARTS = ("query", "right answer", "other candidate")
_Key = tuple[str, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Trained:
    """A sample of the training data, by its source, pair and part; `answer` is the key of its pair's target."""

    source: ReadSource
    number: int
    part: str
    place: int
    where: str
    seen: Seen
    answer: _Key

    @property
    def shown(self) -> Shown:
        """The sample for an example."""
        return Shown.of(part_of(self.source.pairs, self.number, self.part, self.place), f"training {self.part}")


@dataclass(frozen=True, slots=True)
class Tested:
    """A sample of a task; `answer` is the key of its right answer if it is a query."""

    task: str
    part: str
    sample: Sample
    seen: Seen
    answer: _Key | None = None

    @property
    def shown(self) -> Shown:
        """The sample for an example."""
        return Shown.of(self.sample, f"{self.task}: {self.part}")


@dataclass(frozen=True)
class Tests:
    """The samples of all tasks, each once in each part it has; `bad` are those whose pictures do not open."""

    samples: tuple[Tested, ...]
    bad: tuple[BadRow, ...]


def read_tests(tasks: Sequence[Task], gallery: Gallery, *, workers: int, on_progress: Progress) -> Tests:
    """Returns the samples of tasks, every picture opened."""
    asked: dict[str, Sample] = {}
    keys: dict[int, str] = {}
    for task in tasks:
        for question in task.questions:
            for sample in (question.query, *question.candidates):
                if id(sample) not in keys:
                    keys[id(sample)] = key = sample.key
                    asked.setdefault(key, sample)
    samples = list(asked.values())

    def look_at(number: int) -> Seen | BadRow:
        try:
            return see(samples[number], gallery)
        except CocoaError as error:
            return BadRow.of(error, error.where)

    total = len(samples)
    found = in_threads(look_at, range(total), workers, lambda done: on_progress("reading the tasks", done, total))
    seen = dict(zip(asked, found, strict=True))
    unique: dict[tuple[str, str, str, str], Tested] = {}
    for task in tasks:
        for question in task.questions:
            for place, sample in enumerate((question.query, *question.candidates)):
                key = keys[id(sample)]
                one, right = seen[key], seen[keys[id(question.candidates[0])]]
                part = _PARTS[min(place, 2)]
                if isinstance(one, Seen):
                    answer = right.key if place == 0 and isinstance(right, Seen) else None
                    named = (task.name, part, key, repr(answer))
                    unique.setdefault(named, Tested(task.name, part, sample, one, answer))
    return Tests(tuple(unique.values()), tuple(each for each in seen.values() if isinstance(each, BadRow)))


def leak_findings(
    sources: Sequence[ReadSource], tests: Tests, stages_of: Callable[[ReadSource], Iterable[str]]
) -> list[Finding]:
    """Returns what the training data has of the tasks; `stages_of` says which stages read a source."""
    trained = [
        Trained(source, row.number, part, place, row.where, seen, row.target.key)
        for source in sources
        for row in source.rows
        for part, place, seen in row.parts
    ]
    leaks = _Leaks(stages_of)
    whole = _query_leaks(trained, tests, leaks)
    findings = leaks.findings
    queries = {id(each) for each in whole}
    rest = [each for each in tests.samples if id(each) not in queries]
    known_pictures = {picture for each in whole for picture in each.seen.pixels}
    known_texts = {each.seen.text for each in whole if not each.seen.looks}
    _picture_leaks(trained, rest, known_pictures, leaks)
    _text_leaks(trained, rest, known_texts, leaks)
    return findings


class _Leaks:
    """The findings so far, each made from (training sample, task sample, message)."""

    def __init__(self, stages_of: Callable[[ReadSource], Iterable[str]]) -> None:
        self._stages_of = stages_of
        self.findings: list[Finding] = []

    def add(
        self, code: str, found: Sequence[tuple[Trained, Tested, str]], said: str, level: Level | None = None
    ) -> None:
        examples = [
            Example(ours.where, f"{message}{theirs.sample.where or theirs.task}", (ours.shown, theirs.shown))
            for ours, theirs, message in _spread(found)
        ]
        stages = dict.fromkeys(stage for ours, _, _ in found for stage in self._stages_of(ours.source))
        tasks = Counter(theirs.task for _, theirs, _ in found)
        detail = said + " Tasks: " + ", ".join(f"{task} {count:,}" for task, count in tasks.most_common()) + "."
        tables = dict(Counter(table_of(ours.where) for ours, _, _ in found))
        self.findings += find(
            code, examples, tuple(stages), detail=detail, level=level, count=len(found), tables=tables
        )


def _spread(found: Sequence[tuple[Trained, Tested, str]]) -> Iterator[tuple[Trained, Tested, str]]:
    """The findings in rounds, each task once a round, so that a few examples show many tasks."""
    turns: Counter[str] = Counter()
    ranked = []
    for place, each in enumerate(found):
        ranked.append((turns[each[1].task], place))
        turns[each[1].task] += 1
    for _, place in sorted(ranked)[:MOST_EXAMPLES]:
        yield found[place]


def _query_leaks(trained: Sequence[Trained], tests: Tests, leaks: _Leaks) -> list[Tested]:
    """The task's queries that training asks word for word about the same pictures."""
    asked: dict[_Key, Trained] = {}
    answers: dict[_Key, set[_Key]] = {}
    for each in trained:
        if each.part == "query":
            asked.setdefault(each.seen.key, each)
            answers.setdefault(each.seen.key, set()).add(each.answer)
    found = [
        (asked[each.seen.key], each, "the same query as ")
        for each in tests.samples
        if each.part == "query" and each.seen.key in asked
    ]
    same = sum(theirs.answer in answers[theirs.seen.key] for _, theirs, _ in found)
    # Captions alone may be alike by chance; then each side has its own picture for them.
    chance = not same and not any(theirs.seen.looks for _, theirs, _ in found)
    leaks.add("LEAK_QUERY", found, f"{same:,} of them with the same right answer.", "warning" if chance else None)
    return [theirs for _, theirs, _ in found]


def _picture_leaks(trained: Sequence[Trained], rest: Sequence[Tested], known: set[bytes], leaks: _Leaks) -> None:
    ours: dict[bytes, tuple[Look, Trained]] = {}
    for each in trained:
        for look in each.seen.looks:
            ours.setdefault(look.pixels, (look, each))
    theirs: dict[bytes, tuple[Look, Tested]] = {}
    # In the order of their weight: a picture that is a query and a candidate elsewhere counts as a query.
    for part in _PARTS:
        for test in rest:
            for look in test.seen.looks:
                if test.part == part and look.pixels not in known:
                    theirs.setdefault(look.pixels, (look, test))
    same = [
        (ours[pixels][1], test, "the same picture as in ") for pixels, (_, test) in theirs.items() if pixels in ours
    ]
    leaks.add("LEAK_PICTURE", same, _by_part(same), _level(same))
    left = [each for pixels, each in theirs.items() if pixels not in ours]
    own = list(ours.values())
    near = near_looks([look for look, _ in own], [look for look, _ in left])
    found = [(own[mine][1], left[other][1], "a picture that looks the same as in ") for mine, other in near]
    leaks.add("NEAR_PICTURE", found, _by_part(found), _level(found))


def _level(found: Sequence[tuple[Trained, Tested, str]]) -> Level | None:
    """Wrong candidates that training has seen help no model to the right answer: only a note."""
    return "note" if found and all(theirs.part == _PARTS[2] for _, theirs, _ in found) else None


def _by_part(found: Sequence[tuple[Trained, Tested, str]]) -> str:
    counts = Counter(theirs.part for _, theirs, _ in found)
    return "In the tasks: " + ", ".join(f"{part} {counts[part]:,}" for part in _PARTS if counts[part]) + "."


def _text_leaks(trained: Sequence[Trained], rest: Sequence[Tested], known: set[str], leaks: _Leaks) -> None:
    """Captions and the like: texts without pictures, less their prompts, that both sides have."""
    bare = [each for each in trained if not each.seen.looks and each.part != "negative"]
    tests = [each for each in rest if not each.seen.looks and each.part != _PARTS[2] and each.seen.text not in known]
    ours: dict[Words, Trained] = {}
    for one, text in _without_prompts([(f"{table_of(each.where)} {each.part}", each.seen.text) for each in bare], bare):
        ours.setdefault(text, one)
    theirs: dict[Words, Tested] = {}
    for other, text in _without_prompts([(f"{each.task} {each.part}", each.seen.text) for each in tests], tests):
        theirs.setdefault(text, other)
    same = [(ours[text], test, "the same text as in ") for text, test in theirs.items() if text in ours]
    leaks.add("LEAK_TEXT", same, _by_part(same))
    left = [text for text in theirs if text not in ours]
    own = list(ours)
    nearest: dict[int, tuple[int, float]] = {}
    for mine, place, share in near_texts(own, left):
        if place not in nearest or share > nearest[place][1]:
            nearest[place] = (mine, share)
    found = [
        (ours[own[mine]], theirs[left[place]], f"{share:.0%} of the word pairs of ")
        for place, (mine, share) in sorted(nearest.items())
    ]
    leaks.add("NEAR_TEXT", found, _by_part(found))


def _without_prompts(named: Sequence[tuple[str, str]], samples: Sequence[T]) -> Iterator[tuple[T, Words]]:
    """Each sample with its words after those that all texts of its group begin with, if enough are left."""
    groups: dict[str, list[tuple[T, Words]]] = {}
    for (name, text), sample in zip(named, samples, strict=True):
        groups.setdefault(name, []).append((sample, words(text)))
    for group in groups.values():
        start = prompt_length([text for _, text in group])
        yield from ((sample, text[start:]) for sample, text in group if len(text) - start >= LEAST_WORDS)
