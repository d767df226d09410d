"""What the records of a study say: means with intervals, paired tests against the baseline, and costs beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from cocoa.ablation.records import Record
from cocoa.ablation.statistics import half_width, holm, paired_t, sign_flips
from cocoa.ablation.study import Arm, Study
from cocoa.sample import META_TASKS


@dataclass(frozen=True)
class Tested:
    """One arm minus another, pair by pair of one seed, over the `pairs` seeds that both have; rates in [0, 1].

    `p` is of Student's t, `p_holm` the same corrected for all tests of the budget, `p_flips` of the signs alone.
    """

    pairs: int
    difference: float | None
    difference_half: float | None
    p: float | None
    p_holm: float | None
    p_flips: float | None


@dataclass(frozen=True)
class ArmResult(Tested):
    """One arm under one budget, minus the baseline; `half` is half of a 95 % interval (None: fewer than two seeds).

    `missing` are seeds of the study without a run yet. `cost` is a mean over seeds of the arm's own stages, as are
    `probes`, and `layers` with the measures of each layer of the model.
    """

    arm: str
    title: str
    seeds: tuple[int, ...]
    missing: tuple[int, ...]
    scores: tuple[float, ...]
    score: float
    half: float | None
    means: Mapping[str, float]
    cost: Mapping[str, float]
    factors: Mapping[str, float]
    probes: Mapping[str, float] | None
    layers: tuple[Mapping[str, float], ...]


@dataclass(frozen=True)
class ContrastResult(Tested):
    """Two arms that a study names, the first minus the second."""

    titles: tuple[str, str]


@dataclass(frozen=True)
class BudgetResult:
    """The arms under one budget that have a run, in the study's order; `runs` of `wanted` are done.

    `absent` are titles of arms without any. All tests of a budget, those of `contrasts` too, are corrected together.
    """

    budget: str
    equal: str
    labelled: int | None
    arms: tuple[ArmResult, ...]
    contrasts: tuple[ContrastResult, ...]
    absent: tuple[str, ...]
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
            _arm_result(study, arm, by_arm[arm.name], {} if arm.name == study.baseline else base)
            for arm in study.arms
            if by_arm[arm.name]
        ]
        contrasts = [_contrast(study, by_arm, *pair) for pair in study.contrasts]
        every = [arm.p for arm in arms] + [contrast.p for contrast in contrasts]
        corrected = iter(holm([p for p in every if p is not None]))
        arms = [replace(one, p_holm=None if one.p is None else next(corrected)) for one in arms]
        contrasts = [replace(one, p_holm=None if one.p is None else next(corrected)) for one in contrasts]
        left = [arm for arm in study.arms if set(arm.stages) - set(budget.drop)]
        budgets.append(
            BudgetResult(
                budget=budget.name,
                equal=budget.equal,
                labelled=budget.labelled,
                arms=tuple(arms),
                contrasts=tuple(contrasts),
                absent=tuple(arm.title or arm.name for arm in left if not by_arm[arm.name]),
                runs=len(own),
                wanted=len(left) * len(study.seeds),
            )
        )
    return StudyResult(study.name, study.baseline, tuple(budgets))


def _arm_result(study: Study, arm: Arm, own: Mapping[int, Record], base: Mapping[int, Record]) -> ArmResult:
    seeds = tuple(sorted(own))
    scores = tuple(own[seed]["score"] for seed in seeds)
    records = [own[seed] for seed in seeds]
    probed = [record["probes"] for record in records if record["probes"]]
    layered = [record["layers"] for record in records if record.get("layers")]
    return ArmResult(
        **vars(_tested(own, base)),
        arm=arm.name,
        title=arm.title or arm.name,
        seeds=seeds,
        missing=tuple(seed for seed in study.seeds if seed not in own),
        scores=scores,
        score=fmean(scores),
        half=half_width(scores),
        means=_means([record["summary"] for record in records], META_TASKS),
        cost=_means([record["cost"] for record in records]),
        factors=records[0]["factors"],
        probes=_means(probed) if probed else None,
        layers=tuple(_means(same) for same in zip(*layered, strict=True)),
    )


def _contrast(study: Study, by_arm: Mapping[str, Mapping[int, Record]], one: str, other: str) -> ContrastResult:
    first, second = (study.arm(name) for name in (one, other))
    titles = (first.title or first.name, second.title or second.name)
    return ContrastResult(**vars(_tested(by_arm[one], by_arm[other])), titles=titles)


def _tested(own: Mapping[int, Record], base: Mapping[int, Record]) -> Tested:
    """What one arm's records are above another's; not yet corrected."""
    differences = [own[seed]["score"] - base[seed]["score"] for seed in sorted(own.keys() & base.keys())]
    return Tested(
        pairs=len(differences),
        difference=fmean(differences) if differences else None,
        difference_half=half_width(differences),
        p=paired_t(differences),
        p_holm=None,
        p_flips=sign_flips(differences),
    )


def _means(parts: Sequence[Mapping[str, float]], keys: Sequence[str] = ()) -> dict[str, float]:
    """The means of what all parts have, of `keys` or of all that the first one has."""
    wanted = [key for key in keys or parts[0] if all(key in part for part in parts)]
    return {key: fmean(part[key] for part in parts) for key in wanted}
