"""What a process takes part in an embedding job with, and its part of the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cocoa.claims import Claims
from cocoa.corpus.embeddings import PLAN
from cocoa.corpus.filling import BadRowPolicy, Filling, Progress
from cocoa.corpus.plan import Plan
from cocoa.corpus.sources.parquet import ParquetReader
from cocoa.corpus.windows import Windows
from cocoa.crew import leave_with_parent
from cocoa.embedder import Embedder, identity_difference
from cocoa.errors import ModelError


@dataclass(frozen=True)
class Work:
    """What a process needs to take part in a job that has a plan: folders and settings."""

    model: str
    out: Path
    threads: int
    max_bad_rate: float | None


def take_part(work: Work, embedder: Embedder, numbers: list[int] | None = None) -> None:
    """Returns when the shards of a planned job are committed, all or those of these numbers.

    Raises `E_MODEL_OTHER` where the model's name has come to mean another than the job was planned with.
    """
    plan = Plan.read(work.out / PLAN)
    if difference := identity_difference(plan.identity, embedder.identity):
        raise ModelError("E_MODEL_OTHER", f"not the model of the job: {difference}", where=work.model)
    with Claims(work.out) as claims:
        fill_shards(embedder, plan, work, claims, lambda _: leave_with_parent(), numbers)


def fill_shards(
    embedder: Embedder,
    plan: Plan,
    work: Work,
    claims: Claims,
    on_progress: Callable[[Progress], None],
    numbers: list[int] | None = None,
) -> None:
    """Returns when the shards of a plan are committed, all or those of these numbers, by this process or by others."""
    shards = plan.shards if numbers is None else [plan.shards[number] for number in numbers]
    with Windows(embedder, work.threads) as windows, ParquetReader() as reader:
        policy = BadRowPolicy(work.max_bad_rate, plan.rows)
        Filling(plan, work.out, windows, reader, claims, policy).fill(shards, on_progress)
