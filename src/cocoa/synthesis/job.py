"""A job that makes captions or questions with answers from pictures: in shards, resumed if killed, nothing paid twice.

In the folder: the table (`captions.parquet` or `questions.parquet`), `images` (or `images.zip`), where its paths lead,
and `manifest.json`, which is written last; in `job/` what was asked for (`job.json`), the finished shards, the journals
of those in work, `bad_rows.jsonl`, `dropped.jsonl`, and `suspects.json` where an endpoint went down. No file there is
one that a reader takes for a table.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cocoa
from cocoa.claims import only_writer
from cocoa.data.tables import find_images
from cocoa.errors import DataError, UsageError
from cocoa.files import sha256, sweep, write_file
from cocoa.images import ImageSource
from cocoa.synthesis.asking import Asking
from cocoa.synthesis.chats import (
    EndpointError,
    Engine,
    Sampling,
)
from cocoa.synthesis.conversations import Dropped, Outcome
from cocoa.synthesis.journal import LOST, Journal, to_replies
from cocoa.synthesis.placing import link_images, place_images
from cocoa.synthesis.plan import Plan, differences, hash_pictures, list_pictures
from cocoa.synthesis.progress import Prices, Progress
from cocoa.synthesis.prompts import Kind, load_prompts
from cocoa.synthesis.shards import Shard, Shards
from cocoa.synthesis.suspects import SetAsideError, Suspects
from cocoa.synthesis.table import to_json_lines, to_parquet

MOST_PIXELS = 1280 * 28 * 28
"""What Qwen2-VL looks at in a picture, at the most."""

_NOBODY_THERE = frozenset({"E_ENDPOINT_CONNECTION", "E_ENDPOINT_BUSY"})
"""Failures that say nothing of the picture that was asked about."""

OnProgress = Callable[[Progress], None]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a job made: its table, and how much was kept, dropped (by reason), bad (by code) and paid."""

    table: Path
    pictures: int
    rows: int
    dropped: dict[str, int]
    bad: dict[str, int]
    prompt_tokens: int
    completion_tokens: int


def synthesize(
    images: Path,
    out: Path,
    *,
    kind: Kind,
    engine: Engine,
    prompts: str | None = None,
    sampling: Sampling | None = None,
    max_pixels: int = MOST_PIXELS,
    limit: int | None = None,
    shard_size: int = 256,
    give_up_after: int = 20,
    retry_bad: bool = False,
    copy_images: bool = False,
    prices: Prices | None = None,
    on_progress: OnProgress | None = None,
    say: Say | None = None,
) -> Summary:
    """Returns what was made of a folder or zip archive of pictures; writes a table that our readers read into `out`.

    `ImageTextPairs` reads `out/captions.parquet`, `MmebTrain` reads `out` or `out/questions.parquet`. Equal pictures
    are asked about once. Killed at any time and called again, it goes on; finished, it asks nothing more.

    Args:
        images: the pictures; their names in the table are relative to it.
        out: new, empty, or the folder of the same job.
        kind: captions, or questions with answers.
        engine: who is asked, an `Endpoint` or a `LocalEngine`.
        prompts: name of a shipped prompt file, or path of one; default is that of the kind.
        sampling: how replies are drawn.
        max_pixels: larger pictures are made smaller before they are shown.
        limit: draw so many of the pictures, by the sampling's seed.
        shard_size: pictures that are written at a time.
        give_up_after: so many pictures in a row without a reply end the job, as do the last ones if nobody was there to
            reply; they are asked about again next time, last and one at a time. One at which the endpoint breaks off
            again and again is set aside (`E_ENDPOINT_DROPPED` in `bad_rows.jsonl`) and the job goes on.
        retry_bad: ask again about what went to `bad_rows.jsonl`; replies that do not come after it are kept.
        copy_images: copy the pictures into `out` (a folder that can be moved) instead of linking to `images`.
        prices: of a million tokens.
        on_progress: told after each picture.
        say: told what a person should know.

    Raises:
        UsageError: E_USAGE_OUT for a folder of something else or of a job with other settings or pictures (all
            differences are named), E_USAGE_BUSY while another process works there.
        EndpointError: the endpoint refuses the job, or gives no replies for too long.
        DataError: E_DATA_EMPTY if there are no pictures, or no row is left; E_DATA_INCOMPLETE for a damaged shard.
    """
    if max_pixels < 1 or shard_size < 1 or give_up_after < 1:
        raise UsageError("E_USAGE_SYNTHESIS", "max_pixels, shard_size and give_up_after are 1 or more")
    sampling = sampling or Sampling()
    engine.check(sampling)
    named = prompts or _default_prompts(kind, engine)
    loaded = load_prompts(named)
    if loaded.kind != kind:
        raise UsageError("E_USAGE_PROMPTS", f"prompts {named!r} are for {loaded.kind}, not for {kind}")
    images, out = images.absolute(), out.absolute()
    if out.resolve().is_relative_to(images.resolve()):
        raise UsageError("E_USAGE_OUT", f"the folder lies in that of the pictures, {images}", where=str(out))
    names = list_pictures(images, limit=limit, seed=sampling.seed)
    if out.exists() and not (out / "job").is_dir() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("E_USAGE_OUT", "not empty, and not of a synthesis job; choose another", where=str(out))
    with only_writer(out / "job", where=out):
        for folder in (out, out / "job", out / "job" / "shards", out / "job" / "journal"):
            sweep(folder)
        link_images(images, out / "job" / "source")
        find = find_images(out / "job" / "source")
        pictures, bad = hash_pictures(names, find)
        plan = Plan(loaded, engine.model, sampling, max_pixels, shard_size, pictures, bad)
        job = _Job(out, plan, engine, find, prices or Prices(), on_progress or _ignore, say or _ignore)
        job.open(retry_bad=retry_bad)
        place_images(images, out, [*pictures] if copy_images else None, find)
        if (summary := job.finished()) is None:
            job.run(give_up_after)
            summary = job.finish()
        else:
            (say or _ignore)("finished before: nothing was asked")
    return summary


