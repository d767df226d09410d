"""Killed at any time, a job goes on to the files of an unkilled run, and embeds no finished shard again."""

from __future__ import annotations

import random
import signal
import time

import pytest

from cocoa.data.mmeb_train import MmebTrain


def leftovers(out):
    return [path for path in out.rglob("*") if path.name.endswith((".draft", ".new"))]


def lines(path):
    return path.read_text().split() if path.exists() else []


@pytest.fixture
def job(model, scenes, tmp_path):
    return {"model": model, "train": scenes(tmp_path / "set", 18), "size": 3}


def shards(out):
    return len(list((out / "job" / "vectors").glob("*.npz")))


def test_killed_at_ten_random_times(processes, job, contents, tmp_path):
    processes.start(**job, out=tmp_path / "whole", log=tmp_path / "whole.log")
    began = time.monotonic()
    assert processes.wait() == 0
    seconds = time.monotonic() - began
    whole = lines(tmp_path / "whole.log")
    assert len(whole) == len(set(whole)) == shards(tmp_path / "whole") > 10

    rng = random.Random(4)
    out, num_kills, attempt = tmp_path / "killed", 0, 0
    while num_kills < 10:
        attempt += 1
        before, log = shards(out), tmp_path / f"{attempt}.log"
        process = processes.start(**job, out=out, log=log)
        time.sleep(rng.uniform(0.05, 0.4) * seconds)
        code = processes.kill(process)
        # Shards are made in order: what is on the disk is passed over, and the rest follows, each once.
        calls = lines(log)
        assert calls == whole[before : before + len(calls)]
        assert len(calls) <= shards(out) - before + 1
        num_kills += code == -signal.SIGKILL
        if code == 0:  # again from the start, until it has been killed often enough
            assert contents(out) == contents(tmp_path / "whole")
            out = tmp_path / f"killed-{attempt}"
    processes.start(**job, out=out, log=tmp_path / "last.log")
    assert processes.wait() == 0
    assert contents(out) == contents(tmp_path / "whole")
    assert not leftovers(out)


def test_killed_at_every_place_where_something_is_written(processes, model, scenes, contents, tmp_path):
    job = {"model": model, "train": scenes(tmp_path / "set", 4, tables=("i2t",)), "size": 4}
    processes.start(**job, out=tmp_path / "whole", log=tmp_path / "whole.log")
    assert processes.wait() == 0
    whole, calls = contents(tmp_path / "whole"), lines(tmp_path / "whole.log")
    # job.json, two shards, the table, what came of it, bad rows and mining.json.
    # (What is synced and not yet renamed looks like what is written.)
    places = [f"{place}:{time}" for place in ("file-written", "file-renamed") for time in range(1, 8)]
    for place in places:
        out, log = tmp_path / place, tmp_path / f"{place}.log"
        processes.start(**job, out=out, log=log, env={"COCOA_FAILPOINT": place})
        assert processes.wait() == -signal.SIGKILL, place
        num = shards(out)
        first = lines(log)
        processes.start(**job, out=out, log=log)
        assert processes.wait() == 0, place
        assert contents(out) == whole, place
        assert not leftovers(out), place
        # Only a shard that was computed and not yet there comes again.
        assert lines(log)[len(first) :] == calls[num:], place
    processes.start(**job, out=tmp_path / "past", log=tmp_path / "past.log", env={"COCOA_FAILPOINT": "file-written:8"})
    assert processes.wait() == 0, "there are places that this test does not know"


@pytest.mark.parametrize("place", ["folder-filled", "folder-synced", "folder-ready", "folder-renamed"])
def test_killed_while_pictures_are_copied(processes, model, scenes, tmp_path, place):
    train = scenes(tmp_path / "set", 3)
    job = {"model": model, "train": train, "size": 4, "copy": True, "out": tmp_path / "out", "log": tmp_path / "log"}
    processes.start(**job, env={"COCOA_FAILPOINT": f"{place}:1"})
    assert processes.wait() == -signal.SIGKILL
    processes.start(**job)
    assert processes.wait() == 0
    assert not leftovers(tmp_path / "out")
    copied = {path.name: path.read_bytes() for path in (tmp_path / "out" / "images").glob("*.png")}
    assert copied == {path.name: path.read_bytes() for path in (train / "images").iterdir()}
    assert len(MmebTrain(tmp_path / "out")) == 6
