"""What the records of a study say: means with intervals, paired tests against the baseline, and costs beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from cocoa.ablation.statistics import half_width, holm, paired_t, sign_flips
from cocoa.ablation.study import Study
from cocoa.errors import DataError
from cocoa.sample import META_TASKS

Record = Mapping[str, Any]


@dataclass(frozen=True)
class ArmResult:
    """One arm under one budget; rates in [0, 1], `half` is half of a 95 % interval (None: fewer than two seeds).

    `difference` is to the baseline, pair by pair of one seed; `p` is of Student's t, `p_holm` the same corrected for
    the number of arms, `p_flips` of the signs alone. `cost` is a mean over seeds of the arm's own stages.
    """

    arm: str
    title: str
    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    score: float
    half: float | None
    means: Mapping[str, float]
    difference: float | None
    difference_half: float | None
    p: float | None
    p_holm: float | None
    p_flips: float | None
    cost: Mapping[str, float]
    factors: Mapping[str, float]
    probes: Mapping[str, float] | None


@dataclass(frozen=True)
class BudgetResult:
    """All arms under one budget, in the study's order; `runs` of `wanted` are done."""

    budget: str
    equal: str
    labelled: int | None
    arms: tuple[ArmResult, ...]
    runs: int
    wanted: int


@dataclass(frozen=True)
class StudyResult:
    """All budgets of a study."""

    study: str
    baseline: str
    budgets: tuple[BudgetResult, ...]

    @property
    def complete(self) -> bool:
        """Whether every run is done."""
        return all(budget.runs == budget.wanted for budget in self.budgets)

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as JSON can hold it."""
        return {**asdict(self), "complete": self.complete}


def analyse(study: Study, records: Sequence[Record]) -> StudyResult:
    """Returns what records of runs that count say; arms and budgets without any are left out or empty."""
    budgets = []
    for budget in study.budgets:
        own = [record for record in records if record["budget"] == budget.name]
        by_arm = {
            arm.name: {record["seed"]: record for record in own if record["arm"] == arm.name} for arm in study.arms
        }
        base = by_arm[study.baseline]
        arms = [
            _arm_result(arm.name, arm.title or arm.name, by_arm[arm.name], {} if arm.name == study.baseline else base)
            for arm in study.arms
            if by_arm[arm.name]
        ]
        tested = [place for place, arm in enumerate(arms) if arm.p is not None]
        for place, value in zip(tested, holm([arms[place].p or 0.0 for place in tested]), strict=True):
            arms[place] = ArmResult(**{**vars(arms[place]), "p_holm": value})
        left = [arm for arm in study.arms if set(arm.stages) - set(budget.drop)]
        wanted = len(left) * len(study.seeds)
        budgets.append(BudgetResult(budget.name, budget.equal, budget.labelled, tuple(arms), len(own), wanted))
    return StudyResult(study.name, study.baseline, tuple(budgets))


def read_records(out: Path) -> list[dict[str, Any]]:
    """Returns all records of runs that count in a study's folder. Raises `E_DATA_READ` for one that is broken."""
    records = []
    for path in sorted((out / "runs").glob("*/*/*.json")):
        try:
            records.append(json.loads(path.read_text()))
        except ValueError as error:
            raise DataError("E_DATA_READ", f"not a record of a run: {error}", where=str(path)) from error
    return records


def _arm_result(name: str, title: str, own: Mapping[int, Record], base: Mapping[int, Record]) -> ArmResult:
    seeds = tuple(sorted(own))
    scores = tuple(own[seed]["score"] for seed in seeds)
    differences = [own[seed]["score"] - base[seed]["score"] for seed in seeds if seed in base]
    records = [own[seed] for seed in seeds]
    kept = [record["probes"] for record in records if record["probes"]]
    return ArmResult(
        arm=name,
        title=title,
        seeds=seeds,
        scores=scores,
        score=fmean(scores),
        half=half_width(scores),
        means=_means([record["summary"] for record in records], [*META_TASKS]),
        difference=fmean(differences) if differences else None,
        difference_half=half_width(differences),
        p=paired_t(differences),
        p_holm=None,
        p_flips=sign_flips(differences),
        cost=_means([record["cost"] for record in records], list(records[0]["cost"])),
        factors=records[0]["factors"],
        probes=_means(kept, list(kept[0])) if kept else None,
    )


def _means(parts: Sequence[Mapping[str, float]], keys: Sequence[str]) -> dict[str, float]:
    return {key: fmean(part[key] for part in parts) for key in keys if all(key in part for part in parts)}
