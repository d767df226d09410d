"""How far a job is, what it has cost, and when it will be done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cocoa.synthesis.chats import Reply
from cocoa.synthesis.conversations import Outcome


@dataclass(frozen=True, slots=True)
class Prices:
    """What a million tokens cost, in any currency; 0 is not known or nothing."""

    prompt: float = 0.0
    completion: float = 0.0

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Returns the price of so many tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


class Progress:
    """The counts of a job, earlier runs of it included; the rate is this run's, so what was done before has none."""

    def __init__(self, total: int, prices: Prices, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = self.rows = self.dropped = self.bad = 0
        self.prompt_tokens = self.completion_tokens = 0
        self._prices, self._clock, self._began = prices, clock, clock()
        self._done_before = 0
        self._lock = threading.Lock()

    def resume(self) -> None:
        """Starts the clock of this run: all that was counted until now was done before."""
        self._began, self._done_before = self._clock(), self.done

    def count(self, outcome: Outcome) -> None:
        """Counts a picture."""
        self.done += 1
        self.rows += len(outcome.rows)
        self.dropped += len(outcome.dropped)
        self.bad += len(outcome.bad)

    def pay(self, reply: Reply) -> None:
        """Counts a reply's tokens; any thread may."""
        with self._lock:
            self.prompt_tokens += reply.prompt_tokens
            self.completion_tokens += reply.completion_tokens

    @property
    def cost(self) -> float:
        """The price of all tokens so far."""
        return self._prices.cost(self.prompt_tokens, self.completion_tokens)

    @property
    def rate(self) -> float:
        """Pictures a second in this run; 0 before the first."""
        seconds = self._clock() - self._began
        return (self.done - self._done_before) / seconds if seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """The time until the last picture, at the present rate; None before the first."""
        return (self.total - self.done) / self.rate if self.rate else None

    def line(self) -> str:
        """Returns all of it in one line."""
        parts = [f"{self.done:,}/{self.total:,} pictures"]
        if self.rate:
            parts.append(f"{self.rate:.1f}/s")
        if self.done < self.total and self.seconds_left is not None:
            parts.append(f"{_duration(self.seconds_left)} left")
        parts.append(f"{self.rows:,} rows, {self.dropped:,} dropped, {self.bad:,} bad")
        parts.append(f"{self.prompt_tokens:,} + {self.completion_tokens:,} tokens")
        if self._prices != Prices():
            whole = self.cost * self.total / self.done if self.done else 0.0
            parts.append(f"cost {_money(self.cost)}" + (f" of about {_money(whole)}" if self.done < self.total else ""))
        return " · ".join(parts)


def _money(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.4f}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
