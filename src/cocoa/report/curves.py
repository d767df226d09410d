"""Curves of a run from its records: losses of each stage, and how fast it read."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

Points = list[tuple[float, float]]

_WORDS = {
    "masked_text": "hidden words",
    "masked_patch": "hidden patches",
    "next_token": "next word",
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


def throughput(records: Sequence[Mapping[str, Any]]) -> Points:
    """Returns (step of the whole run, tokens per second)."""
    return [(number, record["tokens_per_second"]) for number, record in enumerate(records)]


def throughput_sentence(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns how fast the run read, and what part of its time it waited for data."""
    if not records:
        return "No step was recorded."
    speed = statistics.median(record["tokens_per_second"] for record in records)
    seconds = sum(record["seconds"] for record in records)
    waiting = sum(record["data_wait_seconds"] for record in records) / seconds if seconds else 0.0
    return f"{speed:,.0f} tokens a second (median of {len(records)} steps); {waiting:.1%} of the time waiting for data."


def stage_starts(records: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """Returns where in the whole run each stage begins."""
    starts = [(0, records[0]["stage"])] if records else []
    changes = enumerate(pairwise(records), start=1)
    return starts + [(number, new["stage"]) for number, (old, new) in changes if old["stage"] != new["stage"]]


def _series_name(title: str, objective: str, num_runs: int, num_objectives: int) -> str:
    if num_runs == 1:
        return objective
    return title if num_objectives == 1 else f"{title}: {objective}"
