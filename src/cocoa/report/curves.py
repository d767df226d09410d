"""Curves of a run from its records: losses of each stage, and its speed, padding and memory over the whole run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Points = list[tuple[float, float]]

_WORDS = {
    "masked_text": "hidden words",
    "masked_patch": "hidden patches",
    "next_token": "next word",
    "bridged_text": "words through e",
    "bridged_patch": "patches through e",
    "contrastive": "contrastive",
}


def in_words(objective: str) -> str:
    """Returns an objective's name for readers."""
    return _WORDS.get(objective, objective.replace("_", " "))


def stage_losses(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Points]]:
    """Returns stage -> objective in words -> (step, loss), in the order of the run."""
    stages: dict[str, dict[str, Points]] = {}
    for record in records:
        for objective, loss in record["losses"].items():
            series = stages.setdefault(record["stage"], {}).setdefault(in_words(objective), [])
            series.append((record["step"], loss))
    return stages


def shared_losses(runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> dict[str, dict[str, Points]]:
    """Returns stage -> series over several titled runs; a stage that more than one run has shows them together."""
    losses = {title: stage_losses(records) for title, records in runs}
    # The run with most stages says their order.
    order = dict.fromkeys(stage for stages in sorted(losses.values(), key=len, reverse=True) for stage in stages)
    shared: dict[str, dict[str, Points]] = {}
    for stage in order:
        having = {title: stages[stage] for title, stages in losses.items() if stage in stages}
        series = {}
        for title, objectives in having.items():
            for objective, points in objectives.items():
                series[_series_name(title, objective, len(having), len(objectives))] = points
        shared[stage] = series
    return shared


@dataclass(frozen=True)
class Curve:
    """One number over the steps of the run, a series for each stage, one after another on one axis."""

    title: str
    unit: str
    series: Mapping[str, Points]
    noisy: bool = True


def run_curves(records: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Returns what a run cost and how it was driven: learning rate, gradient norm, speed, padding, waiting, memory."""
    power = _power(max((record["learning_rate"] for record in records), default=0.0))
    unit = f"× 10{str(power).translate(_RAISED)}" if power else ""

    def over(measure: Callable[[Mapping[str, Any]], float]) -> dict[str, Points]:
        series: dict[str, Points] = {}
        for number, record in enumerate(records):
            series.setdefault(record["stage"], []).append((number, measure(record)))
        return series

    return [
        Curve("Learning rate", unit, over(lambda record: record["learning_rate"] / 10.0**power), noisy=False),
        Curve("Gradient norm", "before it is clipped", over(lambda record: record["gradient_norm"])),
        Curve("Speed", "tokens a second, without padding", over(lambda record: record["tokens_per_second"])),
        Curve("Padding", "% of what was computed", over(lambda record: 100 * record["pad_rate"])),
        Curve("Waiting for data", "% of the step's time", over(_waiting)),
        Curve("Memory", "GB, the most so far", over(lambda record: record["memory_bytes"] / 1e9), noisy=False),
    ]


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _power(value: float) -> int:
    """The power of ten to write a small number with."""
    return math.floor(math.log10(value)) if 0 < value < 0.01 else 0


def _waiting(record: Mapping[str, Any]) -> float:
    # Thousandths of a percent say nothing.
    return round(100 * record["data_wait_seconds"] / record["seconds"], 1) if record["seconds"] else 0.0


def _series_name(title: str, objective: str, num_runs: int, num_objectives: int) -> str:
    if num_runs == 1:
        return objective
    return title if num_objectives == 1 else f"{title}: {objective}"
