"""A recipe's plan: what each stage reads, holds and takes on a device, and what will not go well."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cocoa.backbones import Backbone
from cocoa.data.bad_rows import BadRows
from cocoa.data.mixing import Mixture
from cocoa.model import EmbeddingModel
from cocoa.planning.costs import Costs
from cocoa.planning.devices import Device, open_device
from cocoa.planning.lengths import SampledPairs, sample_pairs
from cocoa.planning.passes import Step, step_of
from cocoa.planning.rehearsal import rehearse
from cocoa.recipe import MachineOptions, Recipe, Stage
from cocoa.training.batches import STEPS_AHEAD, EncodedPair
from cocoa.training.setup import backbone_of, model_of, open_data, set_pixel_limits

CHUNKS = tuple(2**power for power in range(10, 17))
"""Values of `chunk_tokens` that are looked at."""
ROOM = 0.9
"""Share of a device's memory that may be planned for: a longest row comes, and allocators leave gaps."""
_MOST_STEPS = 8
_NAMED_ROWS = 3


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at the worst moment of a stage, by what they are for."""

    base: int
    weights: int
    gradients: int
    optimiser: int
    activations: int
    gaps: int
    data: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class StagePlan:
    """One stage on one rank; `tokens` and `places` (tokens with padding) are of one step, means over sampled steps.

    `passes` are the forward passes of a step, `flops` what they and their backward passes do. `host_data` are bytes of
    pictures read ahead, in the machine's memory; `chunk_tokens` is the largest that fits, None if none does.
    """

    name: str
    pairs: int
    steps: int
    batch_size: int
    sampled: int
    longest_row: int
    tokens: int
    places: int
    passes: int
    flops: float
    memory: Memory
    host_data: int
    fits: bool
    chunk_tokens: int | None
    step_seconds: float
    data_wait_seconds: float | None
    speed_basis: str
    hours: float
    warnings: tuple[str, ...]

    @property
    def pad_rate(self) -> float:
        """Share of padding in what the model computes."""
        return 1 - self.tokens / self.places


@dataclass(frozen=True)
class Plan:
    """A whole recipe; `chunk_tokens` is the largest that every stage can run with, None if there is none."""

    recipe: str
    device: Device
    ranks: int
    chunk_tokens: int | None
    own_chunk_tokens: int
    stages: tuple[StagePlan, ...]

    @property
    def hours(self) -> float:
        """Training time of all stages; checkpoints are not counted."""
        return sum(stage.hours for stage in self.stages)

    @property
    def fits(self) -> bool:
        """Whether the recipe's own chunks fit into the device's memory in every stage."""
        return all(stage.fits for stage in self.stages)

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings, each with its stage."""
        return tuple(f"stage {stage.name}: {warning}" for stage in self.stages for warning in stage.warnings)

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as JSON would hold it, sums and shares included."""
        content = asdict(self)
        for stage, made in zip(content["stages"], self.stages, strict=True):
            stage["memory"]["total"] = made.memory.total
            stage["pad_rate"] = made.pad_rate
        return {**content, "hours": self.hours, "fits": self.fits, "warnings": list(self.warnings)}


def plan(recipe: Recipe, *, device: str = "here", ranks: int = 1, sample: int = 256) -> Plan:
    """Returns what a recipe will take on `ranks` devices of a kind, without its weights.

    `sample` pairs of each stage are counted, from the headers of their pictures. On `here` a few real steps are run on
    random weights of the model's shape to see how long they take.
    """
    target = open_device(device)
    options = recipe.backbone
    backbone = backbone_of(recipe, weights=False)
    stages = []
    for stage in recipe.stages:
        model = model_of(recipe, stage, backbone)
        own_grid = backbone.grid
        set_pixel_limits(model, options.min_pixels, options.max_pixels, "recipe: backbone")
        set_pixel_limits(model, stage.min_pixels, stage.max_pixels, f"recipe: stage {stage.name}")
        stages.append(_StagePlanner(recipe, stage, model, target, ranks, sample).plan())
        backbone.grid = own_grid
    chunks = [stage.chunk_tokens for stage in stages]
    chunk = None if None in chunks else min(value for value in chunks if value is not None)
    return Plan(recipe.name, target, ranks, chunk, recipe.machine.chunk_tokens, tuple(stages))


class _StagePlanner:
    """One stage, looked at from its sampled pairs."""

    def __init__(
        self, recipe: Recipe, stage: Stage, model: EmbeddingModel, device: Device, ranks: int, sample: int
    ) -> None:
        self.recipe, self.stage, self.model, self.device, self.ranks = recipe, stage, model, device, ranks
        self.refused = BadRows(recipe.max_bad_rate)
        self.mixture: Mixture = open_data(recipe, stage, self.refused)
        self.sampled: SampledPairs = sample_pairs(model, stage, self.mixture, sample)
        self.costs = Costs(model.backbone, recipe, stage)
        self.share = max(1, -(-stage.batch_size // ranks))

    @property
    def backbone(self) -> Backbone:
        return self.model.backbone

    def plan(self) -> StagePlan:
        machine = self.recipe.machine
        steps = self.steps(machine)
        memory = self.memory(steps, machine)
        fits = self.has_room(memory)
        seconds, wait, basis = self.seconds(steps)
        chunk = self.best_chunk()
        tokens, places = (
            round(float(np.mean([sum(getattr(part, kind) for part in step.passes) for step in steps])))
            for kind in ("tokens", "places")
        )
        longest = max(part.length for step in steps for part in step.passes)
        return StagePlan(
            name=self.stage.name,
            pairs=len(self.mixture),
            steps=self.stage.steps,
            batch_size=self.stage.batch_size,
            sampled=self.sampled.num_asked,
            longest_row=longest,
            tokens=tokens,
            places=places,
            passes=round(float(np.mean([self.num_passes(step, machine) for step in steps]))),
            flops=self.flops(steps),
            memory=memory,
            host_data=self.data_bytes(steps),
            fits=fits,
            chunk_tokens=chunk,
            step_seconds=seconds,
            data_wait_seconds=wait,
            speed_basis=basis,
            hours=seconds * self.stage.steps / 3600,
            warnings=tuple(self.warnings(longest, memory, fits, chunk)),
        )

    def steps(self, machine: MachineOptions, num_pairs: int | None = None) -> list[Step]:
        """Steps of one rank, of the sampled pairs in their order; a large step takes them more than once."""
        pairs, size = self.sampled.pairs, num_pairs or self.share
        count = min(_MOST_STEPS, max(1, len(pairs) // size))
        places = range(count * size)
        taken: list[EncodedPair] = [pairs[place % len(pairs)] for place in places]
        return [
            step_of(self.model, self.stage, taken[number * size : (number + 1) * size], machine, self.device.type)
            for number in range(count)
        ]

    def num_passes(self, step: Step, machine: MachineOptions) -> int:
        return len(step.joined) + len(step.single) * (1 if step.fits(machine) else 2)

    # Memory.

    def memory(self, steps: list[Step], machine: MachineOptions) -> Memory:
        moments = [self.step_memory(steps, machine), *self.whole_memory()]
        return max(moments, key=lambda moment: moment.total)

    def step_memory(self, steps: list[Step], machine: MachineOptions) -> Memory:
        """The worst moment of a step."""
        costs = self.costs
        weights, gradients, optimiser = costs.weights, costs.gradients, costs.optimiser
        worst = max(costs.beyond(step, machine, self.ranks) for step in steps)
        activations = max(0, worst - gradients)
        if self.recipe.machine.sharding and self.ranks > 1:
            weights, gradients, optimiser = (value // self.ranks for value in (weights, gradients, optimiser))
            activations += costs.gathered
        data = self.data_bytes(steps)
        held = (
            data if self.device.holds_data else max(self.copied_bytes(step) for step in steps) // len(steps[0].passes)
        )
        gaps = round(self.device.gap_rate * activations)
        return Memory(self.device.base_bytes, weights, gradients, optimiser, activations, gaps, held)

    def whole_memory(self) -> list[Memory]:
        """The moments at which the model is there as a whole, in another form than in a step."""
        costs, machine = self.costs, self.recipe.machine
        held = []
        if machine.sharding and self.ranks > 1:
            # At the end of a stage the shares are put together beside themselves; at its beginning there are none yet.
            held.append(costs.weights + costs.weights // self.ranks)
        if self.recipe.precision == "bfloat16" and self.stage is self.recipe.stages[-1]:
            held.append(costs.in_float32)  # while the model folder's golden vectors are made
        return [Memory(self.device.base_bytes, weights, 0, 0, 0, 0, 0) for weights in held]

    def data_bytes(self, steps: list[Step]) -> int:
        """Patches of the steps that are read ahead and of the one that runs, and their copies in passes.

        Ahead of the step that runs, one is prepared and others are read.
        """
        ahead, copies = (STEPS_AHEAD + 2, 2) if self.recipe.machine.workers else (1, 1)
        read = [self.read_bytes(step) for step in steps]
        return round(ahead * float(np.mean(read)) + copies * max(self.copied_bytes(step) for step in steps))

    def read_bytes(self, step: Step) -> int:
        """Patches of a step as they are read."""
        joined, single = (sum(part.patches for part in kind) for kind in (step.joined, step.single))
        return self.backbone.grid.bytes_per_patch * max(joined + self.patches_apart(step), single)

    def copied_bytes(self, step: Step) -> int:
        """Patches in the batches of a step's passes: normalised where some are hidden, and the hidden ones again."""
        grid = self.backbone.grid
        sizes = dict.fromkeys(("masked_patch", "bridged_patch"), float(grid.bytes_per_patch))
        for options in self.stage.objectives:
            if options.kind in ("masked_patch", "bridged_patch"):
                sizes[options.kind] = 4 * grid.values_per_patch * (1 + options.rate)
        joined = sizes["masked_patch"] * sum(part.patches for part in step.joined)
        single = grid.bytes_per_patch * sum(part.patches for part in step.single)
        return round(max(joined, single) + sizes["bridged_patch"] * self.patches_apart(step))

    def patches_apart(self, step: Step) -> int:
        return sum(part.patches_apart for part in (*step.joined, *step.apart))

    def has_room(self, memory: Memory) -> bool:
        return memory.total <= ROOM * self.device.memory_bytes

    def best_chunk(self) -> int | None:
        """The largest of `CHUNKS` whose memory has room: more tokens never need less of it."""
        fitting, low, high = None, 0, len(CHUNKS) - 1
        while low <= high:
            middle = (low + high) // 2
            chunk = CHUNKS[middle]
            pack = self.recipe.machine.pack_tokens
            machine = self.recipe.machine.model_copy(
                update={"chunk_tokens": chunk, "pack_tokens": None if pack is None else min(pack, chunk)}
            )
            # One step is enough to see how large its passes are.
            if self.has_room(self.memory(self.steps(machine)[:1], machine)):
                fitting, low = chunk, middle + 1
            else:
                high = middle - 1
        return fitting

    # Time.

    def flops(self, steps: list[Step]) -> float:
        return float(np.mean([self.costs.flops(step, self.recipe.machine) for step in steps]))

    def seconds(self, steps: list[Step]) -> tuple[float, float | None, str]:
        """Seconds of a step, those of them that wait for data (None: not known), and where they are from."""
        flops = self.flops(steps)
        if self.device.rates is not None:
            # AdamW reads a weight, its gradient and two numbers, and writes three of them back.
            traffic = 7 * self.costs.gradients
            return self.device.rates.seconds(self.recipe, flops, traffic), None, self.device.basis
        beyond = max(self.costs.beyond(step, self.recipe.machine, self.ranks) for step in steps)
        tried = rehearse(
            self.backbone,
            self.recipe,
            self.stage,
            self.mixture,
            num_pairs=self.share,
            flops=flops,
            needed=self.costs.weights + self.costs.optimiser + beyond,
        )
        if tried.num_pairs == self.share and tried.depth == self.costs.depth:
            return tried.seconds, tried.data_wait, "measured here, on random weights"
        machine = self.recipe.machine
        parts = self.steps(machine, tried.num_pairs)
        done = float(np.mean([self.costs.flops(step, machine, tried.depth) for step in parts]))
        basis = f"measured here on {tried.num_pairs} pairs and {tried.depth.layers} layers, scaled by FLOPs"
        return tried.seconds * flops / done, None, basis

    # What will not go well.

    def warnings(self, longest: int, memory: Memory, fits: bool, chunk: int | None) -> Iterator[str]:
        sampled, machine = self.sampled, self.recipe.machine
        if self.refused.rows:
            yield f"{len(self.refused.rows)} rows were refused when the data was opened"
        for rows, what in (
            (sampled.unfit, "have pictures that do not fit: raise max_tokens or lower max_pixels"),
            (sampled.unreadable, "cannot be read"),
        ):
            if rows:
                named = "; ".join(str(row) for row in rows[:_NAMED_ROWS])
                ends = "" if self.recipe.max_bad_rate is not None else ", and the first ends the run (max_bad_rate)"
                yield f"{len(rows)} of {sampled.num_asked} sampled rows {what}{ends}: {named}"
        if sampled.num_cut:
            share = sampled.num_cut / sampled.num_texts
            yield f"{share:.1%} of the texts are cut to max_tokens {self.recipe.max_tokens}"
        if longest > machine.chunk_tokens:
            yield f"a row of {longest} tokens is longer than chunk_tokens {machine.chunk_tokens} and is a pass alone"
        if self.stage.batch_size < self.ranks:
            yield f"batch_size {self.stage.batch_size} is below the number of ranks, {self.ranks}: the run will refuse"
        if not all(map(self.has_room, self.whole_memory())):
            most = max(held.total for held in self.whole_memory())
            what = "to hold the whole model when the stage ends, which no other option makes less"
            yield f"needs {most / 1e9:.1f} GB of {self.device.memory_bytes / 1e9:.1f} GB {what}"
        elif not fits:
            yield f"needs {memory.total / 1e9:.1f} GB of {self.device.memory_bytes / 1e9:.1f} GB: {self.advice(chunk)}"

    def advice(self, chunk: int | None) -> str:
        if chunk is not None:
            return f"set machine.chunk_tokens to {chunk}"
        machine, ways = self.recipe.machine, []
        if not machine.activation_checkpointing:
            ways.append("machine.activation_checkpointing")
        if self.stage.adapter is None:
            ways.append("an adapter")
        if self.recipe.precision == "float32":
            ways.append("precision: bfloat16")
        if not machine.sharding:
            ways.append("machine.sharding over more ranks")
        return f"no chunk_tokens helps; try {', '.join([*ways, 'a lower max_pixels'])}"
