"""Rows that cannot be used, and what becomes of them: an error at the first, or a list that must stay short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from cocoa.errors import CocoaError, DataError

OnBad = Callable[[CocoaError], None]
"""What is done about a bad row: raise its error (`fail`) or note it (`BadRows.note`); then the row is left out."""

_NAMED_ROWS = 3
_LONGEST_MESSAGE = 500


def fail(error: CocoaError) -> None:
    """Raises the error: the policy that allows no bad row."""
    raise error


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was left out: its file and row, and why."""

    where: str
    code: str
    message: str

    @classmethod
    def of(cls, error: CocoaError, where: str) -> BadRow:
        """Returns the row that an error is about; a message that quotes a huge cell is cut."""
        message = error.message
        if len(message) > _LONGEST_MESSAGE:
            message = message[: _LONGEST_MESSAGE - 3] + "..."
        return cls(where, error.code, message)

    def to_json(self) -> dict[str, str]:
        """Returns the keys `where`, `code` and `message`."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.where}: {self.message} [{self.code}]"


class BadRows:
    """The bad rows of any number of tables; more than `max_rate` of all rows are an error, with None the first is."""

    def __init__(self, max_rate: float | None) -> None:
        self._max_rate = max_rate
        self.rows: list[BadRow] = []

    def note(self, error: CocoaError) -> None:
        """Adds the row to the list, or raises where none is allowed; an `OnBad`."""
        if self._max_rate is None:
            raise error
        self.rows.append(BadRow.of(error, error.where))

    def check(self, total: int) -> None:
        """Raises DataError E_DATA_BAD_ROWS if the bad rows are too many of `total`, the number of good and bad rows."""
        # Divided, not multiplied: 29 of 100 is 0.29 to the last bit, but 0.29 * 100 is less than 29.
        rate = len(self.rows) / max(total, 1)
        if self._max_rate is None or rate <= self._max_rate:
            return
        listed = "\n".join(f"  {row}" for row in self.rows[:_NAMED_ROWS])
        raise DataError(
            "E_DATA_BAD_ROWS",
            f"{len(self.rows)} of {total} rows are bad, {rate:.3%} where {self._max_rate:.3%} are allowed; "
            f"the first:\n{listed}\n",
        )
