"""Killed at any time an evaluation goes on to the results of an unkilled one; several processes share one."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from evaluating import CONTEXT, leftovers, rows, save_model, start

from cocoa.data.scene_tasks import write_scene_tasks
from cocoa.evaluation.store import Made, Store, Work

PATIENCE = 300
"""Seconds that a process may take on a busy machine; a run takes about two."""
FILES = ("results.json", "report.html", "row.md", "row.tex")


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny) -> Path:
    """A folder with a model, tasks, and an evaluation that nobody disturbed."""
    folder = tmp_path_factory.mktemp("killed")
    save_model(tiny(), folder / "model")
    write_scene_tasks(folder / "tasks", seed=0, num_train=12, num_test=12)
    run(folder, folder / "whole")
    assert len(rows(folder / "whole")) > 5
    return folder


def run(home: Path, out: Path, **options) -> None:
    process = start(home / "model", home / "tasks", out, **options)
    process.join(PATIENCE)
    assert process.exitcode == 0


def check_same(out: Path, whole: Path) -> None:
    for name in FILES:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert sorted(rows(out)) == sorted(rows(whole))
    assert not leftovers(out)


def test_killed_at_ten_random_times(home, tmp_path):
    rng = random.Random(4)
    began = time.monotonic()
    run(home, tmp_path / "timed")
    seconds = time.monotonic() - began
    kept: list[set[tuple[str, ...]]] = [set()]
    kills = 0
    for _ in range(200):
        out = tmp_path / "killed"
        began = time.monotonic()
        process = start(home / "model", home / "tasks", out)
        # Early and late, so that each kill finds another part of the work done.
        process.join(rng.uniform(0.3, 1.0) * seconds)
        if process.exitcode is None:
            process.kill()
            kills += 1
        else:  # Less was left to do, or the machine has less to do beside it.
            seconds = time.monotonic() - began
        process.join(10)
        kept.append(set(rows(out)))
        # What was committed before the kill is there after it, shard by shard, and was not made again.
        assert kept[-2] <= kept[-1]
        if process.exitcode == 0 or kills == 10:
            if kills == 10:
                break
            shutil.rmtree(out)
            kept = [set()]
    assert kills == 10
    run(home, tmp_path / "killed")
    check_same(tmp_path / "killed", home / "whole")


@pytest.mark.parametrize(
    "place",
    ["file-synced:1", "file-renamed:3", "folder-filled:1", "folder-synced:3", "folder-ready:3", "folder-renamed:2"],
)
def test_killed_where_something_is_written(home, tmp_path, place):
    out = tmp_path / "killed"
    process = start(home / "model", home / "tasks", out, environment={"COCOA_FAILPOINT": place})
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL
    run(home, out)
    check_same(out, home / "whole")


def test_two_workers_give_the_same_results_and_do_nothing_twice(home, tmp_path):
    run(home, tmp_path / "shared", processes=2)
    check_same(tmp_path / "shared", home / "whole")
    keys = Counter(key for shard in rows(tmp_path / "shared") for key in shard)
    assert set(keys.values()) == {1}


def test_two_that_were_started_apart_share_the_work(home, tmp_path):
    both = [start(home / "model", home / "tasks", tmp_path / "shared") for _ in range(2)]
    for process in both:
        process.join(PATIENCE)
        assert process.exitcode == 0
    check_same(tmp_path / "shared", home / "whole")


IN_CAPITALS = Work(lambda keys: keys, lambda keys: Made([key.upper() for key in keys]))


def filled_beside_a_holder(store, folder, pieces):
    """How much was known at each look while another process held its claim; it is killed at the third."""
    holder = CONTEXT.Process(target=claim_and_sleep, args=(folder,))
    holder.start()
    while not (folder / ".held").exists():
        time.sleep(0.01)
    waited = []

    def look() -> None:
        waited.append(len(store.facts))
        if len(waited) == 3:
            holder.kill()

    store.fill(pieces, IN_CAPITALS, look)
    holder.kill()
    holder.join()
    return waited


def test_what_a_dead_process_had_claimed_is_taken_over(tmp_path):
    with Store(tmp_path) as store:
        waited = filled_beside_a_holder(store, tmp_path, [["a"], ["b"]])
        # b was free at once; a became free only when its holder was gone.
        assert waited[:3] == [0, 1, 1]
        assert store.facts == {"a": "A", "b": "B"}


def test_what_a_run_with_other_tasks_makes_under_the_same_name_is_waited_for(tmp_path):
    with Store(tmp_path) as store:
        store.fill([["b"]], IN_CAPITALS)
        # Of another piece, but what is unknown of it makes the shard that the holder is at.
        waited = filled_beside_a_holder(store, tmp_path, [["a", "b"]])
        assert waited[:3] == [1, 1, 1]
        assert store.facts == {"a": "A", "b": "B"}


def claim_and_sleep(folder: Path) -> None:
    with Store(folder) as store:

        def begin(keys):
            (folder / ".held").touch()
            time.sleep(60)
            os._exit(1)

        store.fill([["a"]], Work(begin, lambda _: Made([])))


def test_a_claim_is_a_lock_that_leaves_no_file_behind(tmp_path):
    with Store(tmp_path) as store:
        store.fill([["a"]], Work(lambda keys: keys, lambda keys: Made([1])))
    assert (tmp_path / ".claims").stat().st_size == 0
    with (tmp_path / ".claims").open("ab") as claims:
        fcntl.lockf(claims, fcntl.LOCK_EX | fcntl.LOCK_NB)
    [shard] = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert json.loads((shard / "facts.json").read_text()) == {"keys": ["a"], "facts": [1]}