def _default_prompts(kind: Kind, engine: Engine) -> str:
    if engine.follows_instructions:
        return kind
    if kind == "questions":
        what = "this model follows no instructions; give --prompts, a file with a list of `questions`"
        raise UsageError("E_USAGE_PROMPTS", what)
    return "plain-captions"


def _ignore(_: Any) -> None:
    """Tells nobody."""


class _Job:
    """One job in its folder; this process is the only one there."""

    def __init__(
        self,
        out: Path,
        plan: Plan,
        engine: Engine,
        find: Callable[[str], ImageSource],
        prices: Prices,
        on_progress: OnProgress,
        say: Say,
    ) -> None:
        self.out, self.plan, self.engine, self.find = out, plan, engine, find
        self.prices, self.on_progress, self.say = prices, on_progress, say
        self.table = out / f"{plan.prompts.kind}.parquet"
        self.files = (self.table, out / "job" / "bad_rows.jsonl", out / "job" / "dropped.jsonl")
        self.manifest = out / "manifest.json"
        self.progress = Progress(len(plan.distinct), prices)
        self.shards = Shards(out / "job")
        self.suspects = Suspects(out / "job" / "suspects.json")

    # The folder.

    def open(self, *, retry_bad: bool) -> None:
        """Writes down what the job is, or makes sure that it is the same as before."""
        path = self.out / "job" / "job.json"
        wanted = json.loads(json.dumps(self.plan.to_json()))
        if not path.exists():
            write_file(path, json.dumps(wanted) + "\n")
            return
        try:
            found = differences(json.loads(path.read_text()), wanted)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError("E_DATA_INCOMPLETE", "not the description of a job", where=str(path)) from error
        if found:
            what = f"the folder is of another job: {'; '.join(found)}; choose another --out"
            raise UsageError("E_USAGE_OUT", what, where=str(self.out))
        if retry_bad:
            self.suspects.clear()
        if retry_bad and (numbers := self.shards.with_bad()):
            # First, or a job that is killed here would still be taken for finished.
            self.manifest.unlink(missing_ok=True)
            for number in numbers:
                self.shards.reopen(number)

    def finished(self) -> Summary | None:
        """What the manifest says, if it is of this job and all its files are as they were written."""
        try:
            manifest = json.loads(self.manifest.read_text())
            if manifest["job_sha256"] != self.plan.sha256:
                return None
            if any(sha256(path) != manifest["files"][_name(path, self.out)] for path in self.files):
                return None
            return Summary(table=self.table, **manifest["summary"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    # Asking.

    def run(self, give_up_after: int) -> None:
        """Asks about all pictures of unfinished shards, in order, and commits each shard when it is complete."""
        waiting = []
        has_replied = False
        for number, names in enumerate(self.plan.shards):
            content = self.shards.read(number)
            if content is None:
                journal = Journal(self.shards.journal(number))
                waiting.append(Shard(number, names, journal))
                replies = list(journal.replies.values())
            else:
                self.shards.journal(number).unlink(missing_ok=True)
                replies = list(to_replies(content["replies"]).values())
                for picture in content["pictures"]:
                    self.progress.count(Outcome.of(picture))
            has_replied |= any(reply.finish != LOST for reply in replies)
            for reply in replies:
                self.progress.pay(reply)
        self.progress.resume()
        if self.progress.done:
            self.say(f"going on after {self.progress.done} of {self.progress.total} pictures")
        ready: list[Shard] = []
        failures: list[EndpointError] = []
        if left := sum(name in self.suspects for shard in waiting for name in shard.names):
            self.say(f"{left} that got no reply when the endpoint went down are asked about last, one at a time")
        asking = Asking(self.plan, self.engine, self.find, self.suspects, self.progress.pay)
        with closing(asking.outcomes(waiting)) as outcomes:
            for shard, outcome, replied in outcomes:
                shard.outcomes[outcome.picture] = outcome
                self.progress.count(outcome)
                self.on_progress(self.progress)
                if shard.is_complete:
                    ready.append(shard)
                if replied:
                    has_replied = True
                    failures.clear()
                elif outcome.failure is not None and not isinstance(outcome.failure, SetAsideError):
                    failures.append(outcome.failure)
                    if len(failures) >= give_up_after:
                        raise self._down(failures, asking)
                # What failed may be the endpoint's fault: it is not for good before the endpoint replies again.
                if not failures:
                    while ready:
                        self.shards.commit(ready.pop(0))
            # Nor at the end, unless it has replied and is there: a picture that always fails must not hold up its job.
            if failures and (not has_replied or any(failure.code in _NOBODY_THERE for failure in failures)):
                raise self._down(failures, asking)
            for shard in ready:
                self.shards.commit(shard)

    def _down(self, failures: Sequence[EndpointError], asking: Asking) -> EndpointError:
        # One of them may be what it went down at.
        self.suspects.add(asking.unanswered)
        got = "1 picture" if len(failures) == 1 else f"{len(failures)} pictures in a row"
        what = f"{got} got no reply; call again to go on. The last: {failures[-1].message}"
        return EndpointError("E_ENDPOINT_DOWN", what, where=self.engine.model)

    # The end.

    def finish(self) -> Summary:
        """Writes the table, the lists beside it and, last, the manifest."""
        outcomes = []
        paid = [0, 0]
        for number in range(len(self.plan.shards)):
            content = self.shards.read(number)
            assert content is not None, "all shards are committed"
            outcomes += [Outcome.of(picture) for picture in content["pictures"]]
            paid[0] += sum(reply["prompt_tokens"] for reply in content["replies"])
            paid[1] += sum(reply["completion_tokens"] for reply in content["replies"])
        rows = [(outcome.picture, row) for outcome in outcomes for row in outcome.rows]
        asked = set(self.plan.distinct)
        twice = [Dropped(name, "duplicate_image", "", "") for name in self.plan.pictures if name not in asked]
        dropped = [*twice, *(item for outcome in outcomes for item in outcome.dropped)]
        bad = [*self.plan.bad, *(row for outcome in outcomes for row in outcome.bad)]
        table, bad_path, dropped_path = self.files
        write_file(bad_path, to_json_lines([row.to_json() for row in bad]))
        write_file(dropped_path, to_json_lines([item.to_json() for item in dropped]))
        summary = Summary(
            table,
            len(asked),
            len(rows),
            dict(sorted(Counter(item.reason for item in dropped).items())),
            dict(sorted(Counter(row.code for row in bad).items())),
            *paid,
        )
        if not rows:
            what = f"no row is left of {len(asked)} pictures: dropped {summary.dropped}, bad {summary.bad}"
            again = "; --retry-bad asks again about the bad" if any(outcome.bad for outcome in outcomes) else ""
            raise DataError("E_DATA_EMPTY", f"{what}; see {dropped_path} and {bad_path}{again}", where=str(self.out))
        write_file(table, to_parquet(self.plan, rows))
        self._write_manifest(summary, sorted({row.host for _, row in rows}))
        return summary

    def _write_manifest(self, summary: Summary, hosts: list[str]) -> None:
        plan = self.plan.to_json()
        content = {
            "job_sha256": self.plan.sha256,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "cocoa": cocoa.__version__,
            "endpoints": hosts,
            "cost": self.prices.cost(summary.prompt_tokens, summary.completion_tokens),
            "summary": {key: value for key, value in asdict(summary).items() if key != "table"},
            **{key: value for key, value in plan.items() if key not in ("pictures", "bad")},
            "files": {_name(path, self.out): sha256(path) for path in self.files},
        }
        write_file(self.manifest, json.dumps(content, indent=1) + "\n")


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
