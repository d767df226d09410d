"""What the index has told is kept: killed anywhere, a lost tail, a damaged head, flipped bits, many writers."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from indexing import COLUMNS, embeddings, identity, rows, unit
from lancedb.table import LanceTable
from writing import KEYS, ZYGOTE, state_after, state_of

from cocoa import CocoaError, files
from cocoa.corpus.embeddings import Embeddings
from cocoa.corpus.index import Index
from cocoa.corpus.stores import commits
from cocoa.corpus.stores.commits import Commits
from cocoa.failpoints import INDEX_FAILPOINTS
from forking import Processes

LAST = 10
CHANGING = [place for place in INDEX_FAILPOINTS if not place.startswith("folder-")]
BUILDING = ["file-written", "file-synced", "index-synced", *sorted({*INDEX_FAILPOINTS} - {*CHANGING})]
"""The places that changes, and that a build, come to."""


@pytest.fixture(scope="module")
def processes():
    running = Processes(ZYGOTE)
    yield running
    running.close()


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("empty") / "index"
    Index.create(folder, identity(), COLUMNS)
    return folder


def logged(log: Path) -> tuple[int, int]:
    """Returns the numbers of the last change that was begun and of the last that was told; -1 for none."""
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    begun = [int(number) for number, what in lines if what == "begun"]
    told = [int(number) for number, what in lines if what == "told"]
    return max(begun, default=-1), max(told, default=-1)


def check_kept(folder: Path, log: Path, first: int) -> int:
    """Checks that the index holds what was told, or that and the one change that was begun; returns the next change.

    What stands before `first` was seen in the index after an earlier kill, told or not.
    """
    begun, told = logged(log)
    told = max(told, first - 1)
    index = Index.open(folder)
    assert index.notice is None
    held = state_of(index)
    assert index.verify().ok
    if held == state_after(begun):
        return begun + 1
    assert held == state_after(told)
    return told + 1


@pytest.mark.parametrize("place", CHANGING)
def test_killed_before_or_after_any_write_nothing_told_is_lost(processes, empty, tmp_path, place):
    folder, log = tmp_path / "index", tmp_path / "log"
    shutil.copytree(empty, folder)
    # The first writer dies early, its successor later: one of the changes on the way compacts the table.
    first = 0
    for passed in (2, 4):
        point = {"COCOA_FAILPOINT": f"{place}:{passed}"}
        processes.start(work="make_changes", uri=folder, log=log, first=first, last=LAST, env=point)
        assert processes.wait() == -signal.SIGKILL
        first = check_kept(folder, log, first)
    processes.start(work="make_changes", uri=folder, log=log, first=first, last=LAST)
    assert processes.wait() == 0
    assert state_of(Index.open(folder)) == state_after(LAST)
    assert not [path for path in folder.rglob("*") if path.name.endswith(".draft")]


@pytest.mark.parametrize("place", BUILDING)
def test_a_build_that_is_killed_leaves_a_whole_index_or_none(processes, written, tmp_path, place):
    job = {"work": "build", "source": written / "embeddings", "uri": tmp_path / "index"}
    processes.start(**job, env={"COCOA_FAILPOINT": f"{place}:1"})
    assert processes.wait() == -signal.SIGKILL
    assert (tmp_path / "index").exists() == (place == "folder-renamed")
    if place != "folder-renamed":
        processes.start(**job)
        assert processes.wait() == 0
    assert Index.open(tmp_path / "index").verify(Embeddings.open(written / "embeddings")).ok


@pytest.mark.parametrize("place", BUILDING)
def test_a_rebuild_that_is_killed_leaves_the_old_index_or_the_new(processes, written, tmp_path, place):
    made = Embeddings.open(written / "embeddings")
    Index.build(made, tmp_path / "index").delete(["r1"])
    job = {"work": "build", "source": written / "embeddings", "uri": tmp_path / "index", "replace": True}
    processes.start(**job, env={"COCOA_FAILPOINT": f"{place}:1"})
    assert processes.wait() == -signal.SIGKILL
    found = Index.open(tmp_path / "index")
    assert found.verify().ok
    assert found.count() == 40 - (place != "folder-renamed")
    processes.start(**job)
    assert processes.wait() == 0
    assert Index.open(tmp_path / "index").verify(made).ok


def kill_at_random_times(processes, empty, tmp_path, kills: int) -> None:
    rng, done = random.Random(5), 0
    shutil.copytree(empty, tmp_path / "timed")
    began = time.monotonic()
    processes.start(work="make_changes", uri=tmp_path / "timed", log=tmp_path / "timed.log", first=0, last=LAST)
    assert processes.wait() == 0
    seconds = time.monotonic() - began
    attempt = 0
    while done < kills:
        attempt += 1
        folder, log, first = tmp_path / f"index-{attempt}", tmp_path / f"log-{attempt}", 0
        shutil.copytree(empty, folder)
        while first <= LAST and done < kills:
            process = processes.start(work="make_changes", uri=folder, log=log, first=first, last=LAST)
            time.sleep(rng.uniform(0.1, 0.6) * seconds)
            code = processes.kill(process)
            assert code in (0, -signal.SIGKILL)
            done += code == -signal.SIGKILL
            first = check_kept(folder, log, first)


def test_killed_at_five_random_times(processes, empty, tmp_path):
    kill_at_random_times(processes, empty, tmp_path, 5)


@pytest.mark.slow
def test_killed_at_a_hundred_random_times(processes, empty, tmp_path):
    kill_at_random_times(processes, empty, tmp_path, 100)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """An index of 40 rows with three commits after its first."""
    folder = tmp_path_factory.mktemp("written")
    made = embeddings(folder / "embeddings", rows([f"r{number}" for number in range(40)]))
    index = Index.build(made, folder / "index")
    index.upsert(rows(["r1", "new"], 1))
    index.delete(["r2"])
    index.upsert(rows(["r3", "newer"], 2))
    return folder


@pytest.fixture
def folder(written, tmp_path):
    shutil.copytree(written / "index", tmp_path / "index")
    return tmp_path / "index"


def test_every_file_is_synced_before_a_change_is_told(folder, monkeypatch):
    synced: set[str] = set()
    real, names_at_record = os.fsync, []

    def fsync(handle):
        real(handle)
        path = str(Path(f"/proc/self/fd/{handle}").readlink())
        synced.add(path)
        if "/commits/." in path:  # the record itself, before it gets its name
            names_at_record.append(set(synced))

    before = set(Commits(folder).newest()[0].files)
    monkeypatch.setattr(os, "fsync", fsync)
    index = Index.open(folder)
    for act in (lambda: index.upsert(rows(["r4", "x"], 3)), lambda: index.delete(["r5"]), index.optimize):
        synced.clear()
        names_at_record.clear()
        act()
        commit = Commits(folder).newest()[0]
        new = set(commit.files) - before
        assert new
        wanted = {str(folder / name) for name in new} | {str((folder / name).parent) for name in new} | {str(folder)}
        assert wanted <= names_at_record[-1]
        assert str(folder / "commits") in synced
        before = set(commit.files)


def test_a_tail_that_was_never_told_may_be_lost_in_any_part(folder, written, tmp_path):
    # A commit of Lance that got no record of ours: whatever of its files reaches the disk, the one before is opened.
    acknowledged = state_of(Index.open(folder))
    known = {path for path in folder.rglob("*") if path.is_file()}
    ahead = tmp_path / "ahead"
    shutil.copytree(folder, ahead)
    Index.open(ahead).upsert(rows(["r6", "tail"], 4))
    tail = [path.relative_to(ahead) for path in ahead.rglob("*") if path.is_file()]
    tail = [path for path in tail if folder / path not in known and path.parts[0] != "commits"]
    assert len(tail) >= 3
    rng = random.Random(6)
    for state in range(100):
        damaged = tmp_path / f"state-{state}"
        shutil.copytree(folder, damaged)
        for path in tail:
            kept = rng.choice(["whole", "gone", "empty", "half", "zeros"])
            content = (ahead / path).read_bytes()
            content = {"empty": b"", "half": content[: len(content) // 2], "zeros": bytes(len(content))}.get(
                kept, content
            )
            if kept != "gone":
                (damaged / path).parent.mkdir(exist_ok=True)
                (damaged / path).write_bytes(content)
        index = Index.open(damaged)
        assert index.notice is None
        assert state_of(index) == acknowledged
        if state % 25 == 0:
            index.upsert(rows(["r7"], 5))
            assert set(state_of(index)) == set(acknowledged)
            assert index.verify().ok


@pytest.mark.parametrize(
    ("what", "how"),
    # A record that is missing was never written: it is synced before it gets its name.
    [("manifest", "missing"), *itertools.product(("manifest", "record"), ("empty", "half", "zeros", "flipped"))],
)
def test_a_damaged_head_falls_back_to_the_version_before_and_says_so(folder, what, how):
    commit = Commits(folder).newest()[0]
    path = folder / (commit.manifest if what == "manifest" else f"commits/{commit.number:010}.json")
    content = path.read_bytes()
    flipped = content[:60] + bytes([content[60] ^ 1]) + content[61:]
    path.unlink()
    if how != "missing":
        path.write_bytes(
            {"empty": b"", "half": content[: len(content) // 2], "zeros": bytes(len(content)), "flipped": flipped}[how]
        )
    index = Index.open(folder)
    assert f"fell back to commit {commit.number - 1}" in index.notice
    held = state_of(index)
    assert "newer" not in held
    assert "new" in held
    assert len(held) == 40
    # Nothing is written over what may yet be saved by hand; going back for good is asked for.
    with pytest.raises(CocoaError) as caught:
        index.upsert(rows(["y"], 1))
    assert caught.value.code == "E_INDEX_DAMAGED"
    assert not index.verify().ok
    assert "given up" in index.repair()
    index.upsert(rows(["y"], 1))
    again = Index.open(folder)
    assert again.notice is None
    assert state_of(again) == state_of(index) != held
    assert again.verify().ok


def test_sixty_flipped_bytes_are_sixty_finds_and_no_silent_answer(folder, tmp_path):
    index = Index.open(folder)
    index.optimize(exact_rows=10)
    index.upsert(rows(["r9", "last"], 8))
    used = [folder / name for name in Commits(folder).newest()[0].files]
    used += sorted((folder / "commits").iterdir())
    rng, query = random.Random(7), unit(1, 3)
    for _ in range(60):
        path = rng.choice(used)
        content = bytearray(path.read_bytes())
        place = rng.randrange(len(content))
        content[place] ^= rng.randrange(1, 256)
        kept = path.read_bytes()
        path.write_bytes(content)
        try:
            found = Index.open(folder).verify()
            assert any(path.name in line for line in found.damages), path
            # From now on nobody is answered, not even by an index that was open before.
            for asked in (index, None):
                with pytest.raises(CocoaError) as caught:
                    (asked or Index.open(folder)).search_vectors(query)
                assert caught.value.code == "E_INDEX_DAMAGED"
        except CocoaError as error:
            assert error.code == "E_INDEX_DAMAGED"  # the card itself: nothing can be opened
            assert path.name == "index.json"
        path.write_bytes(kept)
        assert Commits(folder).damages()[1] == []
        (folder / "damage.json").unlink(missing_ok=True)
    assert index.verify().ok
    assert len(index.search_vectors(query, 3)[0]) == 3


def test_a_row_whose_bits_have_changed_is_not_given_out(folder):
    index = Index.open(folder)
    commit = Commits(folder).newest()[0]
    [target] = index.get(["r20"])
    broken = 0
    for name in commit.files:
        path = folder / name
        content = path.read_bytes()
        place = content.find(target.vector.tobytes())
        if name.endswith(".lance") and place >= 0:
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            broken += 1
    assert broken
    with pytest.raises(CocoaError, match="r20"):
        Index.open(folder).search_vectors(target.vector[None], 1)


def test_an_index_that_cannot_be_repaired_says_so_and_is_built_again(folder, written):
    first = next(name for name in Commits(folder).newest()[0].files if name.endswith(".lance"))
    for path in folder.glob("rows-*.lance/data/*.lance"):
        path.write_bytes(bytes(path.stat().st_size))
    index = Index.open(folder)
    assert first in " ".join(index.verify().damages)
    with pytest.raises(CocoaError, match="build it again"):
        index.repair()
    made = Embeddings.open(written / "embeddings")
    assert Index.build(made, folder, replace=True).verify(made).ok


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
import json, writing
writing.upsert_often(json.loads(sys.argv[2]))
"""


