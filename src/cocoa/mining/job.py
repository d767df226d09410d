"""A job that puts hard negatives into training tables: in shards, resumed if killed, nothing embedded twice.

In the folder: `train/` with the tables, `images` (and archives), where their paths lead, and `mining.json`, which is
written last; in `job/` what was asked for (`job.json`), the vectors, what came of each table, and `bad_rows.jsonl`.
`MmebTrain` reads the folder.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import cocoa
from cocoa.claims import only_writer
from cocoa.data.bad_rows import BadRows
from cocoa.errors import CocoaError, DataError, ModelError, UsageError
from cocoa.files import sha256, sweep, write_file
from cocoa.images import ImageSource
from cocoa.mining.inputs import Entry, Inputs
from cocoa.mining.negatives import Counts, Targets, mine_table
from cocoa.mining.placing import named_pictures, place_images
from cocoa.mining.rows import Row, Table, check_written, read_tables
from cocoa.mining.vectors import OnProgress, VectorStore
from cocoa.mining.window import Window
from cocoa.model import Card, EmbeddingModel, fingerprint, local_folder

Pool = Literal["table", "all"]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a job made of how many rows: negatives `mined`, and `kept` of those that were there; `bad` by code.

    `dropped` negatives were there and equal a right target or another; `short_rows` have fewer than wanted;
    `not_first` is the rate of rows whose own target does not score above all that are not right; `bounded_rows` are the
    short ones that would have more if the window had no bound on scores.
    """

    tables: int
    rows: int
    mined: int
    kept: int
    dropped: int
    short_rows: int
    not_first: float
    bad: dict[str, int]
    bounded_rows: int = 0


def mine(
    model: str | Path,
    train: Path,
    out: Path,
    *,
    window: Window | None = None,
    pool: Pool = "table",
    keep: bool = True,
    split: str = "original",
    subsets: Sequence[str] | None = None,
    limit: int | None = None,
    max_bad_rate: float | None = None,
    copy_images: bool = False,
    vectors: Path | None = None,
    shard_size: int = 1024,
    workers: int = 4,
    on_progress: OnProgress | None = None,
    say: Say | None = None,
) -> Summary:
    """Returns what was mined; writes the tables that `MmebTrain` reads from `train` into `out`, with negatives.

    A negative is the target of another row that the model takes to be near. It is never right for the query by any row
    with an equal query, and no two of a row are equal; equal is what looks the same to the model. Killed at any time
    and called again, it goes on; finished, it does nothing.

    Args:
        model: model folder, or `OWNER/NAME` on the hub.
        train: a table or a folder of tables, as `MmebTrain` takes it.
        out: new, empty, or the folder of the same job.
        window: how many negatives a row gets, and which.
        pool: search among the targets of a row's own table, or of all tables.
        keep: negatives that are there stay, and count; otherwise they are replaced.
        split: which wording of a snapshot is read.
        subsets: which subsets of a snapshot; default is all.
        limit: good rows read of each table.
        max_bad_rate: the highest rate of rows that may be left out as unreadable; None: the first is an error.
        copy_images: copy the pictures into `out` (a folder that can be moved) instead of linking to them.
        vectors: folder of the vectors, for several jobs with other windows; default is in `out`.
        shard_size: samples whose vectors are written at a time.
        workers: threads that decode pictures.
        on_progress: told how many samples of how many have a vector.
        say: told what a person should know.

    Raises:
        UsageError: E_USAGE_OUT for a folder of something else or of another job (all differences are named),
            E_USAGE_BUSY while another process works there.
        DataError: for rows, tables and pictures that cannot be used; E_DATA_BAD_ROWS for too many.
        ModelError: for a model that cannot be used.
    """
    if pool not in get_args(Pool):
        raise UsageError("E_USAGE_MINING", f"pool is {pool!r}; use {' or '.join(get_args(Pool))}")
    if shard_size < 1 or workers < 1:
        raise UsageError("E_USAGE_MINING", f"shard_size is {shard_size}, workers {workers}; both are 1 or more")
    out = out.absolute()
    if out.exists() and not (out / "job").is_dir() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("E_USAGE_OUT", "not empty, and not of a mining job; choose another", where=str(out))
    source = local_folder(model)
    digest = _fingerprint(source)
    bad = BadRows(max_bad_rate)
    tables = read_tables(train, split=split, subsets=subsets, limit=limit, on_bad=bad.note)
    check_written(tables, shared=pool == "all")
    # Names that mean two pictures are refused before all files are hashed; what is placed is what could be read.
    _pictures([row for table in tables for row in table.rows], keep)
    inputs = Inputs.of(tables, keep, bad)
    pictures = _pictures([entry.row for _, entries in inputs.tables for entry in entries], keep)
    settings = {**asdict(window or Window()), "pool": pool, "keep": keep, "shard_size": shard_size}
    store = (vectors or out / "job" / "vectors").absolute()
    with ExitStack() as held:
        for folder in (out / "job", store):
            held.enter_context(only_writer(folder, where=out))
        job = _Job(out, window or Window(), pool, digest, settings, inputs)
        job.open()
        for folder in (out, out / "job", out / "job" / "tables", out / "train"):
            sweep(folder)
        sweep(store, ["*.npz"])  # which may be a folder that holds other things as well
        place_images(pictures, out, copy=copy_images)
        if (summary := job.finished()) is not None:
            (say or _ignore)("finished before: nothing was computed")
            return summary
        vectors_of = VectorStore(store, digest, inputs.samples, inputs.contents, shard_size)
        vectors_of.fill(
            lambda: EmbeddingModel.load(source), workers, on_progress or _ignore, strict=max_bad_rate is None
        )
        return job.run(vectors_of, bad)


