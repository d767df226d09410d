"""A training step beside the same step as peers run it, each of their wastes by itself.

The plain steps are written from what peers document of theirs (their code is not run): plain_reconstruction.py for
warmup_step and bridge_step, plain_contrast.py for cached_step. Same weights, same pairs, same hidden words and patches;
loss and gradients are checked to be equal before anything is timed.

On a GPU (a backbone of real shape, in bfloat16) pictures are read and passes prepared before the clock starts, on both
sides, as training does ahead of a step; and memory is what the GPU's allocator held.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.backbones import BACKBONES, SMALL
from benchmarks.measuring import Times, circumstances, device_peak, matrix_rate, median, ratio, timed
from benchmarks.outcome import MATRIX_RATE, Case, Targets, outcome
from benchmarks.stock_parts import StockParts
from cocoa.backbones import Backbone
from cocoa.batch import row_length
from cocoa.model import EmbeddingModel
from cocoa.planning.costs import Costs
from cocoa.planning.ledger import FUSED, LiveBytes
from cocoa.planning.passes import step_of
from cocoa.recipe import MachineOptions, Recipe, parse_recipe
from cocoa.sample import Pair
from cocoa.training.batches import EncodedPairs, encode_pair, encode_pairs
from cocoa.training.passes import Passes, prepare
from cocoa.training.ranks import Ranks
from cocoa.training.reconstruct import stage_row
from cocoa.training.setup import open_data, set_up
from cocoa.training.step import backward_step
from cocoa.training.trainee import Trainee

TARGETS, GPU_TARGETS = Targets(2.0, 0.6), Targets(2.5, 0.6, 0.4)
OURS, PEER, LEAN, LITTLE = "cocoa", "plain step", "plain step without waste", "cocoa in little memory"
OPEN_SETS = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = ("bccd", "clothing", "emoji", "flags", "nlvr")
CLOSE, CLOSE_MIXED = 1e-4, 2e-2


Losses = dict[str, float]
Prepare = Callable[[Trainee, EncodedPairs, MachineOptions, Sequence[str]], Any]
"""Returns the forward passes of a step with some wastes, on the CPU."""
Step = Callable[[Trainee, EncodedPairs, Any, Sequence[str]], Losses]
"""Returns the losses of a step of prepared passes; leaves its gradients in the weights."""


@dataclass(frozen=True)
class Plain:
    """A step as peers run it, and what it wastes: a word for each and what it means."""

    prepare: Prepare
    step: Step
    wastes: dict[str, str]


@dataclass(frozen=True)
class Bench:
    """A stage made ready, and the pairs of its steps as they come from the data, not yet encoded."""

    trainee: Trainee
    recipe: Recipe
    steps: list[list[Pair]]
    peer: Plain
    read: dict[int, EncodedPairs] = field(default_factory=dict)
    """Steps whose pictures were read before the clock started, by the list of their pairs."""
    made: dict[tuple[int, Sequence[str]], Any] = field(default_factory=dict)
    """What the plain step prepared of those before the clock started, by their pairs and wastes."""
    passes: dict[int, Passes] = field(default_factory=dict)
    """What the product prepared of those, as training prepares it while the step before runs."""

    @cached_property
    def stock_parts(self) -> StockParts:
        """The stock library's modules for this backbone."""
        return StockParts(self.backbone)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.backbone.device

    @property
    def wastes(self) -> dict[str, str]:
        """What the plain step wastes here: where pictures are read beforehand, none in reading them twice."""
        return {name: what for name, what in self.peer.wastes.items() if not (self.read and name == "reading")}

    @property
    def backbone(self) -> Backbone:
        """The model that is trained."""
        return self.trainee.model.backbone

    def encode(self, pairs: Sequence[Pair]) -> EncodedPairs:
        """Returns the pairs of a step with their pictures read."""
        return self.read.get(id(pairs)) or encode_pairs(self.backbone, list(pairs))

    def ours(self, pairs: Sequence[Pair], little: int | None = None) -> Losses:
        """Returns the losses of the product's own step; leaves its gradients in the weights.

        With `little`, of passes of so many tokens, as `machine.chunk_tokens` asks for where memory is short.
        """
        alone = Ranks(0, 1, self.device)
        encoded = self.encode(pairs)
        if little is not None:
            small = self.recipe.machine.model_copy(update={"chunk_tokens": little})
            return backward_step(self.trainee, encoded, alone, small, seed=0).losses
        if self.read and id(pairs) not in self.passes:
            self.passes[id(pairs)] = prepare(self.trainee, encoded, self.recipe.machine, seed=0)
        passes = self.passes.get(id(pairs))
        tally = backward_step(self.trainee, encoded, alone, self.recipe.machine, seed=0, passes=passes)
        return tally.losses

    def plain(self, pairs: Sequence[Pair], wastes: Sequence[str] | None = None) -> Losses:
        """Returns the losses of the plain step with some wastes (None: all); leaves its gradients in the weights."""
        wastes = tuple(self.wastes) if wastes is None else wastes
        if "reading" in wastes:
            self.encode(pairs)
        encoded = self.encode(pairs)
        key = (id(pairs), wastes)
        made = self.made.get(key) or self.peer.prepare(self.trainee, encoded, self.recipe.machine, wastes)
        if self.read:
            self.made[key] = made
        with self.stock_parts.in_place() if "stock" in wastes else nullcontext():
            return self.peer.step(self.trainee, encoded, made, wastes)

    def gradients(self) -> dict[str, Tensor]:
        """Returns the gradients in the weights, and clears them."""
        found = {name: weight.grad for name, weight in self.trainee.trained.items() if weight.grad is not None}
        self.trainee.zero_grad(set_to_none=True)
        return found


