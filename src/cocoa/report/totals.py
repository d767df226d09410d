"""What many steps add up to: rates are weighted by what they are rates of, never means of rates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Totals:
    """The sums of some steps' records, over all ranks; `waiting` and `memory_bytes` (the most) are of the first."""

    steps: int
    pairs: int
    skipped: int
    cut_texts: int
    tokens: float
    places: float
    seconds: float
    waiting: float
    memory_bytes: int

    @property
    def tokens_per_second(self) -> float:
        """Real tokens, without padding."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def pad_rate(self) -> float:
        """Share of padding in what the model computed."""
        return 1 - self.tokens / self.places if self.places else 0.0

    @property
    def wait_rate(self) -> float:
        """Share of the time in which a step waited for its data."""
        return self.waiting / self.seconds if self.seconds else 0.0


def total(records: Iterable[Mapping[str, Any]]) -> Totals:
    """Returns the sums over records."""
    records = list(records)
    tokens = [record["tokens_per_second"] * record["seconds"] for record in records]
    return Totals(
        steps=len(records),
        pairs=sum(record["pairs"] for record in records),
        skipped=sum(record["skipped"] for record in records),
        cut_texts=sum(record["cut_texts"] for record in records),
        tokens=sum(tokens),
        # A step without a token has computed nothing, whatever its pad rate.
        places=sum(num / (1 - record["pad_rate"]) for num, record in zip(tokens, records, strict=True) if num),
        seconds=sum(record["seconds"] for record in records),
        waiting=sum(record["data_wait_seconds"] for record in records),
        memory_bytes=max((record["memory_bytes"] for record in records), default=0),
    )