def write_from_many(empty: Path, folder: Path, processes: int, times: int) -> None:
    """Lets processes upsert shared keys while this one reads; checks that no id is ever doubled and no row torn."""
    shutil.copytree(empty, folder)
    keys = KEYS[:6]
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                WRITER,
                str(Path(__file__).parent),
                json.dumps({"uri": str(folder), "keys": keys, "times": times, "seed": seed}),
            ]
        )
        for seed in range(processes)
    ]
    index = Index.open(folder)
    seen = 0
    while any(process.poll() is None for process in running):
        # Counts come from one whole version; each row's seal is checked when it is read.
        names = [name for batch in index._store.scan(["id"]) for name in batch.column("id").to_pylist()]
        assert len(names) == len(set(names))
        assert seen <= len(names) <= len(keys) + processes
        seen = len(names)
        index.search_vectors(unit(1, 2), 3)
        time.sleep(0.1)
    assert [process.returncode for process in running] == [0] * processes
    held = state_of(index)
    assert set(held) == {*keys, *(f"own-{seed}" for seed in range(processes))}
    for seed in range(processes):
        [last] = index.get([f"own-{seed}"])
        written_last = rows(["a", "b"], seed=1000 * seed + times - 1).table["vector"][1].as_py()
        np.testing.assert_array_equal(last.vector, np.array(written_last, np.float32))
    assert Commits(folder).newest()[0].number == processes * times + 1 + compactions(folder)
    assert index.verify().ok


