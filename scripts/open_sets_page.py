"""The page docs/results.md, from the numbers of runs on the open sets; nothing in it is typed by hand."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

import cocoa
from cocoa.recipe import Recipe
from cocoa.sample import META_TASKS

VARIANTS = ("contrastive_only", "cocoa")
TRIVIAL = ("random", "constant", "grey pictures", "frequent answer")
_MEANS = (*META_TASKS, "overall")
_T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
"""Two-sided 95 % quantiles of Student's t by degrees of freedom; beyond them two is near enough."""
Results = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One variant and seed: the content of its `results.json`, and the steps and seconds of its training."""

    results: Results
    steps: int
    seconds: float


def page(
    recipe: Recipe, seeds: Sequence[int], runs: Mapping[str, Sequence[Run]], trivial: Mapping[str, Results]
) -> str:
    """Returns docs/results.md."""
    lines = [
        "# Results on the open sets",
        "",
        "Real pictures: emoji drawings, flags, clothing, blood cells, NLVR. Written by `make open-sets`, which runs",
        "`python scripts/run_open_sets.py --out runs/open-sets`; no number here is typed by hand. A single run:",
        "`cocoa train recipes/open-sets.yaml --out runs/mine`, then",
        "`cocoa evaluate runs/mine/model --tasks ../shared/data`.",
        "",
        "Backbone: nano (1.5 million parameters, trained on generated emoji scenes only).",
        f"{'Seeds' if len(seeds) > 1 else 'One seed only'}: {', '.join(map(str, seeds))}. "
        f"{datetime.datetime.now(tz=datetime.UTC).date()}, {os.cpu_count()} {platform.machine()} cores, cocoa "
        f"{cocoa.__version__}, torch {torch.__version__}, transformers {transformers.__version__}.",
        "Both variants see the same labelled pairs in the same order; `cocoa` has the warm-up and the bridge before.",
        "hit@1 in %, ties against the model, mean ± standard deviation over the seeds.",
        "",
        _verdict(runs),
        "",
        *_means(recipe, runs),
        "",
        "## Every task",
        "",
        *_tasks(runs),
        "",
        "*chance*: a random guess. *blind*: the most frequent training answer to the same question, picture unseen;",
        "both as the sets say. A score at or below *blind* says that the pictures of that task did not help.",
        "",
        "## What the scorer gives to models that learned nothing",
        "",
        *_trivial(runs, trivial),
        "",
    ]
    return "\n".join(lines)


def _means(recipe: Recipe, runs: Mapping[str, Sequence[Run]]) -> list[str]:
    lines = ["| | contrastive_only | cocoa | difference |", "|---|---|---|---|"]
    lines += [
        f"| **{key}** | " + " | ".join(_compared([_summaries(runs[v], key) for v in VARIANTS])) + " |" for key in _MEANS
    ]
    stages = "; ".join(
        f"{s.name} {s.steps} steps of {s.batch_size} pairs at {s.learning_rate:g}" for s in recipe.stages
    )
    lines += [
        "| training steps | " + " | ".join(str(runs[v][0].steps) for v in VARIANTS) + " | |",
        "| training seconds | " + " | ".join(_seconds(runs[v]) for v in VARIANTS) + " | |",
        "",
        f"Seconds are on the clock of a machine that may have done other work. Stages of `cocoa`: {stages}.",
    ]
    return lines


def _tasks(runs: Mapping[str, Sequence[Run]]) -> list[str]:
    lines = [
        "| task | meta-task | queries | chance | blind | contrastive_only | cocoa | difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, facts in runs[VARIANTS[0]][0].results["tasks"].items():
        rates = [[run.results["tasks"][name]["hit_at_1"] for run in runs[v]] for v in VARIANTS]
        shown = [facts["meta_task"], str(facts["queries"]), _percent(facts["chance"]), _percent(facts["blind"])]
        lines.append(f"| {name} | {' | '.join([*shown, *_compared(rates)])} |")
    return lines


_LEGEND = """
*frequent answer*: the candidate that was right most often for the same question in training, where all candidates
are texts; no picture is looked at. *random*: each content has a direction of its own. *constant*: one vector for
everything; by MMEB's official rule the first of equal scores wins, and the right candidate stands first. *grey
pictures*: the trained `cocoa` model of the first seed, shown grey in place of each picture. A tie counts against the
model; in brackets, where it differs, the same with a tie of k best worth 1/k.

