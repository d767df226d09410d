"""A fixed sequence of changes to an index, what it holds after each, and a process that makes them."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
from indexing import rows

from cocoa import CocoaError

ZYGOTE = f"""
import json, os, sys, traceback
sys.path.insert(0, {str(Path(__file__).parent)!r})
import writing
from cocoa.corpus.index import Index
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        try:
            os.environ.update(job["env"])
            getattr(writing, job["work"])(job)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
KEYS = [f"k{number}" for number in range(12)]


def change(number: int):
    """Returns the kind and the ids of a change: mostly upserts of three keys, some deletions, some compactions."""
    if number % 7 == 6:
        return "optimize", []
    picked = [KEYS[(number * 5 + step * (1 + number % 3)) % len(KEYS)] for step in range(3)]
    return ("delete" if number % 4 == 3 else "upsert"), list(dict.fromkeys(picked))


def state_after(number: int) -> dict[str, bytes]:
    """Returns the vector of every id after the changes up to and with this one, by plain bookkeeping."""
    held: dict[str, bytes] = {}
    for each in range(number + 1):
        kind, names = change(each)
        for name in names:
            held.pop(name, None)
        if kind == "upsert":
            table = rows(names, seed=each).table
            held |= {row["id"]: np.array(row["vector"], np.float32).tobytes() for row in table.to_pylist()}
    return held


def state_of(index) -> dict[str, bytes]:
    """Returns what an index holds, after checking that no id stands in it twice."""
    names = [name for batch in index._store.scan(["id"]) for name in batch.column("id").to_pylist()]
    assert len(names) == len(set(names)) == len(index)
    return {row.id: row.vector.tobytes() for row in index.get(names)} if names else {}


def make_changes(job) -> None:
    """Makes the changes from the first that is not logged as begun; logs each before it begins and when it is told."""
    from cocoa.corpus.index import Index

    index = Index.open(job["uri"])
    log = os.open(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in range(job["first"], job["last"] + 1):
        kind, names = change(number)
        os.write(log, f"{number} begun\n".encode())
        if kind == "upsert":
            index.upsert(rows(names, seed=number))
        elif kind == "delete":
            index.delete(names)
        else:
            index.optimize()
        os.write(log, f"{number} told\n".encode())


def build(job) -> None:
    """Builds an index of a folder of embeddings; `replace`: where there is one already."""
    from cocoa.corpus.embeddings import Embeddings
    from cocoa.corpus.index import Index

    Index.build(Embeddings.open(job["source"]), job["uri"], replace=job.get("replace", False))


def upsert_often(job) -> None:
    """Upserts shared keys many times over, two at a time; the text of a row says who wrote it."""
    from cocoa.corpus.index import Index

    index = Index.open(job["uri"])
    for number in range(job["times"]):
        names = [job["keys"][(number * 5 + job["seed"]) % len(job["keys"])], f"own-{job['seed']}"]
        index.upsert(rows(names, seed=1000 * job["seed"] + number))


def build_on_a_full_disk(job) -> None:
    """Builds an index where no file may become large, and logs what is said."""
    from cocoa.corpus.embeddings import Embeddings
    from cocoa.corpus.index import Index

    _log_refusal(job, lambda: Index.build(Embeddings.open(job["source"]), job["uri"]))


def add_on_a_full_disk(job) -> None:
    """Adds to an index where no file may become large, and logs what is said."""
    from cocoa.corpus.embeddings import Embeddings
    from cocoa.corpus.index import Index

    _log_refusal(job, lambda: Index.open(job["uri"]).add(Embeddings.open(job["source"])))


def _log_refusal(job, act) -> None:
    # A limit on the size of files fails in the same calls as a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))
    try:
        act()
    except CocoaError as error:
        with Path(job["log"]).open("a") as log:
            log.write(f"{error}\n")
