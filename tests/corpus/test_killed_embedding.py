"""Killed anywhere, an embedding job goes on to what an unkilled one writes; any number of processes share one."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from embedding import SHARD, leftovers, outcome, run, save_model, shards, start, texts, write_jsonl

from cocoa.claims import Claims
from cocoa.failpoints import EMBEDDING_FAILPOINTS

NUM_ROWS = 80


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny) -> Path:
    """A folder with a model, rows (two of them bad) and the embeddings that nobody disturbed."""
    folder = tmp_path_factory.mktemp("killed")
    save_model(tiny(), folder / "model")
    rows = texts(NUM_ROWS)
    rows[33]["text"], rows[61]["id"] = "", "row 7"
    write_jsonl(folder / "rows.jsonl", rows)
    run(folder / "model", folder / "rows.jsonl", folder / "whole")
    return folder


def check_same(home: Path, out: Path) -> None:
    """Missing 0, duplicate 0, phantom 0, every bit the same, nothing left over."""
    digest, ids, bad = outcome(out)
    assert ids == [f"row {number}" for number in range(NUM_ROWS) if number not in (33, 61)]
    assert (digest, ids, bad) == outcome(home / "whole")
    assert not leftovers(out)


def test_the_unkilled_run_is_whole(home):
    check_same(home, home / "whole")
    assert len(shards(home / "whole")) == NUM_ROWS // SHARD
    assert outcome(home / "whole")[2].count(b"\n") == 2


@pytest.mark.parametrize("place", EMBEDDING_FAILPOINTS)
def test_killed_at_each_place_of_the_job_it_goes_on_to_the_same(home, tmp_path, place):
    out = tmp_path / "out"
    # The second time is in another shard or file than the first.
    for number in (1, 2):
        process = start(home / "model", home / "rows.jsonl", out, environment={"COCOA_FAILPOINT": f"{place}:{number}"})
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, f"{place} was never passed {number} times"
    kept = shards(out)
    run(home / "model", home / "rows.jsonl", out)
    assert set(kept) <= set(shards(out))
    check_same(home, out)


def killed_often(home: Path, folder: Path, kills: int, **options) -> None:
    rng = random.Random(kills)
    began = time.monotonic()
    run(home / "model", home / "rows.jsonl", folder / "timed", **options)
    seconds = time.monotonic() - began
    killed = number = 0
    while killed < kills:
        out = folder / f"out-{number}"
        number += 1
        ended = False
        while not ended and killed < kills:
            before = shards(out)
            process = start(home / "model", home / "rows.jsonl", out, **options)
            process.join(rng.uniform(0.3, 1.1) * seconds)
            ended = process.exitcode is not None
            if not ended:
                process.kill()
                killed += 1
            process.join(60)
            # What was committed before is there after, and no kill costs more than the shard at work.
            assert set(before) <= set(shards(out))
        run(home / "model", home / "rows.jsonl", out, **options)
        check_same(home, out)


def test_killed_at_ten_random_times(home, tmp_path):
    killed_often(home, tmp_path, 10)


@pytest.mark.slow
def test_killed_at_thirty_random_times_with_two_workers(home, tmp_path):
    killed_often(home, tmp_path, 30, workers=2)


def test_two_workers_and_two_commands_share_the_work(home, tmp_path):
    both = [start(home / "model", home / "rows.jsonl", tmp_path / "out", workers=workers) for workers in (1, 2)]
    for process in both:
        process.join(300)
        assert process.exitcode == 0
    check_same(home, tmp_path / "out")


def test_what_a_dead_process_had_claimed_is_taken_over(home, tmp_path):
    out = tmp_path / "out"
    held = start(home / "model", home / "rows.jsonl", out, environment={"COCOA_FAILPOINT": "shard-claimed:2"})
    held.join(120)
    assert held.exitcode == -signal.SIGKILL
    whole = shards(home / "whole")
    with Claims(out) as claims:
        # Somebody alive holds the last shard: a job waits for it, and makes it when the holder is gone.
        name = f"{int(whole[-1][:6]):06}-{next(iter(shards(out) or whole))[7:]}"
        assert claims.take(name)
        waiting = start(home / "model", home / "rows.jsonl", out)
        while len(shards(out)) < len(whole) - 1:
            time.sleep(0.05)
            assert waiting.is_alive()
        assert name not in shards(out)
    waiting.join(120)
    assert waiting.exitcode == 0
    check_same(home, out)


def test_a_full_disk_is_said_and_gone_on_from(home, tmp_path):
    out = tmp_path / "out"
    # Larger than the plan, so that the first shard is what does not fit.
    rows = write_jsonl(tmp_path / "rows.jsonl", [row | {"text": row["text"] + 900 * "x"} for row in texts(30)])
    process = start(home / "model", rows, out, largest_file=6000)
    process.join(120)
    assert process.exitcode == 3
    assert (tmp_path / "out.error").read_text().startswith("E_DATA_WRITE")
    assert (out / "plan.json").is_file()
    assert not shards(out)
    for folder in (out, tmp_path / "whole"):
        run(home / "model", rows, folder)
    assert outcome(out) == outcome(tmp_path / "whole")
    assert not leftovers(out)


def test_a_folder_that_cannot_be_written_is_said(home, tmp_path):
    if os.geteuid() == 0:
        # Nothing is read-only for root, but a file in the place of a folder cannot be written in either.
        (tmp_path / "out").write_text("")
        code = "E_USAGE_OUT"
    else:
        (tmp_path / "out").mkdir(mode=0o500)
        code = "E_DATA_WRITE"
    process = start(home / "model", home / "rows.jsonl", tmp_path / "out")
    process.join(120)
    assert process.exitcode == 3
    assert (tmp_path / "out.error").read_text().startswith(code)
