"""The numbers of the result tables: variants by meta-task, and tasks by split; rates as percent with one decimal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from cocoa.report.content import VariantResult
from cocoa.sample import META_TASKS

COLUMNS = (*META_TASKS, "overall")
_SPLITS = {
    "seen": "Seen things in new scenes",
    "combo": "Seen things in combinations that were held out",
    "unseen": "Things that no labelled training scene shows",
    "": "Other tasks",
}


@dataclass(frozen=True)
class TaskRow:
    """One task: each variant's rate in their order, and what a guess gives (None: not known)."""

    name: str
    meta_task: str
    rates: tuple[float | None, ...]
    chance: float | None
    blind: float | None


@dataclass(frozen=True)
class SplitRows:
    """The tasks of one split and each variant's mean over them."""

    title: str
    rows: tuple[TaskRow, ...]
    means: tuple[float | None, ...]


def points(rate: float | None, against: float | None) -> float | None:
    """Returns the difference in points of two rates as shown, so that a reader who subtracts gets the same number."""
    if rate is None or against is None:
        return None
    return round(round(100 * rate, 1) - round(100 * against, 1), 1)


def columns(variants: Sequence[VariantResult]) -> list[str]:
    """Returns the summary's columns that any variant has, in the usual order."""
    return [name for name in COLUMNS if any(name in variant.summary for variant in variants)]


def guessing(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Returns the mean chance of each meta-task and overall, where the chance of every task is known."""
    chances: defaultdict[str, list[Any]] = defaultdict(list)
    for task in tasks.values():
        chances[task["meta_task"]].append(task.get("chance"))
        chances["overall"].append(task.get("chance"))
    return {name: fmean(values) for name, values in chances.items() if None not in values}


def tasks_by_split(variants: Sequence[VariantResult]) -> list[SplitRows]:
    """Returns the tasks of all variants, grouped by the split that ends their name."""
    tasks = {name: task for variant in variants for name, task in variant.tasks.items()}
    splits: dict[str, list[TaskRow]] = {split: [] for split in _SPLITS}
    for name, task in tasks.items():
        split = name.rpartition("_")[2]
        rates = tuple(variant.tasks.get(name, {}).get("hit_at_1") for variant in variants)
        row = TaskRow(name, task["meta_task"], rates, task.get("chance"), task.get("blind"))
        splits[split if split in _SPLITS else ""].append(row)
    return [SplitRows(_SPLITS[split], tuple(rows), _means(rows)) for split, rows in splits.items() if rows]


def _means(rows: Sequence[TaskRow]) -> tuple[float | None, ...]:
    by_variant = zip(*(row.rates for row in rows), strict=True)
    return tuple(None if None in rates else fmean(rates) for rates in by_variant)
