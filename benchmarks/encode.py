"""`Embedder.encode` beside sentence-transformers: `python -m benchmarks.encode [--json FILE]`.

Both open the same model folder; the peer with its own stock modules, the Pillow processor that the folder names, the
length sorting that it has and the batch size that is fastest for it here. Same texts and picture files (a third each:
texts, pictures, both; drawn from the open sets), same threads. The cosine of each pair of vectors is checked first, and
both are run in turn. Memory is what encoding adds to a process that has loaded the model and embedded one input, each
in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.stock import OPEN_SETS, ROOT, open_stock, why_not

# isort: split
from benchmarks.backbones import BACKBONES
from benchmarks.measuring import Times, circumstances, matrix_rate, median, ratio, timed
from benchmarks.mixture import Thing, draw, measured
from cocoa import Embedder
from cocoa.model import EmbeddingModel
from cocoa.training.memory import most_memory

SPEED, MEMORY = 2.0, 0.6
OURS, PEER = "cocoa", "sentence-transformers"
BATCH_SIZES = (4, 8, 16, 32, 64)


Run = Callable[[Sequence[Thing]], Any]


def way(name: str, folder: Path, batch_size: int = 32) -> Run:
    """Returns what embeds things, with the model loaded."""
    if name == OURS:
        embedder = Embedder.load(folder)
        return lambda things: embedder.encode([thing.for_us() for thing in things])
    return stock_way(open_stock(folder), batch_size)


def stock_way(stock: Any, batch_size: int) -> Run:
    """Returns what embeds things as the peer does."""
    return lambda things: stock.encode(
        [thing.for_stock() for thing in things], batch_size=batch_size, show_progress_bar=False
    )


def flops(work: Callable[[], Any]) -> int:
    """Returns the floating-point operations of some work, on one thread, where the counter sees them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with FlopCounterMode(display=False) as counter:
        work()
    torch.set_num_threads(threads)
    return int(counter.get_total_flops())


def compare(folder: Path, things: Sequence[Thing], repeats: int) -> dict[str, Any]:
    """Returns the times of both, after a check that their vectors are equal."""
    ours = way(OURS, folder)
    stock = open_stock(folder)
    tuned: dict[int, float] = {}
    for batch_size in BATCH_SIZES:
        theirs = stock_way(stock, batch_size)
        theirs(things[:8])
        tries: list[Times] = []
        for _ in range(2):
            with timed(tries):
                theirs(things)
        tuned[batch_size] = min(one.wall for one in tries)
    best = min(tuned, key=lambda size: tuned[size])
    ways = {OURS: ours, PEER: stock_way(stock, best)}
    vectors = {name: run(things) for name, run in ways.items()}
    cosine = float((vectors[OURS] * vectors[PEER]).sum(1).min())
    if cosine < 0.9999:
        sys.exit(f"a cosine is {cosine:.6f}; no time is given")
    times: dict[str, list[Times]] = {name: [] for name in ways}
    rates = []
    for number in range(repeats):
        for name in (OURS, PEER) if number % 2 else (PEER, OURS):
            with timed(times[name]):
                ways[name](things)
        rates.append(matrix_rate(size=512))
    rate = statistics.median(rates)
    work = {name: flops(lambda run=run: run(things)) for name, run in ways.items()}  # type: ignore[misc]
    return {
        "ratio": ratio(times[PEER], times[OURS]),
        "items_per_second": {name: len(things) / median(some) for name, some in times.items()},
        "seconds": {name: [one.wall for one in some] for name, some in times.items()},
        "cpu_seconds": {name: [one.cpu for one in some] for name, some in times.items()},
        "smallest_cosine": cosine,
        "peer_batch_size": {"best": best, "seconds": tuned},
        "gflops": {name: count / 1e9 for name, count in work.items()},
        "ceiling": {"what": "float32 matrix product of this run, on the clock", "flops_per_second": rate},
        "ceiling_share": {name: work[name] / median(times[name]) / rate for name in ways},
    }


def memory(name: str, folder: Path, things: Sequence[Thing], batch_size: int, threads: int) -> dict[str, int]:
    """Returns the bytes that a process of its own has held at most, and by how much encoding raised it."""
    asked = {"name": name, "folder": str(folder), "batch_size": batch_size, "threads": threads}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(asked | {"things": [asdict(thing) for thing in things]}, file)
        file.flush()
        command = [sys.executable, "-m", "benchmarks.encode", "--memory-of", file.name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    answer: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure_memory(request: Path) -> None:
    """Answers `memory` inside its process."""
    asked = json.loads(request.read_text())
    torch.set_num_threads(asked["threads"])
    things = [Thing(**thing) for thing in asked["things"]]
    run = way(asked["name"], Path(asked["folder"]), asked["batch_size"])
    run(things[:1])
    before = most_memory()
    run(things)
    print(json.dumps({"peak": most_memory(), "added": most_memory() - before}))


def run(name: str, things: Sequence[Thing], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the comparison on one backbone."""
    backbone = BACKBONES[name]()
    EmbeddingModel(backbone).save(folder)
    result = compare(folder, things, options.repeats)
    best = result["peer_batch_size"]["best"]
    held = {who: memory(who, folder, things, best, options.threads) for who in (OURS, PEER)}
    small = memory(PEER, folder, things, min(BATCH_SIZES), options.threads)
    result["memory"] = held | {f"{PEER}, batches of {min(BATCH_SIZES)}": small}
    result["memory_ratio"] = {key: held[OURS][key] / held[PEER][key] for key in ("peak", "added")}
    return result | {"mixture": measured(backbone, things)}


def show(name: str, result: dict[str, Any]) -> None:
    """Prints a comparison."""
    low, high = result["ratio"]["spread"]
    print(f"{name}: {result['ratio']['median']:.2f} x as fast ({low:.2f} to {high:.2f}), of CPU", end=" ")
    print(f"{result['ratio']['cpu']:.2f}; smallest cosine {result['smallest_cosine']:.6f}")
    for who in (OURS, PEER):
        share, work = result["ceiling_share"][who], result["gflops"][who]
        print(f"  {who:22}{result['items_per_second'][who]:8.1f} items/s, {work:.0f} GFLOP, {share:.0%} of", end=" ")
        print(f"the rate of a matrix product, {result['memory'][who]['added'] / 1e6:.0f} MB added")
    added, peak = (result["memory_ratio"][key] for key in ("added", "peak"))
    print(f"  memory added {added:.2f} x theirs (whole process {peak:.2f} x)")


def main() -> None:
    """Runs the comparisons and prints them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backbone", choices=list(BACKBONES), action="append", help="default: all of them")
    parser.add_argument("--items", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        return measure_memory(options.memory_of)
    if (reason := why_not()) is not None:
        return print(f"not compared: {reason}")
    torch.set_num_threads(options.threads)
    results = {}
    with tempfile.TemporaryDirectory() as home:
        pictures = Path(home) / "pictures"
        pictures.mkdir()
        things = draw(OPEN_SETS, options.items, pictures)
        for name in options.backbone or BACKBONES:
            results[name] = run(name, things, Path(home) / name, options)
            show(name, results[name])
    result = {"name": "encode", "peer": PEER, "target": {"speed": SPEED, "memory": MEMORY}, "backbones": results}
    result |= circumstances(options.threads)
    print(f"targets: {SPEED:g} x the speed, {MEMORY:g} x the memory; {result['hardware']}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return None


if __name__ == "__main__":
    main()
