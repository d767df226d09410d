"""The shards of a job: finished ones with digests, and journals of those in work, so that no reply is paid twice."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from cocoa.errors import DataError
from cocoa.files import write_file
from cocoa.synthesis.conversations import Outcome
from cocoa.synthesis.journal import Journal, write_journal


@dataclass
class Shard:
    """A shard in work: what came of its pictures so far, by name, and the replies behind it."""

    number: int
    names: list[str]
    journal: Journal
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether all of its pictures have an outcome."""
        return len(self.outcomes) == len(self.names)


class Shards:
    """The files of a job's shards, in its folder `job`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, number: int) -> Path:
        """Where a finished shard is."""
        return self.folder / "shards" / f"{number:05}.json"

    def journal(self, number: int) -> Path:
        """Where the replies of one in work are."""
        return self.folder / "journal" / f"{number:05}.jsonl"

    def read(self, number: int) -> dict[str, Any] | None:
        """Returns a finished shard, or None. Raises `E_DATA_INCOMPLETE` for one that is not as it was written."""
        path = self.path(number)
        if not path.exists():
            return None
        digest, _, body = path.read_bytes().partition(b"\n")
        if digest.decode("ascii", "replace") != sha256(body).hexdigest():
            what = "the shard is not as it was written; remove it to ask again"
            raise DataError("E_DATA_INCOMPLETE", what, where=str(path))
        content: dict[str, Any] = json.loads(body)
        return content

    def commit(self, shard: Shard) -> None:
        """Commits a shard; only then its journal goes."""
        content = {
            "shard": shard.number,
            "pictures": [shard.outcomes[name].to_json() for name in shard.names],
            "replies": shard.journal.lines(),
        }
        body = json.dumps(content, separators=(",", ":")).encode()
        write_file(self.path(shard.number), sha256(body).hexdigest().encode() + b"\n" + body)
        shard.journal.remove()

    def with_bad(self) -> list[int]:
        """Returns the numbers of finished shards that have bad pictures."""
        numbers = sorted(int(path.stem) for path in (self.folder / "shards").glob("*.json"))
        found = ((number, self.read(number)) for number in numbers)
        return [number for number, content in found if content and any(each["bad"] for each in content["pictures"])]

    def reopen(self, number: int) -> None:
        """Puts a finished shard back in work."""
        content = self.read(number)
        assert content is not None, "it is finished"
        # The replies go back into a journal first, so that nothing but the bad is asked again.
        write_journal(self.journal(number), content["replies"])
        self.path(number).unlink()
