"""What an index asks of the place where its rows are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cocoa.corpus.filters import Filter
from cocoa.corpus.stores.rows import Card


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check found: how many files or rows were looked at, and a line for each that is not what was written."""

    checked: int
    damages: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damages


class Store(Protocol):
    """Rows in the layout of `stores.rows`; every method sees one whole version of them."""

    uri: str
    card: Card

    @property
    def notice(self) -> str | None:
        """What people must know of the version that was opened, such as that a newer one is damaged."""

    @property
    def approximate(self) -> dict[str, Any] | None:
        """The approximate index, its settings and its measured recall@10; None while search is exact."""

    def count(self, condition: Filter | None) -> int:
        """Returns how many rows pass."""

    def nearest(self, queries: NDArray[np.float32], limit: int, condition: Filter | None) -> list[pa.Table]:
        """Returns for each query (Q, D) about the `limit` nearest rows that pass, in any order; fewer only if all."""

    def take(self, ids: Sequence[str]) -> pa.Table:
        """Returns the rows of these ids, in any order; unknown ids are left out."""

    def scan(self, fields: Sequence[str], condition: Filter | None = None) -> Iterator[pa.RecordBatch]:
        """Yields the fields of all rows that pass, in any order."""

    def put(self, batch: pa.RecordBatch, *, replace: bool) -> None:
        """Writes given rows; on return they are durable. Without `replace` a known id raises `E_INDEX_ID`."""

    def delete(self, ids: Sequence[str]) -> int:
        """Removes rows and returns how many there were; on return they are durably gone."""

    def verify(self) -> Verification:
        """Returns what is not as it was written."""

    def close(self) -> None:
        """Gives back what is held open."""
