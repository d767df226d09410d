"""A small model and small inputs on the disk, and embedding jobs in processes of their own that a test may kill."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import resource
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cocoa.backbones import Backbone
from cocoa.corpus.embeddings import Embeddings
from cocoa.corpus.job import embed_corpus
from cocoa.errors import CocoaError
from cocoa.model import EmbeddingModel

# One process imports torch once; those that are killed are forked from it, before it has computed anything.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["cocoa.corpus.job"])
SHARD = 10
"""Rows of a shard in these processes, so that small inputs have many."""
WORDS = ("a red apple", "two cats and a dog sleep", "an owl", "the green grass", "how many birds are there")


def save_model(backbone: Backbone, folder: Path, *, layout: str = "bidirectional") -> Path:
    """Writes a model folder and returns it."""
    EmbeddingModel(backbone.with_pixel_limits(None, 56 * 56), layout=layout, max_tokens=64).save(folder)
    return folder


def texts(count: int) -> list[dict[str, Any]]:
    """Returns rows of texts that all differ."""
    return [{"id": f"row {number}", "text": f"{WORDS[number % 5]} {number}"} for number in range(count)]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes a jsonl file and returns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """Writes a tar of files and returns it."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def start(model: Path, source: Path, out: Path, *, environment: dict[str, str] | None = None, **options: Any) -> Any:
    """Returns a started process that embeds into a folder; it exits with 3 where it raises an error of ours."""
    process = CONTEXT.Process(target=_run, args=(model, source, out, environment or {}, options))
    process.start()
    return process


def run(model: Path, source: Path, out: Path, **options: Any) -> None:
    """Embeds in a process of its own, which must end well."""
    process = start(model, source, out, **options)
    process.join(300)
    assert process.exitcode == 0


def _run(model: Path, source: Path, out: Path, environment: dict[str, str], options: dict[str, Any]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    if largest := options.pop("largest_file", None):
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    try:
        embed_corpus(model, source, out, **{"shard_rows": SHARD, **options})
    except CocoaError as error:
        (out.parent / f"{out.name}.error").write_text(f"{error.code} {error}")
        sys.exit(3)


def outcome(out: Path) -> tuple[str, list[str], bytes]:
    """Returns the hash of all vectors sorted by id, the ids as they stand, and the bad rows."""
    embeddings = Embeddings.open(out)
    ids, vectors = embeddings.table()["id"].to_pylist(), embeddings.vectors()
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return hashlib.sha256(np.ascontiguousarray(vectors[order])).hexdigest(), ids, (out / "bad_rows.jsonl").read_bytes()


def bad_rows(out: Path) -> list[dict[str, str]]:
    """Returns the bad rows that a job has told."""
    return [json.loads(line) for line in (out / "bad_rows.jsonl").read_text().splitlines()]


def leftovers(out: Path) -> list[Path]:
    """Returns what a writer that is gone left behind."""
    return [path for path in out.rglob("*") if ".draft" in path.name or ".old-" in path.name]


def shards(out: Path) -> list[str]:
    """Returns the names of the committed shards."""
    folder = out / "shards"
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []
