"""Faults in the pairs of a stage: what is there twice, and answers that contradict each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from cocoa.checking.findings import Example, Finding, Shown, find, table_of
from cocoa.checking.rows import ReadSource, SeenPair
from cocoa.data.sides import Side

_TEXTS_OF_ONE: tuple[Side, ...] = ("same_text", "other_text")
"""Sides that rebuild what was read: the recipe wants it so, and a text of one part has no other order."""

Key = tuple[str, ...]
Placed = tuple[ReadSource, SeenPair]


def pair_findings(sources: Sequence[ReadSource], stages: Sequence[str], *, contrasted: bool) -> list[Finding]:
    """Returns the findings about pairs that a stage reads together.

    What only matters where targets are told from each other is looked for if `contrasted`.
    """
    placed = [(source, row) for source in sources for row in source.rows]
    groups: defaultdict[tuple[Key, Key], list[Placed]] = defaultdict(list)
    for each in placed:
        groups[each[1].query.key, each[1].target.key].append(each)
    distinct = {key: same[0] for key, same in groups.items()}
    findings = [*_copies(groups, stages), *_answered_by_itself(placed, stages)]
    if contrasted:
        findings += [*_contradicted(placed, stages), *_several_targets(distinct, stages)]
        findings += _shared_targets(distinct, stages)
    return findings


def _copies(groups: dict[tuple[Key, Key], list[Placed]], stages: Sequence[str]) -> list[Finding]:
    copies = [(same[0], copy) for same in groups.values() for copy in same[1:]]
    examples = [
        Example(copy.where, f"the same pair as {first.where}", _side_by_side((one, first), (other, copy)))
        for (one, first), (other, copy) in copies
    ]
    return find("DUPLICATE_PAIR", examples, stages)


def _answered_by_itself(placed: Sequence[Placed], stages: Sequence[str]) -> list[Finding]:
    rows = [
        (source, row)
        for source, row in placed
        if getattr(source.source, "side", "") not in _TEXTS_OF_ONE
        and (row.query.key == row.target.key or (row.query.looks and row.query.pixels == row.target.pixels))
    ]
    examples = [
        Example(row.where, "the same picture on both sides" if row.query.looks else "the same text", _pair(source, row))
        for source, row in rows
    ]
    return find("TARGET_IS_QUERY", examples, stages)


def _contradicted(placed: Sequence[Placed], stages: Sequence[str]) -> list[Finding]:
    examples = []
    for source, row in placed:
        numbers = [number for number, negative in enumerate(row.negatives) if negative.key == row.target.key]
        if numbers:
            pair = source.pairs[row.number]
            shown = (Shown.of(pair.target, "target"), Shown.of(pair.negatives[numbers[0]], "negative"))
            which = ", ".join(str(number + 1) for number in numbers[:5])
            examples.append(Example(row.where, f"negative {which} of {len(row.negatives)} is the target", shown))
    return find("POSITIVE_IS_NEGATIVE", examples, stages)


def _several_targets(distinct: dict[tuple[Key, Key], Placed], stages: Sequence[str]) -> list[Finding]:
    groups: defaultdict[Key, list[Placed]] = defaultdict(list)
    for (query, _), each in distinct.items():
        groups[query].append(each)
    repeated = [same for same in groups.values() if len(same) > 1]
    examples = [
        Example(same[0][1].where, f"{len(same)} targets", (*_pair(*same[0]), *_pair(*same[1])[1:])) for same in repeated
    ]
    largest = max((len(same) for same in repeated), default=0)
    detail = f"{sum(map(len, repeated)):,} pairs have one of these queries; one query has {largest:,} targets."
    return find("SAME_QUERY", examples, stages, detail=detail, tables=_by_table(repeated))


def _shared_targets(distinct: dict[tuple[Key, Key], Placed], stages: Sequence[str]) -> list[Finding]:
    groups: defaultdict[Key, list[Placed]] = defaultdict(list)
    for (_, target), each in distinct.items():
        groups[target].append(each)
    repeated = sorted((same for same in groups.values() if len(same) > 1), key=len, reverse=True)
    examples = [
        Example(same[0][1].where, f"target of {len(same):,} pairs", (*_pair(*same[0])[::-1], *_pair(*same[1])[:1]))
        for same in repeated
    ]
    # Two pairs drawn at random: how often is the one's target no negative for the other?
    meet = sum(len(same) * (len(same) - 1) for same in repeated) / max(1, len(distinct) * (len(distinct) - 1))
    detail = (
        f"{sum(map(len, repeated)):,} of {len(distinct):,} pairs have one of these targets; "
        f"two pairs of a shuffled batch have the same in {meet:.2%} of all cases."
    )
    return find("SHARED_TARGET", examples, stages, detail=detail, tables=_by_table(repeated))


def _by_table(groups: Sequence[Sequence[Placed]]) -> dict[str, int]:
    return dict(Counter(table_of(row.where) for same in groups for _, row in same))


def _pair(source: ReadSource, row: SeenPair) -> tuple[Shown, ...]:
    pair = source.pairs[row.number]
    return Shown.of(pair.query, "query"), Shown.of(pair.target, "target")


def _side_by_side(*placed: Placed) -> tuple[Shown, ...]:
    return tuple(shown for each in placed for shown in _pair(*each))