def compactions(folder: Path) -> int:
    return int(Commits(folder).newest()[0].table.removeprefix("rows-")) - 1


def test_two_writers_at_once_never_double_an_id(empty, tmp_path):
    write_from_many(empty, tmp_path / "index", 2, 8)


@pytest.mark.slow
def test_eight_writers_at_once_never_double_an_id(empty, tmp_path):
    write_from_many(empty, tmp_path / "index", 8, 500)


@pytest.fixture
def replacing(folder, written, monkeypatch):
    """A thread that replaces the index, waiting right before the old one and the new change names."""
    real, ready, go = files._exchange, threading.Event(), threading.Event()

    def exchange(one, other):
        ready.set()
        assert go.wait(60)
        return real(one, other)

    monkeypatch.setattr(files, "_exchange", exchange)
    made = Embeddings.open(written / "embeddings")
    thread = threading.Thread(target=Index.build, args=(made, folder), kwargs={"replace": True})
    thread.start()
    assert ready.wait(60)
    yield go
    go.set()
    thread.join()


def test_what_is_added_while_the_index_is_replaced_is_in_the_new_one(folder, replacing):
    index = Index.open(folder)
    writer = threading.Thread(target=index.add, args=(rows(["late"], 6),))
    writer.start()
    writer.join(0.5)
    assert writer.is_alive(), "it waits, or it would write to an index that goes"
    replacing.set()
    writer.join()
    assert (
        set(state_of(index)) == set(state_of(Index.open(folder))) == {f"r{number}" for number in range(40)} | {"late"}
    )
    assert index.verify().ok


