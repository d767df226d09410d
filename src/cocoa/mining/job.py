"""A job that puts hard negatives into training tables: in shards, resumed if killed, nothing embedded twice.

In the folder: `train/` with the tables, `images` (and archives), where their paths lead, and `mining.json`, which is
written last; in `job/` what was asked for (`job.json`), the vectors, what came of each table, and `bad_rows.jsonl`.
`MmebTrain` reads the folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

import cocoa
from cocoa.data.bad_rows import BadRows
from cocoa.errors import CocoaError, DataError, ModelError, UsageError
from cocoa.files import sha256, sweep, write_file
from cocoa.mining.placing import named_pictures, place_images
from cocoa.mining.ranking import rank_targets
from cocoa.mining.rows import Cells, Row, Table, read_tables, with_negatives
from cocoa.mining.vectors import OnProgress, VectorStore, content_digests
from cocoa.mining.window import Window
from cocoa.model import CARD, EmbeddingModel, best_device, fingerprint, local_folder
from cocoa.sample import Sample

Pool = Literal["table", "all"]
Say = Callable[[str], None]

_QUANTILES = {"min": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}


@dataclass(frozen=True, slots=True)
class Summary:
    """What a job made of how many rows: negatives `mined`, and `kept` of those that were there; `bad` by code.

    `dropped` negatives were there and equal a right target or another; `short_rows` have fewer than wanted;
    `not_first` is the rate of rows whose own target does not score above all that are not right.
    """

    tables: int
    rows: int
    mined: int
    kept: int
    dropped: int
    short_rows: int
    not_first: float
    bad: dict[str, int]


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
    if pool not in get_args(Pool) or shard_size < 1 or workers < 1:
        raise UsageError("E_USAGE_MINING", "pool is table or all, shard_size and workers are 1 or more")
    out = out.absolute()
    if out.exists() and not (out / "job").is_dir() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("E_USAGE_OUT", "not empty, and not of a mining job; choose another", where=str(out))
    source = local_folder(model)
    digest = _fingerprint(source)
    bad = BadRows(max_bad_rate)
    tables = read_tables(train, split=split, subsets=subsets, limit=limit, on_bad=bad.note)
    pictures = named_pictures(
        picture for table in tables for row in table.rows for picture in row.pictures(negatives=keep)
    )
    inputs = _Inputs.of(tables, keep, bad)
    settings = {**asdict(window or Window()), "pool": pool, "keep": keep, "shard_size": shard_size}
    store = (vectors or out / "job" / "vectors").absolute()
    with ExitStack() as held:
        for folder in (out / "job", store):
            held.enter_context(_only_writer(folder, out))
        for folder in (out, out / "job", out / "job" / "tables", out / "train", store):
            sweep(folder)
        job = _Job(out, window or Window(), pool, digest, settings, inputs)
        job.open()
        place_images(pictures, out, copy=copy_images)
        if (summary := job.finished()) is not None:
            (say or _ignore)("finished before: nothing was computed")
            return summary
        vectors_of = VectorStore(store, digest, inputs.samples, inputs.contents, shard_size)
        vectors_of.fill(
            lambda: EmbeddingModel.load(source), workers, on_progress or _ignore, strict=max_bad_rate is None
        )
        return job.run(vectors_of, bad)


def _ignore(*_: Any) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row, and the places of its samples among the distinct ones."""

    row: Row
    query: int
    target: int
    negatives: tuple[int, ...]

    @property
    def places(self) -> tuple[int, ...]:
        return (self.query, self.target, *self.negatives)