def make_bench(
    stage: str, backbone: Backbone, peer: Plain, *, data: str, num_steps: int, batch_size: int, seed: int = 0
) -> Bench:
    """Returns a stage of a recipe (`layout: ..., objectives: ...` as YAML) on a backbone, ready to step."""
    recipe = parse_recipe(f"""
name: benchmark
seed: {seed}
backbone: {{name: nano}}
max_tokens: 4096
precision: {"bfloat16" if backbone.device.type == "cuda" else "float32"}
stages:
  - {{name: stage, {stage}, data: {data}, steps: {num_steps}, batch_size: {batch_size}, learning_rate: 1e-4}}
""")
    trained = recipe.stages[0]
    mixture = open_data(recipe, trained)
    model = EmbeddingModel(backbone, max_tokens=recipe.max_tokens)
    trainee = set_up(model, recipe, trained, sharded=False).trainee.train()
    steps = [[mixture.pair(step * batch_size + place) for place in range(batch_size)] for step in range(num_steps)]
    bench = Bench(trainee, recipe, steps, peer)
    if backbone.device.type == "cuda":
        bench.read.update({id(pairs): bench.encode(pairs) for pairs in steps})
    return bench


def open_sets_data(folder: Path) -> str:
    """Returns the data of a stage, as YAML: captions and questions of all sets; generated scenes where they are not."""
    if not (folder / "TASKS.md").is_file():
        return "[{kind: scene_pairs, num_pairs: 4096, questions: 0.5}]"
    here = [folder / name for name in SETS if (folder / name).is_dir()]
    parts = [f"{{kind: image_text_pairs, path: {path / 'pairs_train.parquet'}}}" for path in here]
    return "[" + ", ".join([*parts, *(f"{{kind: mmeb_train, path: {path}}}" for path in here)]) + "]"


def alone(bench: Bench, repeats: int) -> dict[str, Any]:
    """Returns times, share and memory of the product's step, where the plain one has no memory for as many pairs."""
    times: list[Times] = []
    for _ in range(repeats + 1):
        with timed(times, bench.device):
            for pairs in bench.steps:
                bench.ours(pairs)
        bench.gradients()
    del times[0]  # the first compiles, and prepares passes that the others find ready
    rate = matrix_rate(device=bench.device)
    flops = sum(flops_of(bench.ours, pairs) for pairs in bench.steps)
    bench.gradients()
    return {
        "seconds": {OURS: [one.wall for one in times]},
        "peak_bytes": {OURS: peak_bytes(bench, bench.ours)},
        "flops": {OURS: flops},
        "flops_per_second": rate,
        "ceiling_share": {OURS: flops / median(times) / rate},
        "lengths": lengths_of(bench),
    }


def check_equal(bench: Bench, little: int | None) -> float:
    """Returns the largest difference of a gradient, as a share of the norm of all; exits if it or the loss is off."""
    ways: list[Callable[[Sequence[Pair]], Losses]] = [bench.plain, partial(bench.plain, wastes=())]
    if little:
        ways.append(partial(bench.ours, little=little))
    worst = 0.0
    close = CLOSE_MIXED if bench.trainee.mixed else CLOSE
    for pairs in bench.steps[:1] if bench.read else bench.steps[:2]:
        losses, gradients = bench.ours(pairs), bench.gradients()
        norm = float(torch.stack([gradient.norm() for gradient in gradients.values()]).norm())
        for way in ways:
            theirs, others = way(pairs), bench.gradients()
            if any(abs(losses[name] - theirs[name]) > close * max(1, losses[name]) for name in losses):
                sys.exit(f"losses differ: {losses} and {theirs}; no time is given")
            far = max(float((gradients[name] - others[name]).abs().max()) for name in gradients) / norm
            if gradients.keys() != others.keys() or far > close:
                sys.exit(f"gradients differ by {far:.1g} of their norm; no time is given")
            worst = max(worst, far)
    return worst


