"""A study's result as files: JSON, Markdown, CSV, charts and a page; all from the records, none typed by hand."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cocoa.ablation.analysis import ArmResult, BudgetResult, StudyResult, Tested
from cocoa.errors import DataError
from cocoa.files import write_file
from cocoa.report.charts import standalone
from cocoa.report.study_page import study_charts, study_page
from cocoa.sample import META_TASKS

Record = Mapping[str, Any]


def write_results(result: StudyResult, records: Sequence[Record], out: Path) -> None:
    """Writes `results.json`, `results.md`, three tables as CSV, `charts/*.svg` and `report.html` into `out`."""
    write_file(out / "results.json", json.dumps(result.to_dict(), indent=1) + "\n")
    write_file(out / "results.md", markdown(result))
    write_file(out / "runs.csv", _runs_csv(records))
    write_file(out / "arms.csv", _arms_csv(result))
    write_file(out / "layers.csv", _layers_csv(result))
    for name, chart in study_charts(result.to_dict()).items():
        write_file(out / "charts" / f"{name}.svg", standalone(chart))
    write_file(out / "report.html", study_page(result.to_dict()))


def markdown(result: StudyResult) -> str:
    """Returns the tables of a study: scores with tests, then costs, budget by budget."""
    lines = [] if result.complete else ["**Not all runs are done: nothing here is a result yet.**", ""]
    for budget in result.budgets:
        lines += [f"### {budget.budget}", "", _said(budget, result.baseline), ""]
        if missing := _missing(budget):
            lines += [missing, ""]
        if budget.arms:
            lines += [*_scores(budget), ""]
        if budget.contrasts:
            lines += [*_contrasts(budget), ""]
        if budget.arms:
            lines += [*_costs(budget), ""]
        if any(arm.probes for arm in budget.arms):
            lines += [*_probes(budget), ""]
        if any(arm.layers for arm in budget.arms):
            lines += [*_layers(budget), ""]
    return "\n".join(lines).rstrip() + "\n"


def put_between(page: str, name: str, content: str, where: str) -> str:
    """Returns a Markdown page with `content` between its markers `<!-- study:NAME -->` and `<!-- /study:NAME -->`.

    Raises `E_DATA_READ` where the markers are not there.
    """
    start, end = _markers(name)
    if not has_place(page, name):
        raise DataError("E_DATA_READ", f"no place for a study: {start} and {end} must stand there once", where=where)
    return _between(name).sub(lambda _: f"{start}\n{content.strip()}\n{end}", page)


def has_place(page: str, name: str) -> bool:
    """Returns whether a page has a study's markers, once."""
    return len(_between(name).findall(page)) == 1


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- study:{name} -->", f"<!-- /study:{name} -->"


def _between(name: str) -> re.Pattern[str]:
    start, end = _markers(name)
    return re.compile(re.escape(start) + r".*?" + re.escape(end), re.DOTALL)


def _said(budget: BudgetResult, baseline: str) -> str:
    equal = {
        "data": "Equal contrastive data for every arm.",
        "flops": "Equal FLOPs for every arm: the last stage goes on until an arm has cost what the dearest one costs.",
    }[budget.equal]
    return (
        f"{equal} hit@1 in %, mean of all tasks ± half of the 95 % interval over seeds; differences to `{baseline}`, "
        "seed by seed; p of the paired t test, the same corrected by Holm for the number of tests, and p of the signs "
        f"alone. {budget.runs} of {budget.wanted} runs."
    )


def _missing(budget: BudgetResult) -> str:
    """What is not there yet, in a sentence; empty where nothing is missing."""
    partly = [f"{arm.title} (seeds {runs_of(arm.missing)})" for arm in budget.arms if arm.missing]
    parts = [*budget.absent, *partly]
    if not parts:
        return ""
    both = "; differences and tests are of the seeds that an arm and the baseline both have" if partly else ""
    return f"**Not there yet:** {', '.join(parts)}{both}."


def runs_of(numbers: Sequence[int]) -> str:
    """Returns whole numbers as people write them: `0–3, 7`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}–{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts)


def _scores(budget: BudgetResult) -> list[str]:
    kinds = [kind for kind in META_TASKS if all(kind in arm.means for arm in budget.arms)]
    columns = ["arm", "seeds", "hit@1", "difference", "p", "p (Holm)", "p (signs)", *kinds]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for arm in budget.arms:
        cells = [
            arm.title,
            str(len(arm.seeds)) + (f" ({runs_of(arm.seeds)})" if arm.missing else ""),
            _with_half(arm.score, arm.half),
            _with_half(arm.difference, arm.difference_half, signed=True) + _of(arm),
            *_ps(arm),
            *(f"{100 * arm.means[kind]:.1f}" for kind in kinds),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _ps(one: Tested) -> tuple[str, str, str]:
    return _p(one.p), _p(one.p_holm), _p(one.p_flips)


def _contrasts(budget: BudgetResult) -> list[str]:
    lines = ["| one arm | minus another | seeds | difference | p | p (Holm) | p (signs) |", "|---" * 7 + "|"]
    for one in budget.contrasts:
        difference = _with_half(one.difference, one.difference_half, signed=True)
        cells = [*one.titles, str(one.pairs), difference, *_ps(one)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _of(arm: ArmResult) -> str:
    """How many seeds a difference is of, where that is not seen from the arm's own."""
    return f" ({arm.pairs})" if 0 < arm.pairs < len(arm.seeds) else ""


