"""One contrastive step beside sentence-transformers: `python -m benchmarks.contrastive_step [--json FILE]`.

The peer is its `CachedMultipleNegativesRankingLoss`, which caches gradients as we do. Same weights, pairs of the open
sets with distinct targets, temperature and threads; decoding and tokenising are outside of both. Loss and gradients are
compared first, then both are run in turn. The peer gets the mini-batch size that is fastest for it here. The vision
tower is frozen on both sides, as the recipes leave it; `--train-vision` trains it too. On a GPU (a backbone of real
shape) both compute products in bfloat16 with trained weights in float32; the mini-batch size is sought on 128 pairs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.stock import OPEN_SETS, ROOT, open_stock, why_not

# isort: split
from benchmarks.backbones import BACKBONES
from benchmarks.measuring import CPU, Times, circumstances, device_peak, matrix_rate, median, ratio, timed
from benchmarks.mixture import Thing, sample_of
from benchmarks.outcome import MATRIX_RATE, Case, Targets, outcome
from cocoa.archives import open_archive
from cocoa.data.mmeb_train import MmebTrain
from cocoa.images import ArchivedImage
from cocoa.model import EmbeddingModel
from cocoa.objectives import Contrastive
from cocoa.objectives.contrastive import ContrastiveOptions
from cocoa.planning.ledger import FUSED
from cocoa.recipe import MachineOptions, parse_recipe
from cocoa.sample import IMAGE_PLACEHOLDER, Pair, Sample
from cocoa.training.batches import encode_pairs
from cocoa.training.contrast import contrast_backward
from cocoa.training.memory import most_memory
from cocoa.training.passes import prepare
from cocoa.training.ranks import Ranks
from cocoa.training.trainee import Trainee

TARGETS, GPU_TARGETS = Targets(2.0, 0.6), Targets(2.5)
OURS, PEER = "cocoa", "sentence-transformers"
TEMPERATURE = 0.05
MINI_BATCHES = (8, 16, 32, 64)
GPU_MINI_BATCHES = (32, 128)
CLOSE, CLOSE_MIXED = 1e-3, 0.1
"""Of the whole gradient's norm, in float32 and in bfloat16."""

Sides = tuple[Thing, Thing]
Step = Callable[[], float]


def draw(number: int, folder: Path) -> list[Sides]:
    """Returns so many pairs of the open sets' training tables, no two with an equal query or target."""
    rows = [pair for path in sorted(OPEN_SETS.glob("*/train")) for pair in _some(MmebTrain(path.parent))]
    random.Random(0).shuffle(rows)
    found: list[Sides] = []
    used: set[str] = set()
    for pair in rows:
        if len(found) == number:
            break
        query = _thing(pair.query, folder / f"{len(found)}-query.webp")
        target = _thing(pair.target, folder / f"{len(found)}-target.webp")
        if query is None or target is None:
            continue
        contents = {_content(query), _content(target)}
        if len(contents) == 2 and not contents & used:
            used |= contents
            found.append((query, target))
    return found