def peak_bytes(bench: Bench, step: Callable[[Sequence[Pair]], object]) -> int:
    """Returns the most bytes of living tensors in a step, over all steps, beside weights and their gradients."""
    for weight in bench.trainee.trained.values():
        weight.grad = torch.zeros_like(weight)
    most = 0
    for pairs in bench.steps:
        if bench.device.type == "cuda":
            peaks: dict[str, int] = {}
            with device_peak(bench.device, peaks, "step"):
                step(pairs)
            most = max(most, peaks["step"])
            continue
        with LiveBytes() as memory:
            step(pairs)
        most = max(most, memory.peak)
    bench.gradients()
    return most


def flops_of(step: Callable[[Sequence[Pair]], object], pairs: Sequence[Pair]) -> int:
    """Returns the floating-point operations of a step's products, fused attention included."""
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        step(pairs)
    return int(counter.get_total_flops())


def compare(bench: Bench, repeats: int, little: int | None) -> dict[str, Any]:
    """Returns times, ratios and memory of the product's step, the plain one, and the plain one with one waste each.

    With `little`, of the product's step in passes of so many tokens, too.
    """
    difference = check_equal(bench, little)
    ways: dict[str, Callable[[Sequence[Pair]], object]] = {OURS: bench.ours, PEER: bench.plain}
    if little:
        ways[LITTLE] = partial(bench.ours, little=little)
    ways[LEAN] = partial(bench.plain, wastes=())
    for waste in bench.wastes:
        ways[waste] = partial(bench.plain, wastes=(waste,))
    rates = [matrix_rate(device=bench.device)]
    times: dict[str, list[Times]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            with timed(times[name], bench.device):
                for pairs in bench.steps:
                    way(pairs)
            bench.gradients()
    rates.append(matrix_rate(device=bench.device))
    rate = statistics.median(rates)
    memory = {name: peak_bytes(bench, way) for name, way in ways.items()}
    counted = [name for name in ways if name not in bench.wastes]
    flops = {name: sum(flops_of(ways[name], pairs) for pairs in bench.steps) for name in counted}
    bench.gradients()
    tallies = [
        backward_step(bench.trainee, bench.encode(pairs), Ranks(0, 1, bench.device), bench.recipe.machine, seed=0)
        for pairs in bench.steps
    ]
    bench.gradients()
    found = {
        "ratio": ratio(times[PEER], times[OURS]),
        "memory_ratio": memory[OURS] / memory[PEER],
        "wastes": {
            waste: {
                "what": what,
                "time": ratio(times[waste], times[LEAN]),
                "memory": memory[waste] / memory[LEAN],
            }
            for waste, what in bench.wastes.items()
        },
        "seconds": {name: [one.wall for one in some] for name, some in times.items()},
        "cpu_seconds": {name: [one.cpu for one in some] for name, some in times.items()},
        "peak_bytes": memory,
        "flops": flops,
        "ceiling": {"what": "matrix product of this run", "flops_per_second": rate},
        "ceiling_share": {name: flops[name] / median(times[name]) / rate for name in flops},
        "planned": None if bench.read else planned(bench, flops[OURS], memory[OURS]),
        "largest_gradient_difference": difference,
        "lengths": lengths_of(bench),
        "pad_rate": statistics.mean(tally.pad_rate for tally in tallies),
        "idle_look_rate": statistics.mean(tally.idle_look_rate for tally in tallies),
        "tokens": sum(tally.num_tokens for tally in tallies),
    }
    if little:
        found["little"] = {
            "chunk_tokens": little,
            "ratio": ratio(times[PEER], times[LITTLE]),
            "memory_ratio": memory[LITTLE] / memory[PEER],
        }
    return found


def planned(bench: Bench, flops: int, peak: int) -> dict[str, Any]:
    """Returns what `cocoa plan` says of these steps, over what was counted: operations, and bytes beside gradients."""
    trainee, machine = bench.trainee, bench.recipe.machine
    costs = Costs(bench.backbone, bench.recipe, trainee.stage)
    steps = [
        step_of(trainee.model, trainee.stage, [encode_pair(bench.backbone, pair) for pair in pairs], machine)
        for pairs in bench.steps
    ]
    said = sum(costs.flops(step, machine) for step in steps)
    held = max(costs.beyond(step, machine) for step in steps) - costs.gradients
    return {"flops": said, "flops_ratio": said / flops, "peak_bytes": held, "peak_ratio": held / peak}


def lengths_of(bench: Bench) -> dict[str, Any]:
    """Returns how long the rows of all steps are, and what one pass over each whole batch would pad."""
    model, stage = bench.trainee.model, bench.trainee.stage
    steps = []
    for pairs in bench.steps:
        encoded = bench.encode(pairs)
        if any(options.rows == "single" for options in stage.objectives):
            rows = [model.row(sample) for sample in (*encoded.queries, *encoded.targets, *encoded.negatives)]
        else:
            both = zip(encoded.queries, encoded.targets, strict=True)
            rows = [stage_row(model, stage, query, target) for query, target in both]
        steps.append([row_length(row) for row in rows])
    every = sorted(length for step in steps for length in step)
    padded = sum(len(step) * max(step) for step in steps)
    return {
        "shortest": every[0],
        "median": statistics.median(every),
        "ninth_decile": every[int(0.9 * len(every))],
        "longest": every[-1],
        "pad_rate_of_whole_batches": 1 - sum(every) / padded,
    }


def run(name: str, stage: str, peer: Plain, doc: str, *, batch_size: int, little: int | None = None) -> None:
    """Runs a benchmark of a stage from the command line, and prints and keeps it.

    With `little`, our step is also taken in passes of so many tokens, where it pays for memory with time.
    """
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument(
        "--sets", type=Path, default=OPEN_SETS, help="folder of the open sets; without: generated scenes"
    )
    parser.add_argument("--backbone", choices=BACKBONES, nargs="+", default=list(SMALL))
    parser.add_argument("--pixels", type=int, help="enlarge every picture to at least this many pixels a side")
    parser.add_argument("--batch-size", type=int, help="default: the paper's for nano, a quarter of it for larger ones")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--alone", action="store_true", help="only our step: more pairs than the plain one has memory for"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = open_sets_data(options.sets)
    result: dict[str, Any] = {"data": list(SETS) if "mmeb_train" in data else "generated scenes"}
    result |= {"steps": options.steps, "backbones": {}}
    targets = TARGETS
    for backbone in options.backbone:
        size = options.batch_size or (batch_size if backbone == "nano" else batch_size // 4)
        model = BACKBONES[backbone]()
        if options.pixels:
            model.with_pixel_limits(options.pixels**2, None)
        bench = make_bench(stage, model, peer, data=data, num_steps=options.steps, batch_size=size)
        measured = alone(bench, options.repeats) if options.alone else compare(bench, options.repeats, little)
        found = {"batch_size": size} | measured
        result["backbones"][backbone] = found
        show(backbone, found)
        result |= circumstances(options.threads, bench.device)
        targets = GPU_TARGETS if bench.device.type == "cuda" else TARGETS
    cases = [case for backbone, found in result["backbones"].items() for case in cases_of(backbone, found)]
    result = outcome(name, PEER, MATRIX_RATE, cases, targets) | result
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def cases_of(backbone: str, found: dict[str, Any]) -> list[Case]:
    """Returns how one backbone did: with its memory as it comes and, where that was measured, in little memory."""
    share = found["ceiling_share"]
    name = f"{backbone}, {found['batch_size']} pairs"
    if "ratio" not in found:
        return [Case(name, None, None, share[OURS])]
    cases = [Case.of(name, found["ratio"], share[OURS], found["memory_ratio"])]
    if little := found.get("little"):
        name += f", passes of {little['chunk_tokens']} tokens"
        cases.append(Case.of(name, little["ratio"], share[LITTLE], little["memory_ratio"]))
    return cases


def show(backbone: str, found: dict[str, Any]) -> None:
    """Prints what was found of a backbone."""
    if "ratio" not in found:
        seconds, share = statistics.median(found["seconds"][OURS]), found["ceiling_share"][OURS]
        print(f"{backbone}, alone: {seconds:.2f} s a round, {share:.0%} of the matrix rate")
        return
    low, high = found["ratio"]["spread"]
    print(f"{backbone}: {found['ratio']['median']:.2f} x as fast ({low:.2f} to {high:.2f}), ", end="")
    print(f"of CPU {found['ratio']['cpu']:.2f}; {found['memory_ratio']:.2f} x the memory; ", end="")
    print(f"{found['ceiling_share'][OURS]:.0%} of the matrix rate (plain {found['ceiling_share'][PEER]:.0%})")
    if little := found.get("little"):
        print(f"  in passes of {little['chunk_tokens']} tokens: {little['ratio']['median']:.2f} x as fast, ", end="")
        print(f"{little['memory_ratio']:.2f} x the memory")
    for waste, cost in found["wastes"].items():
        print(f"  {waste:8} alone: {cost['time']['cpu']:.2f} x the CPU seconds, {cost['memory']:.2f} x the memory")
    print(f"  rows {found['lengths']}, pads {found['pad_rate']:.1%}, looks idle {found['idle_look_rate']:.1%}")