def _pictures(rows: Sequence[Row], keep: bool) -> dict[str, ImageSource]:
    return named_pictures(picture for row in rows for picture in row.pictures(negatives=keep))


def _ignore(*_: Any) -> None:
    """Tells nobody."""


class _Job:
    """One job in its folder; this process is the only one there."""

    def __init__(
        self, out: Path, window: Window, pool: Pool, model: str, settings: dict[str, Any], inputs: Inputs
    ) -> None:
        self.out, self.window, self.pool, self.inputs = out, window, pool, inputs
        self.plan = {"format": 2, "model": model, **settings, "tables": inputs.digests()}
        self.bad_path = out / "job" / "bad_rows.jsonl"

    @cached_property
    def sha256(self) -> str:
        """A digest of all that the result depends on."""
        return hashlib.sha256(json.dumps(self.plan, sort_keys=True).encode()).hexdigest()

    def open(self) -> None:
        """Writes down what the job is, or makes sure that it is the same as before."""
        path = self.out / "job" / "job.json"
        if not path.exists():
            write_file(path, json.dumps(self.plan, indent=1) + "\n")
            return
        try:
            found = _differences(json.loads(path.read_text()), self.plan)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError("E_DATA_INCOMPLETE", "not the description of a job", where=str(path)) from error
        if found:
            what = f"the folder is of another job: {'; '.join(found)}; choose another --out"
            raise UsageError("E_USAGE_OUT", what, where=str(self.out))

    def finished(self) -> Summary | None:
        """What `mining.json` says, if it is of this job and all its files are as they were written."""
        try:
            content = json.loads((self.out / "mining.json").read_text())
            if content["job_sha256"] != self.sha256:
                return None
            if any(sha256(self.out / name) != digest for name, digest in content["files"].items()):
                return None
            return Summary(**content["summary"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def run(self, store: VectorStore, bad: BadRows) -> Summary:
        """Writes the tables that are not there yet, and last what all came to."""
        keys, refused = store.keys()
        tables: list[tuple[Table, list[Entry]]] = []
        for table, entries in self.inputs.tables:
            good = []
            for entry in entries:
                if problem := next((refused[place] for place in entry.places if place in refused), None):
                    bad.note(CocoaError(problem.code, problem.message, where=entry.row.pair.query.where))
                else:
                    good.append(entry)
            tables.append((table, good))
        bad.check(self.inputs.total)
        for table, good in tables:
            if not good:
                raise DataError("E_DATA_EMPTY", "no row of the table can be used", where=str(table.paths[0]))
        every = [entry for _, good in tables for entry in good]
        right: dict[int, dict[int, None]] = {}
        for entry in every:
            right.setdefault(keys[entry.query], {})[keys[entry.target]] = None
        whole: Targets | None = None
        facts: dict[str, Any] = {}
        for table, good in tables:
            path = self.out / "job" / "tables" / f"{table.name}.json"
            fact = self._finished_table(table, path)
            if fact is None:
                if self.pool == "all":
                    whole = whole or Targets.of(every, keys, store)
                targets = whole or Targets.of(good, keys, store)
                content, fact = mine_table(table, good, targets, keys, right, store, self.window)
                write_file(self.out / "train" / table.file_name, content)
                write_file(path, json.dumps(fact, indent=1) + "\n")
            facts[table.name] = fact
        write_file(self.bad_path, "".join(json.dumps(row.to_json()) + "\n" for row in bad.rows))
        return self._write_summary(facts, bad)

    def _finished_table(self, table: Table, path: Path) -> dict[str, Any] | None:
        try:
            fact: dict[str, Any] = json.loads(path.read_text())
            return fact if sha256(self.out / "train" / table.file_name) == fact["sha256"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write_summary(self, facts: dict[str, Any], bad: BadRows) -> Summary:
        # Tables that were done before a count came to be do not have it.
        total = {name: sum(fact.get(name, 0) for fact in facts.values()) for name in ("rows", *Counts().__dict__)}
        summary = Summary(
            tables=len(facts),
            **total | {"not_first": total["not_first"] / total["rows"]},
            bad=dict(sorted(Counter(row.code for row in bad.rows).items())),
        )
        names = {table.name: f"train/{table.file_name}" for table, _ in self.inputs.tables}
        content = {
            "job_sha256": self.sha256,
            "cocoa": cocoa.__version__,
            **self.plan,
            "summary": asdict(summary),
            "tables": {
                name: {key: value for key, value in fact.items() if key != "sha256"}
                | {"not_first": fact["not_first"] / fact["rows"], "input_sha256": self.plan["tables"][name]}
                for name, fact in facts.items()
            },
            "files": {names[name]: fact["sha256"] for name, fact in facts.items()}
            | {self.bad_path.relative_to(self.out).as_posix(): sha256(self.bad_path)},
        }
        write_file(self.out / "mining.json", json.dumps(content, indent=1) + "\n")
        return summary


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What two jobs differ in, in words."""
    found = [
        f"{key} is {new.get(key)!r}, was {old.get(key)!r}"
        for key in sorted((old.keys() | new.keys()) - {"tables"})
        if old.get(key) != new.get(key)
    ]
    before, after = old["tables"], new["tables"]
    changes = {
        "new": [name for name in after if name not in before],
        "gone": [name for name in before if name not in after],
        "changed (rows or pictures)": [name for name in after if name in before and before[name] != after[name]],
    }
    return found + [f"tables {', '.join(names)} are {what}" for what, names in changes.items() if names]


def _fingerprint(model: Path) -> str:
    Card.read(model, older=True)
    try:
        return fingerprint(model)
    except OSError as error:
        raise ModelError("E_MODEL_INCOMPLETE", "no manifest of its files", where=str(model)) from error
