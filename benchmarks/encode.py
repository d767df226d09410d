"""`Embedder.encode` beside sentence-transformers: `python -m benchmarks.encode [--json FILE]`.

Both open the same model folder; the peer with its own stock modules, the Pillow processor that the folder names, the
length sorting that it has and the batch size that is fastest for it here. Same texts and picture files (a third each:
texts, pictures, both; drawn from the open sets), same threads. The cosine of each pair of vectors is checked first, and
both are run in turn. Memory is what encoding adds to a process that has loaded the model and embedded one input, each
in a process of its own; on a GPU (a backbone of real shape, both in bfloat16) what it adds to the model there.
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
from benchmarks.backbones import BACKBONES, SMALL
from benchmarks.measuring import CPU, Times, circumstances, device_peak, matrix_rate, median, ratio, timed
from benchmarks.mixture import Thing, draw, measured
from benchmarks.outcome import MATRIX_RATE, Case, Targets, outcome
from cocoa import Embedder
from cocoa.model import EmbeddingModel, best_device
from cocoa.planning.ledger import FUSED
from cocoa.training.memory import most_memory

TARGETS, GPU_TARGETS = Targets(2.0, 0.6), Targets(2.0, None, 0.5)
OURS, PEER = "cocoa", "sentence-transformers"
BATCH_SIZES = (4, 8, 16, 32, 64)
GPU_BATCH_SIZES = (8, 32, 64)
CLOSE, CLOSE_HALF = 0.9999, 0.99
"""Cosines of equal vectors, in float32 and in bfloat16."""


Run = Callable[[Sequence[Thing]], Any]


def way(name: str, folder: Path, batch_size: int = 32, device: torch.device = CPU) -> Run:
    """Returns what embeds things, with the model loaded."""
    if name == OURS:
        embedder = Embedder.load(folder, device=device, dtype="float32" if device == CPU else "bfloat16")
        return lambda things: embedder.encode([thing.for_us() for thing in things])
    return stock_way(open_stock(folder, device), batch_size)


def stock_way(stock: Any, batch_size: int) -> Run:
    """Returns what embeds things as the peer does."""
    return lambda things: stock.encode(
        [thing.for_stock() for thing in things], batch_size=batch_size, show_progress_bar=False
    )


def flops(work: Callable[[], Any]) -> int:
    """Returns the floating-point operations of some work, on one thread, where the counter sees them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        work()
    torch.set_num_threads(threads)
    return int(counter.get_total_flops())


def compare(folder: Path, things: Sequence[Thing], repeats: int, device: torch.device) -> dict[str, Any]:
    """Returns the times of both, after a check that their vectors are equal."""
    on_cpu = device == CPU
    ours = way(OURS, folder, device=device)
    stock = open_stock(folder, device)
    tuned: dict[int, float] = {}
    for batch_size in BATCH_SIZES if on_cpu else GPU_BATCH_SIZES:
        theirs = stock_way(stock, batch_size)
        theirs(things[:8])
        tries: list[Times] = []
        for _ in range(2 if on_cpu else 1):
            with timed(tries, device):
                theirs(things)
        tuned[batch_size] = min(one.wall for one in tries)
    best = min(tuned, key=lambda size: tuned[size])
    ways = {OURS: ours, PEER: stock_way(stock, best)}
    vectors = {name: run(things) for name, run in ways.items()}
    cosine = float((vectors[OURS] * vectors[PEER]).sum(1).min())
    if cosine < (CLOSE if on_cpu else CLOSE_HALF):
        sys.exit(f"a cosine is {cosine:.6f}; no time is given")
    times: dict[str, list[Times]] = {name: [] for name in ways}
    rates = []
    for number in range(repeats):
        for name in (OURS, PEER) if number % 2 else (PEER, OURS):
            with timed(times[name], device):
                ways[name](things)
        rates.append(matrix_rate(size=512, device=device))
    rate = statistics.median(rates)
    held: dict[str, int] = {}
    if not on_cpu:
        for name, run in ways.items():
            with device_peak(device, held, name):
                run(things)
    work = {name: flops(lambda run=run: run(things)) for name, run in ways.items()}  # type: ignore[misc]
    return {
        "ratio": ratio(times[PEER], times[OURS]),
        "items_per_second": {name: len(things) / median(some) for name, some in times.items()},
        "seconds": {name: [one.wall for one in some] for name, some in times.items()},
        "cpu_seconds": {name: [one.cpu for one in some] for name, some in times.items()},
        "smallest_cosine": cosine,
        "peer_batch_size": {"best": best, "seconds": tuned},
        "device_bytes_added": held,
        "gflops": {name: count / 1e9 for name, count in work.items()},
        "ceiling": {"what": "matrix product of this run, on the clock", "flops_per_second": rate},
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
    if options.pixels:
        backbone.with_pixel_limits(options.pixels**2, None)
    EmbeddingModel(backbone).save(folder)
    device = backbone.device
    if device != CPU:
        del backbone.stock  # room for those that are opened
    result = compare(folder, things, options.repeats, device)
    result |= {"device": device.type, "mixture": measured(backbone, things)}
    if device != CPU:
        added = result["device_bytes_added"]
        return result | {"memory_ratio": {"added": added[OURS] / added[PEER]}}
    best = result["peer_batch_size"]["best"]
    held = {who: memory(who, folder, things, best, options.threads) for who in (OURS, PEER)}
    small = memory(PEER, folder, things, min(BATCH_SIZES), options.threads)
    result["memory"] = held | {f"{PEER}, batches of {min(BATCH_SIZES)}": small}
    result["memory_ratio"] = {key: held[OURS][key] / held[PEER][key] for key in ("peak", "added")}
    return result


def show(name: str, result: dict[str, Any]) -> None:
    """Prints a comparison."""
    low, high = result["ratio"]["spread"]
    print(f"{name}: {result['ratio']['median']:.2f} x as fast ({low:.2f} to {high:.2f}), of CPU", end=" ")
    print(f"{result['ratio']['cpu']:.2f}; smallest cosine {result['smallest_cosine']:.6f}")
    for who in (OURS, PEER):
        share, work = result["ceiling_share"][who], result["gflops"][who]
        print(f"  {who:22}{result['items_per_second'][who]:8.1f} items/s, {work:.0f} GFLOP, {share:.0%} of", end=" ")
        added = result["memory"][who]["added"] if "memory" in result else result["device_bytes_added"][who]
        print(f"the rate of a matrix product, {added / 1e6:.0f} MB added")
    print(f"  memory added {result['memory_ratio']['added']:.2f} x theirs")


def main() -> None:
    """Runs the comparisons and prints them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backbone", choices=list(BACKBONES), action="append", help="default: those for a CPU")
    parser.add_argument("--pixels", type=int, help="enlarge every picture to at least this many pixels a side")
    parser.add_argument("--pictures-only", action="store_true", help="no texts: the load of an image-heavy corpus")
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
        if options.pictures_only:
            things = [thing for thing in things if thing.picture]
        for name in options.backbone or SMALL:
            results[name] = run(name, things, Path(home) / name, options)
            show(name, results[name])
    on_gpu = any(found["device"] != CPU.type for found in results.values())
    targets = GPU_TARGETS if on_gpu else TARGETS
    cases = [
        Case.of(name, found["ratio"], found["ceiling_share"][OURS], found["memory_ratio"]["added"])
        for name, found in results.items()
    ]
    result = outcome("encode", PEER, MATRIX_RATE, cases, targets) | {"backbones": results}
    result |= circumstances(options.threads, best_device() if on_gpu else CPU)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return None


if __name__ == "__main__":
    main()
