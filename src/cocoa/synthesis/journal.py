"""The replies of a shard in work, one JSON line each, so that a killed job does not pay for them again."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from cocoa.files import write_file
from cocoa.synthesis.chats import Reply

LOST = "lost"
"""How a reply ended that is none: it only says what a question without a reply has cost."""


class Journal:
    """Replies by the key of their chat; each is on the disk before `add` returns. Threads may share it.

    A loss has the key of its chat with ` lost` behind it, so that the chat is still asked.
    """

    def __init__(self, path: Path) -> None:
        """Reads what is there; a last line that a kill cut short is taken off."""
        self.path = path
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            write_file(path, whole)
        self.replies = to_replies(json.loads(line) for line in whole.splitlines())

    def add(self, key: str, reply: Reply) -> None:
        """Keeps a reply."""
        with self._lock:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("ab")
            self._file.write(_line(key, reply))
            self._file.flush()
            os.fsync(self._file.fileno())
            self.replies[key] = reply

    def add_loss(self, key: str, tokens: tuple[int, int]) -> Reply:
        """Keeps what a chat without a reply has cost, with what it cost before; returns the new part."""
        loss = Reply("", LOST, *tokens, "")
        key = f"{key} {LOST}"
        before = self.replies.get(key, Reply("", LOST, 0, 0, ""))
        paid = before.prompt_tokens + loss.prompt_tokens, before.completion_tokens + loss.completion_tokens
        self.add(key, Reply("", LOST, *paid, ""))
        return loss

    def lines(self) -> list[dict[str, Any]]:
        """Returns the replies as a shard keeps them, in an order that does not depend on when they came."""
        return [{"key": key, **asdict(reply)} for key, reply in sorted(self.replies.items())]

    def remove(self) -> None:
        """Closes and deletes the file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file; it stays."""
        if self._file is not None:
            self._file.close()
            self._file = None


def write_journal(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Writes a journal from what `Journal.lines` gave."""
    write_file(path, b"".join(_line(key, reply) for key, reply in to_replies(lines).items()))


def to_replies(lines: Iterable[dict[str, Any]]) -> dict[str, Reply]:
    """Returns the replies by key, from what `Journal.lines` gave."""
    return {line["key"]: Reply(**{name: line[name] for name in line if name != "key"}) for line in lines}


def _line(key: str, reply: Reply) -> bytes:
    return json.dumps({"key": key, **asdict(reply)}).encode() + b"\n"
