"""The same shards on Ray Data: the same vectors, whatever dies on the way."""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from embedding import leftovers, outcome, run, save_model, shards, start, texts, write_jsonl

from cocoa.corpus.job import embed_corpus
from cocoa.errors import UsageError

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "240"}


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    save_model(tiny(), folder / "model")
    rows = texts(300)
    rows[33]["text"] = ""
    write_jsonl(folder / "rows.jsonl", rows)
    run(folder / "model", folder / "rows.jsonl", folder / "whole")
    return folder


def actors_of(process: int) -> list[psutil.Process]:
    """The processes of Ray below one that make shards."""
    found = []
    for child in psutil.Process(process).children(recursive=True):
        try:
            if "ShardMaker" in child.name() or any("ShardMaker" in word for word in child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.slow
def test_two_actors_give_the_vectors_of_a_local_run(home, tmp_path):
    run(home / "model", home / "rows.jsonl", tmp_path / "out", engine="ray", workers=2, environment=QUIET)
    assert outcome(tmp_path / "out") == outcome(home / "whole")
    assert not leftovers(tmp_path / "out")


@pytest.mark.slow
def test_five_killed_actors_change_nothing(home, tmp_path):
    out, rng, killed = tmp_path / "out", random.Random(0), 0
    job = start(home / "model", home / "rows.jsonl", out, engine="ray", workers=2, environment=QUIET)
    while job.is_alive() and killed < 5:
        time.sleep(0.2)
        made = len(shards(out))
        if made >= 2 + 4 * killed and (actors := actors_of(job.pid)):
            rng.choice(actors).send_signal(signal.SIGKILL)
            killed += 1
    job.join(300)
    assert job.exitcode == 0
    assert killed == 5
    assert outcome(out) == outcome(home / "whole")
    assert not leftovers(out)


@pytest.mark.slow
def test_what_stops_a_job_stops_it_on_ray_too(home, tmp_path):
    job = start(
        home / "model",
        home / "rows.jsonl",
        tmp_path / "out",
        engine="ray",
        workers=2,
        environment=QUIET,
        max_bad_rate=None,
    )
    job.join(300)
    assert job.exitcode == 3
    said = (tmp_path / "out.error").read_text()
    assert said.startswith("E_DATA_EMPTY") and "rows.jsonl:34" in said


def test_actors_are_told_the_folder_from_wherever_they_stand(tiny, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("cocoa.corpus.job.fill_with_ray", lambda plan, work, *_: told.append(work.out))
    monkeypatch.chdir(tmp_path)
    rows = write_jsonl(tmp_path / "rows.jsonl", texts(2))
    embed_corpus(save_model(tiny(), tmp_path / "model"), rows, Path("out"), engine="ray")
    assert told == [tmp_path / "out"]


def test_without_ray_the_extra_is_named(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    model = save_model(tiny(), tmp_path / "model")
    rows = write_jsonl(tmp_path / "rows.jsonl", texts(1))
    with pytest.raises(UsageError) as caught:
        embed_corpus(model, rows, tmp_path / "out", engine="ray")
    assert caught.value.code == "E_USAGE_EXTRA"
    assert "cocoa-embeddings[ray]" in str(caught.value)
