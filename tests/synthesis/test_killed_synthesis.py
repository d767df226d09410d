"""Killed at any time, a job goes on to the files of an unkilled run, and pays twice only for what was in flight."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import pytest

from cocoa.data.mmeb_train import MmebTrain

CONCURRENCY = 4


def leftovers(out):
    return [path for path in out.rglob("*") if path.name.endswith(".draft") or path.parent.name == "journal"]


def test_killed_at_ten_random_times(model, processes, contents, paint, tmp_path):
    images = paint(tmp_path / "pictures", 30)
    job = {"url": model.url, "images": str(images), "kind": "questions", "size": 7, "concurrency": CONCURRENCY}
    processes.start(**job, out=str(tmp_path / "whole"))
    assert processes.wait() == 0
    assert set(model.replies.values()) == {1}
    num_chats = len(model.replies)
    assert num_chats == 30 * 4

    model.seconds = 0.03
    model.replies.clear()
    rng = random.Random(4)
    num_kills = 0
    for _ in range(10):
        # Counted in what it has asked, and a moment more: so each kill finds another part of the work done.
        asked = len(model.asked) + rng.randrange(8)
        process = processes.start(**job, out=str(tmp_path / "killed"))
        while len(model.asked) < asked:
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.02))
        num_kills += processes.kill(process) == -signal.SIGKILL
    assert num_kills == 10
    assert 0 < len(model.replies) < num_chats
    model.seconds = 0.0
    processes.start(**job, out=str(tmp_path / "killed"))
    assert processes.wait() == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert len(MmebTrain(tmp_path / "killed")) == 90
    assert not leftovers(tmp_path / "killed")
    assert len(model.replies) == num_chats
    assert model.replies.total() - num_chats <= num_kills * CONCURRENCY


def test_killed_at_every_place_where_something_is_written(model, processes, contents, paint, tmp_path):
    images = paint(tmp_path / "pictures", 2)
    job = {"url": model.url, "images": str(images), "kind": "captions", "size": 1, "concurrency": 2}
    processes.start(**job, out=str(tmp_path / "whole"))
    assert processes.wait() == 0
    whole = contents(tmp_path / "whole")
    # job.json, two shards, bad rows, dropped, the table and the manifest.
    places = [f"{place}:{time}" for place in ("file-written", "file-synced", "file-renamed") for time in range(1, 8)]
    for place in places:
        model.replies.clear()
        out = str(tmp_path / place)
        processes.start(**job, out=out, env={"COCOA_FAILPOINT": place})
        assert processes.wait() == -signal.SIGKILL, place
        processes.start(**job, out=out)
        assert processes.wait() == 0, place
        assert contents(tmp_path / place) == whole, place
        assert not leftovers(tmp_path / place), place
        assert model.replies.total() <= 2 + 2, place
    processes.start(**job, out=str(tmp_path / "past"), env={"COCOA_FAILPOINT": "file-written:8"})
    assert processes.wait() == 0, "there are places that this test does not know"


@pytest.mark.parametrize("place", ["folder-filled", "folder-synced", "folder-ready", "folder-renamed"])
def test_killed_while_pictures_are_copied(model, processes, contents, paint, tmp_path, place):
    images = paint(tmp_path / "pictures", 2)
    job = {"url": model.url, "images": str(images), "kind": "captions", "size": 1, "concurrency": 2, "copy": True}
    out = tmp_path / "out"
    processes.start(**job, out=str(out), env={"COCOA_FAILPOINT": f"{place}:1"})
    assert processes.wait() == -signal.SIGKILL
    processes.start(**job, out=str(out))
    assert processes.wait() == 0
    assert contents(out)
    assert not leftovers(out)
    copied = {path.name: path.read_bytes() for path in (out / "images").rglob("*.png")}
    assert copied == {path.name: path.read_bytes() for path in images.rglob("*.png")}
    assert model.replies.total() == 2


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_a_kill_loses_at_most_the_replies_in_flight(model, processes, paint, tmp_path, seconds):
    images = paint(tmp_path / "pictures", 20)
    job = {"url": model.url, "images": str(images), "kind": "captions", "size": 20, "concurrency": CONCURRENCY}
    model.seconds = 0.05
    process = processes.start(**job, out=str(tmp_path / "out"))
    while len(model.asked) < 9:
        time.sleep(0.002)
    time.sleep(seconds)
    processes.kill(process)
    model.seconds = 0.0
    paid = model.replies.total()
    processes.start(**job, out=str(tmp_path / "out"))
    assert processes.wait() == 0
    assert model.replies.total() <= 20 + CONCURRENCY
    assert paid >= 4


def test_asking_an_endpoint_needs_no_torch():
    code = "import cocoa.synthesis, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