def _costs(budget: BudgetResult) -> list[str]:
    lines = ["| arm | steps | pairs | tokens | TFLOPs | seconds | learning rates × |", "|---" * 7 + "|"]
    for arm in budget.arms:
        cost = arm.cost
        rates = ", ".join(f"{name} {factor:g}" for name, factor in arm.factors.items()) or "as written"
        cells = [
            arm.title,
            f"{cost['steps']:,.0f}",
            f"{cost['pairs']:,.0f}",
            f"{cost['tokens']:,.0f}",
            f"{cost['flops'] / 1e12:,.2f}",
            f"{cost['seconds']:,.0f}",
            rates,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _probes(budget: BudgetResult) -> list[str]:
    measured = [arm for arm in budget.arms if arm.probes]
    keys = list(dict.fromkeys(key for arm in measured for key in arm.probes or {}))
    lines = [f"| arm | {' | '.join(key.replace('_', ' ') for key in keys)} |", "|---" * (1 + len(keys)) + "|"]
    for arm in measured:
        cells = [f"{arm.probes[key]:.3f}" if arm.probes and key in arm.probes else "–" for key in keys]
        lines.append(f"| {arm.title} | {' | '.join(cells)} |")
    return lines


_BY_LAYER = {
    "hit_at_1": "hit@1 by layer",
    "effective_rank": "effective rank by layer",
    "reads_things": "reads things by layer",
    "content_to_e": "content to e by layer",
    "e_to_image": "e to the picture by layer",
}
"""The measures of layers that the tables show; `layers.csv` has all."""


def _layers(budget: BudgetResult) -> list[str]:
    measured = [arm for arm in budget.arms if arm.layers]
    shown = {key: title for key, title in _BY_LAYER.items() if all(key in arm.layers[-1] for arm in measured)}
    lines = [f"| arm | {' | '.join(shown.values())} |", "|---" * (1 + len(shown)) + "|"]
    for arm in measured:
        cells = [" · ".join(_measure(key, layer[key]) for layer in arm.layers) for key in shown]
        lines.append(f"| {arm.title} | {' | '.join(cells)} |")
    return lines


def _measure(key: str, value: float) -> str:
    return f"{value:.1f}" if key == "effective_rank" else f"{100 * value:.1f}"


def _layers_csv(result: StudyResult) -> str:
    rows = [
        {"budget": budget.budget, "arm": arm.arm, "layer": number, **layer}
        for budget in result.budgets
        for arm in budget.arms
        for number, layer in enumerate(arm.layers, start=1)
    ]
    return _csv(list(dict.fromkeys(["budget", "arm", "layer", *(key for row in rows for key in row)])), rows)


def _runs_csv(records: Sequence[Record]) -> str:
    tasks = sorted({name for record in records for name in record["tasks"]})
    columns = ["arm", "budget", "seed", "score", "steps", "pairs", "tokens", "flops", "seconds", *tasks]
    rows = [
        {
            **{key: record[key] for key in ("arm", "budget", "seed", "score")},
            **record["cost"],
            **{name: task["hit_at_1"] for name, task in record["tasks"].items()},
        }
        for record in records
    ]
    return _csv(columns, rows)


def _arms_csv(result: StudyResult) -> str:
    plain = ["score", "half", "difference", "difference_half", "p", "p_holm", "p_flips"]
    costs = ["steps", "pairs", "tokens", "flops", "seconds"]
    rows = [
        {
            "budget": budget.budget,
            "arm": arm.arm,
            "seeds": len(arm.seeds),
            "seeds_compared": arm.pairs,
            **_fields(arm, plain),
            **arm.cost,
        }
        for budget in result.budgets
        for arm in budget.arms
    ]
    return _csv(["budget", "arm", "seeds", "seeds_compared", *plain, *costs], rows)


def _fields(arm: ArmResult, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(arm, name) for name in names}


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _with_half(rate: float | None, half: float | None, *, signed: bool = False) -> str:
    if rate is None:
        return "–"
    shown = f"{100 * rate:+.1f}" if signed else f"{100 * rate:.1f}"
    return shown.replace("-", "−") + (f" ± {100 * half:.1f}" if half is not None else "")


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