def _some(pairs: MmebTrain) -> list[Pair]:
    return [pairs[place] for place in range(0, len(pairs), max(1, len(pairs) // 2000))]


def _thing(sample: Sample, file: Path) -> Thing | None:
    """The sample with its picture in a file; None where white would shine through it, which stock code shows black."""
    words = sample.text.replace(IMAGE_PLACEHOLDER, "").strip()
    if not sample.images:
        return Thing(words, None)
    picture = sample.images[0]
    assert isinstance(picture, ArchivedImage)
    file.write_bytes(open_archive(picture.archive).read(picture.member))
    return None if Image.open(file).has_transparency_data else Thing(words, str(file))


def _content(thing: Thing) -> str:
    pixels = b"" if thing.picture is None else Image.open(thing.picture).convert("RGB").tobytes()
    return f"{thing.text} {hashlib.sha256(pixels).hexdigest()}"


def our_step(
    folder: Path, pairs: Sequence[Sides], chunk_tokens: int, *, train_vision: bool, device: torch.device = CPU
) -> tuple[nn.Module, Step]:
    """Returns the model and what adds a step's gradients to it and returns the loss."""
    recipe = parse_recipe(
        "name: one\nbackbone: {name: nano}\nstages:\n  - {name: contrastive, layout: bidirectional, objectives:"
        " [{kind: contrastive}], data: [{kind: scene_pairs, num_pairs: 2}], steps: 1, batch_size: 2, learning_rate: 1}"
    )
    model = EmbeddingModel.load(folder, device=device)
    model.requires_grad_(True)
    model.backbone.vision.requires_grad_(train_vision)
    objective = Contrastive(ContrastiveOptions(temperature=TEMPERATURE))
    trainee = Trainee(model, recipe.stages[0], [objective], mixed=device != CPU).train()
    if trainee.mixed and not train_vision:
        model.backbone.vision.to(torch.bfloat16)
    ready = encode_pairs(model.backbone, [Pair(sample_of(query), sample_of(target)) for query, target in pairs])
    machine, alone = MachineOptions(chunk_tokens=chunk_tokens), Ranks(0, 1, device)

    chunks = prepare(trainee, ready, machine, seed=0).single

    def step() -> float:
        return contrast_backward(trainee, objective, ready, alone, machine, chunks=chunks).losses["contrastive"]

    return model.backbone.stock.model, step


def their_step(stock: Any, pairs: Sequence[Sides], mini_batch: int, *, train_vision: bool) -> tuple[nn.Module, Step]:
    """Returns the peer's model and step, as `our_step` does."""
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    stock.train()
    stock.requires_grad_(True)
    inner = next(
        module for module in stock.modules() if hasattr(module, "visual") and hasattr(module, "language_model")
    )
    inner.visual.requires_grad_(train_vision)
    loss = CachedMultipleNegativesRankingLoss(stock, scale=1 / TEMPERATURE, mini_batch_size=mini_batch)
    columns = [
        {
            name: value.to(stock.device) if isinstance(value, Tensor) else value
            for name, value in stock.preprocess([thing.for_stock() for thing in side]).items()
        }
        for side in zip(*pairs, strict=True)
    ]

    mixed = stock.device.type != CPU.type

    def step() -> float:
        # The second pass of the peer is run by its backward pass, so that stands within too.
        with torch.autocast(stock.device.type, torch.bfloat16) if mixed else nullcontext():
            value: Tensor = loss([dict(column) for column in columns], torch.zeros(len(pairs)))
            value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    return inner, step


def gradients(module: nn.Module, step: Step) -> tuple[float, dict[str, Tensor]]:
    """Returns the loss of a step and the gradient of each weight that has one."""
    module.zero_grad(set_to_none=True)
    loss = step()
    found = {name: weight.grad.clone() for name, weight in module.named_parameters() if weight.grad is not None}
    module.zero_grad(set_to_none=True)
    return loss, found


def check_equal(ours: tuple[float, dict[str, Tensor]], theirs: tuple[float, dict[str, Tensor]]) -> dict[str, float]:
    """Returns both losses and how far the gradients are apart, a share of their norm; exits if that is too far."""
    (loss, grads), (their_loss, their_grads) = ours, theirs
    mixed = next(iter(grads.values())).device != CPU
    if grads.keys() != their_grads.keys():
        sys.exit(f"gradients of other weights: {sorted(grads.keys() ^ their_grads.keys())[:5]}; no time is given")
    apart = torch.stack([(grads[name] - their_grads[name]).norm() for name in grads]).norm()
    share = float(apart / torch.stack([one.norm() for one in their_grads.values()]).norm())
    if abs(loss - their_loss) > (1e-2 if mixed else 1e-4) * their_loss or share > (CLOSE_MIXED if mixed else CLOSE):
        sys.exit(f"losses {loss:.6f} and {their_loss:.6f}, gradients {share:.2g} apart; no time is given")
    return {"loss": loss, "their_loss": their_loss, "gradients_apart": share}


def compare(folder: Path, pairs: Sequence[Sides], options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Returns the times of both steps, after a check of losses and gradients."""
    train_vision, on_cpu = options.train_vision, device == CPU
    model, ours = our_step(folder, pairs, options.chunk_tokens, train_vision=train_vision, device=device)
    stock = open_stock(folder, device, dtype=torch.float32)
    tuned: dict[int, float] = {}
    for size in MINI_BATCHES if on_cpu else GPU_MINI_BATCHES:
        theirs = their_step(stock, pairs if on_cpu else pairs[:128], size, train_vision=train_vision)[1]
        tries: list[Times] = []
        with timed(tries, device):
            theirs()
        tuned[size] = tries[0].wall
    best = min(tuned, key=lambda size: tuned[size])
    inner, theirs = their_step(stock, pairs, best, train_vision=train_vision)
    held: dict[str, int] = {}
    found, work = {}, {}
    for name, module, step in ((OURS, model, ours), (PEER, inner, theirs)):
        counter = FlopCounterMode(display=False, custom_mapping=FUSED)
        with counter, nullcontext() if on_cpu else device_peak(device, held, name):
            found[name] = gradients(module, step)
        work[name] = counter.get_total_flops()
    checked = check_equal(found.pop(OURS), found.pop(PEER))
    times: dict[str, list[Times]] = {OURS: [], PEER: []}
    rates = []
    for number in range(options.repeats):
        turn = [(OURS, model, ours), (PEER, inner, theirs)]
        for name, module, step in turn if number % 2 else turn[::-1]:
            module.zero_grad(set_to_none=True)
            with timed(times[name], device):
                step()
            module.zero_grad(set_to_none=True)
        rates.append(matrix_rate(size=512, device=device))
    rate = statistics.median(rates)
    return {
        "ratio": ratio(times[PEER], times[OURS]),
        "pairs_per_second": {name: len(pairs) / median(some) for name, some in times.items()},
        "seconds": {name: [one.wall for one in some] for name, some in times.items()},
        "cpu_seconds": {name: [one.cpu for one in some] for name, some in times.items()},
        "checked": checked,
        "device_bytes_added": held,
        "peer_mini_batch": {"best": best, "seconds": tuned},
        "gflops": {name: count / 1e9 for name, count in work.items()},
        "ceiling": {"what": "matrix product of this run, on the clock", "flops_per_second": rate},
        "ceiling_share": {name: work[name] / median(times[name]) / rate for name in work},
    }


def memory(name: str, folder: Path, pairs: Sequence[Sides], size: int, options: argparse.Namespace) -> dict[str, int]:
    """Returns the bytes that a process of its own has held at most, and by how much the step raised it."""
    asked = {"name": name, "folder": str(folder), "size": size, "threads": options.threads}
    asked["train_vision"] = options.train_vision
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(asked | {"pairs": [[asdict(thing) for thing in pair] for pair in pairs]}, file)
        file.flush()
        command = [sys.executable, "-m", "benchmarks.contrastive_step", "--memory-of", file.name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    answer: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure_memory(request: Path) -> None:
    """Answers `memory` inside its process: the pairs are ready, and a step of two has been made."""
    asked = json.loads(request.read_text())
    torch.set_num_threads(asked["threads"])
    pairs = [(Thing(**query), Thing(**target)) for query, target in asked["pairs"]]
    train_vision = asked["train_vision"]
    folder = Path(asked["folder"])
    stock = None if asked["name"] == OURS else open_stock(folder)

    def ready(some: Sequence[Sides]) -> Step:
        if stock is None:
            return our_step(folder, some, asked["size"], train_vision=train_vision)[1]
        return their_step(stock, some, asked["size"], train_vision=train_vision)[1]

    ready(pairs[:2])()
    step = ready(pairs)
    before = most_memory()
    step()
    print(json.dumps({"peak": most_memory(), "added": most_memory() - before}))


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backbone", choices=list(BACKBONES), action="append", help="default: nano")
    parser.add_argument("--pixels", type=int, help="enlarge every picture to at least this many pixels a side")
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--chunk-tokens", type=int, default=1024, help="of our step")
    parser.add_argument("--train-vision", action="store_true")
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
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        pictures = Path(home) / "pictures"
        pictures.mkdir()
        pairs = draw(options.pairs, pictures)
        for name in options.backbone or ["nano"]:
            folder = Path(home) / name
            backbone = BACKBONES[name]()
            if options.pixels:
                backbone.with_pixel_limits(options.pixels**2, None)
            device = backbone.device
            EmbeddingModel(backbone).save(folder)
            del backbone
            result = compare(folder, pairs, options, device)
            if device == CPU:
                sizes = {OURS: options.chunk_tokens, PEER: result["peer_mini_batch"]["best"]}
                held = {who: memory(who, folder, pairs, size, options) for who, size in sizes.items()}
            else:
                held = {who: {"added": most} for who, most in result["device_bytes_added"].items()}
            result["memory"] = held
            result["memory_ratio"] = {key: held[OURS][key] / held[PEER][key] for key in held[OURS]}
            results[name] = result
            low, high = result["ratio"]["spread"]
            print(f"{name}: {result['ratio']['median']:.2f} x as fast ({low:.2f} to {high:.2f})", end=", ")
            print(f"of CPU {result['ratio']['cpu']:.2f}; gradients {result['checked']['gradients_apart']:.1g} apart")
            for who in (OURS, PEER):
                speed, work, share = (result[key][who] for key in ("pairs_per_second", "gflops", "ceiling_share"))
                print(f"  {who:22}{speed:7.1f} pairs/s, {work:.0f} GFLOP, {share:.0%} of a matrix product", end=", ")
                print(f"{held[who]['added'] / 1e6:.0f} MB added")
            print(f"  memory added {result['memory_ratio']['added']:.2f} x theirs")
    targets = TARGETS if device == CPU else GPU_TARGETS
    cases = [
        Case.of(
            f"{name}, {options.pairs} pairs",
            found["ratio"],
            found["ceiling_share"][OURS],
            found["memory_ratio"]["added"],
        )
        for name, found in results.items()
    ]
    result = outcome("contrastive_step", PEER, MATRIX_RATE, cases, targets)
    result |= {"pairs": options.pairs, "chunk_tokens": options.chunk_tokens, "train_vision": options.train_vision}
    result |= {"backbones": results, **circumstances(options.threads, device)}
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return None


if __name__ == "__main__":
    main()