@dataclass(frozen=True)
class _Inputs:
    """The rows of each table whose files can be read, and their distinct samples with their contents."""

    tables: list[tuple[Table, list[_Entry]]]
    samples: list[Sample]
    contents: list[str]
    total: int

    @classmethod
    def of(cls, tables: Sequence[Table], keep: bool, bad: BadRows) -> _Inputs:
        total = sum(len(table.rows) for table in tables) + len(bad.rows)
        bad.check(total)
        rows = [row for table in tables for row in table.rows]
        sides = [(row.pair.query, row.pair.target, *(row.pair.negatives if keep else ())) for row in rows]
        digests = iter(content_digests([sample for side in sides for sample in side]))
        places: dict[str, int] = {}
        samples: list[Sample] = []
        entries: dict[int, _Entry] = {}
        for number, (row, side) in enumerate(zip(rows, sides, strict=True)):
            found = [next(digests) for _ in side]
            if problem := next((one for one in found if isinstance(one, CocoaError)), None):
                bad.note(problem.at(row.pair.query.where))
                continue
            for content, sample in zip(found, side, strict=True):
                if content not in places:
                    places[str(content)] = len(samples)
                    samples.append(sample)
            query, target, *negatives = (places[str(content)] for content in found)
            entries[number] = _Entry(row, query, target, tuple(negatives))
        bad.check(total)
        ends = list(accumulate(len(table.rows) for table in tables))
        made = [
            (table, [entries[number] for number in range(end - len(table.rows), end) if number in entries])
            for table, end in zip(tables, ends, strict=True)
        ]
        return cls(made, samples, list(places), total)

    def digests(self) -> dict[str, str]:
        """Returns a digest of each table: of its files, and of what its rows show."""
        return {table.name: self._digest(table, entries) for table, entries in self.tables}

    def _digest(self, table: Table, entries: Sequence[_Entry]) -> str:
        digest = hashlib.sha256("\n".join(sha256(path) for path in table.paths).encode())
        for entry in entries:
            contents = [self.contents[place] for place in entry.places]
            digest.update(f"\n{entry.row.number} {' '.join(contents)}".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class _Pool:
    """The distinct targets that a row's negatives are taken from: content key to place, cells, and vectors [T, D]."""

    places: dict[int, int]
    cells: list[Cells]
    vectors: NDArray[np.float32]

    @classmethod
    def of(cls, entries: Sequence[_Entry], keys: Sequence[int], store: VectorStore) -> _Pool:
        first = {keys[entry.target]: entry for entry in reversed(entries)}
        # In the rows' order, which decides between equal scores.
        chosen = {keys[entry.target]: first[keys[entry.target]] for entry in entries}
        return cls(
            {key: place for place, key in enumerate(chosen)},
            [entry.row.target for entry in chosen.values()],
            store.take(np.array([entry.target for entry in chosen.values()])),
        )


@dataclass
class _Counts:
    """What came of the rows of a table."""

    mined: int = 0
    kept: int = 0
    dropped: int = 0
    short_rows: int = 0
    not_first: int = 0


class _Job:
    """One job in its folder; this process is the only one there."""

    def __init__(
        self, out: Path, window: Window, pool: Pool, model: str, settings: dict[str, Any], inputs: _Inputs
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
        tables: list[tuple[Table, list[_Entry]]] = []
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
        whole: _Pool | None = None
        facts: dict[str, Any] = {}
        for table, good in tables:
            path = self.out / "job" / "tables" / f"{table.name}.json"
            fact = self._finished_table(table, path)
            if fact is None:
                if self.pool == "all":
                    whole = whole or _Pool.of(every, keys, store)
                targets = whole or _Pool.of(good, keys, store)
                fact = self._mine(table, good, targets, keys, right, store)
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

    def _mine(
        self,
        table: Table,
        entries: Sequence[_Entry],
        targets: _Pool,
        keys: Sequence[int],
        right: dict[int, dict[int, None]],
        store: VectorStore,
    ) -> dict[str, Any]:
        """Writes a table with its negatives; returns what came of it."""
        wanted = self.window.negatives
        pool_keys = np.array(list(targets.places))
        rankings = rank_targets(
            store.take(np.array([entry.query for entry in entries])),
            targets.vectors,
            [targets.places[keys[entry.target]] for entry in entries],
            [[targets.places[key] for key in right[keys[entry.query]] if key in targets.places] for entry in entries],
            self.window.last_rank,
            device=best_device(),
        )
        counts = _Counts()
        positives: list[NDArray[np.float32]] = []
        scores: list[NDArray[np.float32]] = []
        filled: list[list[Cells]] = []
        for ranking in rankings:
            positives.append(ranking.positive)
            counts.not_first += int((ranking.rank > 1).sum())
            highest = self.window.highest(ranking.positive)
            for place in range(len(ranking.positive)):
                entry = entries[ranking.start + place]
                pair = keys[entry.query], keys[entry.target]
                kept = {
                    keys[negative]: cells
                    for negative, cells in zip(entry.negatives, entry.row.negatives, strict=False)
                    if keys[negative] not in right[pair[0]]
                }
                near = ranking.places[place]
                columns = self.window.pick(pool_keys[near], ranking.scores[place], highest[place], kept.keys(), pair)
                filled.append([*kept.values(), *(targets.cells[target] for target in near[columns].tolist())])
                scores.append(ranking.scores[place, columns])
                counts.mined += len(columns)
                counts.kept += len(kept)
                counts.dropped += len(entry.negatives) - len(kept)
                counts.short_rows += len(filled[-1]) < wanted
        content = with_negatives(table, [entry.row for entry in entries], filled)
        write_file(self.out / "train" / table.file_name, content)
        return {
            "rows": len(entries),
            "targets": len(targets.cells),
            **asdict(counts),
            "positive_scores": _quantiles(positives),
            "negative_scores": _quantiles(scores),
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    def _write_summary(self, facts: dict[str, Any], bad: BadRows) -> Summary:
        total = {name: sum(fact[name] for fact in facts.values()) for name in ("rows", *_Counts().__dict__)}
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


def _quantiles(scores: Sequence[NDArray[np.float32]]) -> dict[str, float]:
    every = np.concatenate(scores)
    if not len(every):
        return {}
    values = np.quantile(every, list(_QUANTILES.values()))
    return {name: round(float(value), 6) for name, value in zip(_QUANTILES, values, strict=True)}


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
    if not (model / CARD).is_file():
        raise ModelError("E_MODEL_MISSING", f"not a model folder: no {CARD}", where=str(model))
    try:
        return fingerprint(model)
    except OSError as error:
        raise ModelError("E_MODEL_INCOMPLETE", "no manifest of its files", where=str(model)) from error


@contextmanager
def _only_writer(folder: Path, out: Path) -> Iterator[None]:
    """Holds a folder for this process; the hold goes with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError("E_USAGE_BUSY", f"another process is at work in {folder}", where=str(out)) from error
        yield
