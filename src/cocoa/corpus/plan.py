"""The plan of an embedding job: which rows make which shard, made once by a look at the input, the same for everybody.

It stands in `OUT/plan.json` beside `OUT/listing.jsonl`, the files of the input as they were. Neither says how far the
job is: that is told by the shards that are there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cocoa.corpus.embeddings import FORMAT, PLAN
from cocoa.corpus.inputs import Input
from cocoa.corpus.sources.parquet import ParquetReader
from cocoa.corpus.sources.source import Part
from cocoa.corpus.tally import RowTally
from cocoa.embedder import Embedder, identity_difference
from cocoa.errors import DataError, ModelError, UsageError
from cocoa.files import sha256, write_file

LISTING = "listing.jsonl"


@dataclass(frozen=True)
class PlannedShard:
    """The rows of a shard, and which of them (counted from 0) repeat an id, with where it stood first."""

    name: str
    part: Part
    repeats: Mapping[int, str]


@dataclass(frozen=True)
class Plan:
    """What a job does: with which model, from which input, in which shards.

    `named` says whether the rows have ids of their own; `notes` are columns that are not kept or not embedded, and why.
    """

    model: str
    identity: Mapping[str, Any]
    shard_rows: int
    input: Input
    named: bool
    columns: Mapping[str, str]
    notes: tuple[str, ...]
    shards: tuple[PlannedShard, ...]

    @property
    def rows(self) -> int:
        """Rows of the input, good and bad."""
        return sum(shard.part.rows for shard in self.shards)

    @classmethod
    def make(cls, embedder: Embedder, found: Input, listing: Path, shard_rows: int) -> Plan:
        """Returns the plan after one look at every row of an input; what is held is 16 bytes a row that has an id.

        Raises `DataError`: E_DATA_EMPTY for no rows, E_DATA_COLUMN for a table with neither text nor image, E_DATA_ID
        where ids repeat so often that they are none, and what reading raises for a file as a whole.
        """
        tally = RowTally(shard_rows)
        with ParquetReader() as reader:
            sources = found.sources(listing, reader)
            for source in sources:
                tally.begin_file()
                source.scan(tally)
        if not tally.rows:
            raise DataError("E_DATA_EMPTY", "the input has no rows", where=str(found.path))
        columns, notes = tally.columns()
        # Where no line could be read there are no columns either, and why is said of the rows.
        is_table = found.kind in ("jsonl", "parquet") and (columns or notes or tally.seen)
        if is_table and not {"text", "image"} & tally.seen:
            what = "; ".join(["table has neither a text nor an image column", *tally.misnamed()])
            raise DataError("E_DATA_COLUMN", what, where=str(found.path))
        named = sources[0].named or "id" in tally.seen
        identity = embedder.identity
        bound = [FORMAT, {name: identity[name] for name in sorted(identity)}, sha256(listing), columns]
        key = hashlib.sha256(repr(bound).encode()).hexdigest()[:12]
        repeats = tally.repeats(found.files) if named else {}
        shards = [
            PlannedShard(f"{number:06}-{key}", part, repeats.get(number, {})) for number, part in enumerate(tally.parts)
        ]
        return cls(embedder.address, identity, shard_rows, found, named, columns, notes, tuple(shards))

    def write(self, path: Path) -> None:
        """Writes the plan."""
        content = {
            "format": FORMAT,
            "model": self.model,
            "identity": dict(self.identity),
            "shard_rows": self.shard_rows,
            "input": {
                "path": str(self.input.path),
                "kind": self.input.kind,
                "files": [str(file) for file in self.input.files],
            },
            "named": self.named,
            "columns": dict(self.columns),
            "notes": list(self.notes),
            "shards": [
                {
                    "name": shard.name,
                    **asdict(shard.part),
                    "repeats": {str(row): where for row, where in shard.repeats.items()},
                }
                for shard in self.shards
            ],
        }
        write_file(path, json.dumps(content) + "\n")

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Returns the plan that was written. Raises `E_DATA_READ`."""
        try:
            content = json.loads(path.read_text())
            if content["format"] != FORMAT:
                raise ValueError
            found = content["input"]
            shards = []
            for entry in content["shards"]:
                name, repeats = entry.pop("name"), {int(row): where for row, where in entry.pop("repeats").items()}
                shards.append(PlannedShard(name, Part(**entry), repeats))
            return cls(
                content["model"],
                content["identity"],
                content["shard_rows"],
                Input(Path(found["path"]), found["kind"], tuple(Path(file) for file in found["files"])),
                content["named"],
                content["columns"],
                tuple(content["notes"]),
                tuple(shards),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise DataError("E_DATA_READ", "the plan of this job cannot be read", where=str(path)) from error

    def check(self, embedder: Embedder, found: Input, listing: Path, shard_rows: int) -> None:
        """Raises unless the same job is asked for: E_MODEL_OTHER, E_USAGE_OUT, or E_SHARD_CHANGED for another input."""
        out = str(listing.parent)
        if difference := identity_difference(self.identity, embedder.identity):
            what = f"the folder was begun with {self.model}, not with {embedder.folder}: {difference}"
            raise ModelError("E_MODEL_OTHER", what, where=out)
        for name, begun, now in (
            ("input", str(self.input.path), str(found.path)),
            ("shard_rows", self.shard_rows, shard_rows),
        ):
            if begun != now:
                raise UsageError("E_USAGE_OUT", f"the folder was begun with {name} {begun}, not {now}", where=out)
        found.compare(listing)


def plan_job(embedder: Embedder, found: Input, out: Path, shard_rows: int) -> Plan:
    """Returns the plan of the job in a folder, made now or when it was begun. Only one process may call this at a time.

    Raises what `Plan.make` and `Plan.check` raise, and E_USAGE_OUT for a folder of something else.
    """
    listing = out / LISTING
    if not (out / PLAN).is_file():
        other = sorted(path.name for path in out.iterdir() if not path.name.startswith(".") and path.name != LISTING)
        if other:
            what = f"the folder holds {other[0]!r} and no {PLAN}: give an empty or a new one"
            raise UsageError("E_USAGE_OUT", what, where=str(out))
        found.write_listing(listing)
        plan = Plan.make(embedder, found, listing, shard_rows)
        plan.write(out / PLAN)
        return plan
    plan = Plan.read(out / PLAN)
    plan.check(embedder, found, listing, shard_rows)
    return plan
