"""What a study does one after another: trials of settings, and runs that count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cocoa.ablation.records import Kind, Record


@dataclass(frozen=True)
class Trial:
    """One run to be: an arm under a budget with a seed, its learning rates multiplied by `factors`, by stage.

    `number` is that of a setting that is tried on the validation tasks; None: it counts, and is scored on the tests.
    """

    arm: str
    budget: str
    seed: int
    factors: Mapping[str, float]
    number: int | None = None

    @property
    def path(self) -> Path:
        """Its record, below the study's folder."""
        name = f"{self.seed}" if self.number is None else f"{self.number}-{self.seed}"
        return Path(self.kind) / self.arm / self.budget / f"{name}.json"

    @property
    def kind(self) -> Kind:
        """Whether it counts or is for tuning."""
        return "runs" if self.number is None else "tuning"


@dataclass(frozen=True)
class Standing:
    """How far a study is: trials that are done, of how many; what runs now; and the records so far."""

    done: int
    of: int
    now: Trial | None
    records: Sequence[Record]
