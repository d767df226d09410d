"""What every benchmark says in the same words: how it did beside its peer, case by case, and the worst case on top.

`python -m benchmarks` prints what is kept of all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MATRIX_RATE = "rate of a matrix product"
"""The ceiling of what computes."""
REFERENCE = Path(__file__).resolve().parents[1] / "reference"


@dataclass(frozen=True)
class Case:
    """One comparison: of one backbone, or one size."""

    name: str
    ratio: float | None
    """How many times as fast as the peer, of the medians of one run; None where the peer was not run."""
    spread: tuple[float, float] | None
    """The smallest and the largest ratio of the rounds; None where there was one."""
    ceiling_share: float
    """The share that ours reached of the ceiling that was measured in the same run, 0 to 1."""
    memory_ratio: float | None = None
    """Ours over the peer's; None where it was not measured."""

    @classmethod
    def of(cls, name: str, ratio: Mapping[str, Any], ceiling_share: float, memory_ratio: float | None = None) -> Case:
        """Returns the case of a `measuring.ratio`."""
        return cls(name, ratio["median"], ratio["spread"], ceiling_share, memory_ratio)


@dataclass(frozen=True)
class Targets:
    """What a benchmark should reach; None: nothing is asked."""

    speed: float | None = None
    memory: float | None = None
    ceiling: float | None = None


def outcome(name: str, peer: str, ceiling: str, cases: Sequence[Case], targets: Targets) -> dict[str, Any]:
    """Returns the head of a benchmark's JSON: `ratio`, `ceiling_share` and `memory_ratio` are those of the worst case.

    `peer` is what ours is compared with, `ceiling` what its share is of.
    """
    worst = min(cases, key=lambda case: float("inf") if case.ratio is None else case.ratio)
    memory = [case.memory_ratio for case in cases if case.memory_ratio is not None]
    return {
        "name": name,
        "peer": peer,
        "ratio": worst.ratio,
        "target": targets.speed,
        "ceiling": ceiling,
        "ceiling_share": min(case.ceiling_share for case in cases),
        "ceiling_target": targets.ceiling,
        "memory_ratio": max(memory) if memory else None,
        "memory_target": targets.memory,
        "cases": [asdict(case) for case in cases],
    }


HEAD = ["benchmark", "case", "as fast as", "ratio", "target", "memory", "target", "of the ceiling", "target"]


def rows_of(found: dict[str, Any]) -> list[list[str]]:
    """Returns the rows of a benchmark's JSON under `HEAD`: one for each case."""
    return [
        [
            found["name"],
            case["name"],
            found["peer"],
            _times(case["ratio"], case["spread"]),
            _reached(case["ratio"], found["target"]),
            _times(case["memory_ratio"]),
            _reached(found["memory_target"], case["memory_ratio"], target=found["memory_target"]),
            f"{case['ceiling_share']:.0%} of the {found['ceiling']}",
            _reached(case["ceiling_share"], found["ceiling_target"]),
        ]
        for case in found["cases"]
    ]


def kept(folder: Path = REFERENCE) -> list[dict[str, Any]]:
    """Returns the benchmarks that are kept in a folder, by name."""
    every = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [found for found in every if isinstance(found, dict) and "cases" in found]


def _times(ratio: float | None, spread: Sequence[float] | None = None) -> str:
    if ratio is None:
        return "–"
    digits = 2 if ratio >= 0.1 else 4
    return f"{ratio:.{digits}f} x" + (
        f" ({spread[0]:.{digits}f} to {spread[1]:.{digits}f})" if spread and spread[0] < spread[1] else ""
    )


def _reached(value: float | None, at_least: float | None, *, target: float | None = None) -> str:
    if value is None or at_least is None:
        return "–"
    return f"{at_least if target is None else target:g}: {'reached' if value >= at_least else '**not** reached'}"