The column *blind* is the frequent answer with such ties shared, or given to the answer seen first. A question that
never was asked in training is a guess here, while a set may count the commonest answer of the whole task for it:
{differing}
"""


def _trivial(runs: Mapping[str, Sequence[Run]], trivial: Mapping[str, Results]) -> list[str]:
    lines = [
        "| task | chance | blind | frequent answer | random | constant | constant, official rule | grey pictures |",
        "|---|---|---|---|---|---|---|---|",
    ]
    largest, where = 0.0, ""
    for name, facts in runs[VARIANTS[0]][0].results["tasks"].items():
        rows = {kind: results["tasks"].get(name) for kind, results in trivial.items()}
        cells = [_percent(facts["chance"]), _percent(facts["blind"])]
        cells += [_with_ties(rows[kind]) for kind in ("frequent answer", "random", "constant")]
        cells += [_percent(rows["constant"]["official_hit_at_1"]), _with_ties(rows["grey pictures"])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        if facts["blind"] is not None and rows["frequent answer"] is not None:
            gap = abs(rows["frequent answer"]["expected_hit_at_1"] - facts["blind"])
            largest, where = max((largest, where), (gap, name))
    means = [trivial[kind]["summary"]["overall"] for kind in ("random", "constant", "grey pictures")]
    official = statistics.mean(task["official_hit_at_1"] for task in trivial["constant"]["tasks"].values())
    shown = [_percent(mean) for mean in means]
    lines.append(f"| **mean** | | | | {shown[0]} | {shown[1]} | {_percent(official)} | {shown[2]} |")
    differing = (
        f"the largest difference to our count is {100 * largest:.1f} points, in {where}."
        if largest >= 0.0005
        else "our count gives the same on every task."
    )
    return [*lines, *_LEGEND.format(differing=differing).splitlines()]


def _with_ties(scores: Mapping[str, float] | None) -> str:
    if scores is None:
        return ""
    strict, expected = _percent(scores["hit_at_1"]), _percent(scores["expected_hit_at_1"])
    return strict if strict == expected else f"{strict} ({expected})"


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{100 * rate:.1f}"


def _verdict(runs: Mapping[str, Sequence[Run]]) -> str:
    before, after = (_summaries(runs[variant], "overall") for variant in VARIANTS)
    differences = [100 * (b - a) for a, b in zip(before, after, strict=True)]
    mean = statistics.mean(differences)
    count = f"{len(differences)} seed{'s' if len(differences) > 1 else ''}"
    shown = f"Overall `cocoa` is {mean:+.1f} points from `contrastive_only` over {count}"
    if len(differences) < 2:
        return f"{shown}: too few to say anything."
    better = sum(difference > 0 for difference in differences)
    shown += f" (better in {better})"
    # Student's t: with three seeds the interval is more than twice as wide as the usual two standard errors.
    quantile = _T95.get(len(differences) - 1, 2.0)
    half = quantile * statistics.stdev(differences) / len(differences) ** 0.5
    interval = f"95 % interval by Student's t {mean - half:+.1f} to {mean + half:+.1f}"
    verdict = ": no difference is shown at this scale" if abs(mean) <= half else ""
    return f"**{shown}, {interval}{verdict}.**"


def _summaries(runs: Sequence[Run], key: str) -> list[float]:
    return [run.results["summary"][key] for run in runs]


def _seconds(runs: Sequence[Run]) -> str:
    return f"{statistics.mean(run.seconds for run in runs):.0f}"


def _compared(rates: Sequence[Sequence[float]]) -> list[str]:
    shown = [
        f"{100 * statistics.mean(r):.1f}" + (f" ± {100 * statistics.stdev(r):.1f}" if len(r) > 1 else "") for r in rates
    ]
    differences = [100 * (b - a) for a, b in zip(*rates, strict=True)]
    spread = f" ± {statistics.stdev(differences):.1f}" if len(differences) > 1 else ""
    return [*shown, f"{statistics.mean(differences):+.1f}{spread}"]
