"""How cost grows with length, batch and picture: `python -m benchmarks.growth [--json FILE]`.

A bridge row [A ; e ; B] of random words, forward and backward, three ways: through the square mask, split, and as the
two blocks [A ; e] and [e ; B] by themselves, which is what a split row should cost. States are checked to be equal
first. Then encoding by the number of rows and by the size of the picture, a search of every row by the size of the
corpus, and ranking by the number of candidates.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.backbones import BACKBONES
from benchmarks.measuring import Times, circumstances, matrix_rate, median, timed
from benchmarks.outcome import Case, Targets, outcome
from cocoa.backbones import Backbone, Encoded, Kind
from cocoa.batch import Batch, Row, collate
from cocoa.corpus.index import Index
from cocoa.evaluation.scorer import score_task
from cocoa.layouts import LAYOUTS, Role
from cocoa.looks import Looks
from cocoa.model import EmbeddingModel
from cocoa.planning.ledger import LiveBytes
from cocoa.sample import Sample

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
ROWS = (1, 4, 16, 64, 256)
SIDES = (56, 112, 224, 448, 896)
CORPUS = (1_000, 10_000, 100_000, 1_000_000)
CANDIDATES = (10, 100, 1_000, 10_000)
DIMENSIONS = 128
SQUARE, SPLIT, APART = "square mask", "split", "two blocks apart"
CLOSE = 1e-4


def words(backbone: Backbone, count: int, seed: int) -> Encoded:
    """Returns so many random words."""
    ids = np.random.default_rng(seed).integers(300, 1500, count)
    return Encoded(ids.astype(np.int64), np.full(count, Kind.TEXT, np.uint8))


def bridge_ways(model: EmbeddingModel, length: int) -> dict[str, tuple[Batch, Tensor | Looks]]:
    """Returns what a row of `length` tokens with e in its middle is read as."""
    backbone = model.backbone
    half = length // 2
    context, target = words(backbone, half, 0), words(backbone, length - half - 1, 1)
    row: Row = [(context, Role.CONTEXT), (backbone.bridge, Role.BRIDGE), (target, Role.TARGET)]
    joined = collate(backbone, [row])
    apart = collate(
        backbone,
        [
            [(context, Role.CONTEXT), (backbone.bridge, Role.BRIDGE)],
            [(backbone.bridge, Role.BRIDGE), (target, Role.TARGET)],
        ],
    )
    bridge = LAYOUTS["eos_bridge_encoder"]
    return {
        SQUARE: (joined, bridge.allowed(joined.roles, joined.samples)),
        SPLIT: (joined, bridge.looks(joined.roles, joined.samples)),
        APART: (apart, LAYOUTS["bidirectional"].looks(apart.roles, apart.samples)),
    }


def step(model: EmbeddingModel, batch: Batch, allowed: Tensor | Looks) -> None:
    """Runs a row forward and backward."""
    model.states(batch, allowed).square().mean().backward()  # type: ignore[no-untyped-call]


def measure(run: Callable[[], object], seconds: float) -> tuple[float, int]:
    """Returns the median seconds of a run, repeated for about so long (3 times at least), and its most living bytes."""
    with LiveBytes() as memory:
        run()
    times: list[Times] = []
    while len(times) < 3 or (sum(one.wall for one in times) < seconds and len(times) < 15):
        with timed(times):
            run()
    return median(times), memory.peak


def by_length(model: EmbeddingModel, lengths: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """Returns what a bridge row costs by its length."""
    found = []
    for length in lengths:
        ways = bridge_ways(model, length)
        with torch.no_grad():
            one, other = (model.states(*ways[name]) for name in (SQUARE, SPLIT))
        far = float((one - other).abs().max())
        if far > CLOSE:
            raise SystemExit(f"states differ by {far:.1g} at {length} tokens; no time is given")
        entry: dict[str, Any] = {"tokens": length, "largest_difference": far}
        for name, (batch, allowed) in ways.items():
            looks = allowed.num_computed if isinstance(allowed, Looks) else allowed.numel()
            for weight in model.parameters():
                weight.grad = torch.zeros_like(weight)
            spent, peak = measure(partial(step, model, batch, allowed), seconds)
            entry[name] = {"looks": looks, "seconds": spent, "peak_bytes": peak}
        found.append(entry)
        print(length, {name: f"{entry[name]['seconds'] * 1e3:.0f} ms" for name in ways}, flush=True)
    model.zero_grad()
    return found


@torch.inference_mode()
def by_rows(model: EmbeddingModel, rows: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """Returns what embedding texts of 64 tokens costs by how many there are."""
    found = []
    for count in rows:
        samples = [words(model.backbone, 63, number) for number in range(count)]
        spent, peak = measure(partial(model.embed_all, samples), seconds)
        found.append({"rows": count, "seconds": spent, "peak_bytes": peak})
        print(count, f"rows {spent * 1e3:.1f} ms", flush=True)
    return found


@torch.inference_mode()
def by_picture(model: EmbeddingModel, sides: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """Returns what embedding one square picture costs by its side, reading it included."""
    from PIL import Image

    found = []
    for side in sides:
        model.backbone.with_pixel_limits(side * side, side * side)
        pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        sample = Sample("", (Image.fromarray(pixels),))
        tokens = int((model.backbone.encode(sample).kinds == Kind.IMAGE).sum())

        def run(sample: Sample = sample) -> Tensor:
            return model.embed_all([model.backbone.encode(sample)])

        spent, peak = measure(run, seconds)
        found.append({"side": side, "tokens": tokens, "seconds": spent, "peak_bytes": peak})
        print(side, f"pixels a side {spent * 1e3:.1f} ms", flush=True)
    return found


def by_corpus(sizes: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """Returns what one search of every row costs by how many there are (graphs: benchmarks.index)."""
    from benchmarks.index import cocoa_ask, write_embeddings  # It wants faiss, which the rest of this does not.

    vectors = np.random.default_rng(0).normal(size=(max(sizes), DIMENSIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            index = Index.open(write_embeddings(Path(folder) / "embeddings", vectors[:size]).folder)
            spent, _ = measure(partial(cocoa_ask(index), vectors[:1]), seconds)
            index.close()
        found.append({"rows": size, "seconds": spent})
        print(size, f"rows searched in {spent * 1e3:.2f} ms", flush=True)
    return found


def by_candidates(sizes: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """Returns what ranking 200 queries costs by how many candidates each has of its own."""
    chance = np.random.default_rng(0)
    found = []
    for size in sizes:
        queries = chance.normal(size=(200, DIMENSIONS)).astype(np.float32)
        candidates = chance.normal(size=(max(size, 10_000), DIMENSIONS)).astype(np.float32)
        index = [chance.permutation(len(candidates))[:size] for _ in queries]
        spent, _ = measure(partial(score_task, queries, candidates, index), seconds)
        found.append({"candidates": size, "seconds": spent})
        print(size, f"candidates ranked in {spent * 1e3:.1f} ms", flush=True)
    return found


def case_of(entry: dict[str, Any]) -> Case:
    """Returns the split row beside the one through a square mask, and how near it is to two blocks apart."""
    square, split, apart = (entry[way] for way in (SQUARE, SPLIT, APART))
    return Case(
        f"a row of {entry['tokens']:,} tokens",
        square["seconds"] / split["seconds"],
        None,
        apart["seconds"] / split["seconds"],
        split["peak_bytes"] / square["peak_bytes"],
    )


def main() -> None:
    """Runs all and prints and keeps it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backbone", choices=BACKBONES, default="nano")
    parser.add_argument("--longest", type=int, default=LENGTHS[-1])
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long each point is repeated")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = EmbeddingModel(BACKBONES[options.backbone](), max_tokens=2 * LENGTHS[-1])
    grown = by_length(model, [length for length in LENGTHS if length <= options.longest], options.seconds)
    result = {
        **outcome("growth", SQUARE, f"pace of {APART}", [case_of(grown[-1])], Targets()),
        "backbone": options.backbone,
        "by_length": grown,
        "by_rows": by_rows(model, ROWS, options.seconds),
        "by_picture": by_picture(model, SIDES, options.seconds),
        "by_corpus": by_corpus(CORPUS, options.seconds),
        "by_candidates": by_candidates(CANDIDATES, options.seconds),
        "flops_per_second": matrix_rate(),
        **circumstances(options.threads),
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