def test_who_has_waited_for_the_lock_holds_that_of_the_index_that_is_there_now(folder, tmp_path):
    entered, leave = threading.Event(), threading.Event()

    def wait_and_hold():
        with Commits(folder).writing():
            entered.set()
            assert leave.wait(60)

    waiter = threading.Thread(target=wait_and_hold)
    with Commits(folder).writing():
        waiter.start()
        assert not entered.wait(0.3)
        folder.rename(tmp_path / "old")
        shutil.copytree(tmp_path / "old", folder)
    assert entered.wait(60)
    with (folder / ".writer").open("ab") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    leave.set()
    waiter.join()


def test_an_open_index_goes_on_in_the_one_that_takes_its_place_or_says_that_it_is_of_another_model(
    folder, written, tmp_path
):
    index, query = Index.open(folder), unit(1, 3)
    assert len(index) == 41
    Index.build(Embeddings.open(written / "embeddings"), folder, replace=True)
    assert len(index) == len(index.search_vectors(query, 100)[0]) == 40
    index.add(rows(["late"], 6))
    Index.build(embeddings(tmp_path / "other", rows(["r1"], prompts="other")), folder, replace=True)
    for act in (lambda: index.search_vectors(query), lambda: index.upsert(rows(["r1"], 1))):
        with pytest.raises(CocoaError, match="differ in prompts") as caught:
            act()
        assert caught.value.code == "E_INDEX_REPLACED"


def test_a_reader_goes_on_while_tables_are_compacted_away_under_it(folder):
    reader, writer = Index.open(folder), Index.open(folder)
    held = state_of(reader)
    for number in range(commits._KEPT + 2):
        writer.optimize()
        writer.upsert(rows(["r10"], 20 + number))
        assert set(state_of(reader)) == set(held)
    assert len(list(folder.glob("rows-*.lance"))) <= commits._KEPT + 1


def test_a_question_sees_one_version_whatever_others_write_and_ask_meanwhile(folder, monkeypatch):
    reader, writer = Index.open(folder), Index.open(folder)
    held, before, after = set(state_of(reader)), len(reader), []
    real = LanceTable.count_rows

    def count_rows(table, *rest):
        counted = real(table, *rest)
        if not after:
            after.append(0)
            # A question about all rows knows now how many there are; before it reads them others take their place.
            writer.delete(["r7", "r8"])
            writer.add(rows(["late", "later"], 6))
            thread = threading.Thread(target=lambda: after.append(reader.count()))
            thread.start()
            thread.join()
        return counted

    monkeypatch.setattr(LanceTable, "count_rows", count_rows)
    names = [name for batch in reader._store.scan(["id"]) for name in batch.column("id").to_pylist()]
    assert after == [0, before]
    assert set(names) == held


def test_of_two_who_build_in_one_new_place_the_second_is_told_and_the_first_keeps_it(written, tmp_path):
    made, place = Embeddings.open(written / "embeddings"), tmp_path / "index"
    slow, other = made.batches, embeddings(tmp_path / "other", rows(["first"]))

    class Late:
        identity, model, columns = made.identity, made.model, made.columns

        def batches(self, size=8192):
            Index.build(other, place)
            yield from slow(size)

    with pytest.raises(CocoaError) as caught:
        Index.build(Late(), place)
    assert caught.value.code == "E_INDEX_EXISTS" and caught.value.where == str(place)
    assert set(state_of(Index.open(place))) == {"first"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "other"]


def test_a_full_disk_is_told_with_the_folder_and_what_was_there_is_kept(processes, written, tmp_path):
    job = {"source": written / "embeddings", "uri": tmp_path / "index", "log": tmp_path / "said"}
    processes.start(work="build_on_a_full_disk", **job)
    assert processes.wait() == 0
    assert not (tmp_path / "index").exists()
    index = Index.create(tmp_path / "index", identity(), COLUMNS)
    index.add(rows(["mine"]))
    processes.start(work="add_on_a_full_disk", **job)
    assert processes.wait() == 0
    assert set(state_of(index)) == {"mine"} and index.verify().ok
    said = (tmp_path / "said").read_text().splitlines()
    assert said == [f"{tmp_path / 'index'}: cannot be written: File too large [E_INDEX_WRITE]"] * 2
