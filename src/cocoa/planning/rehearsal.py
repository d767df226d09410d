"""Training steps of a stage on this machine, on a stand-in with random weights: how long one takes."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]
import torch
from torch import nn

from cocoa.backbones import Backbone
from cocoa.data.mixing import Mixture
from cocoa.model import best_device
from cocoa.planning.standin import Depth, stand_in
from cocoa.recipe import Recipe, Stage
from cocoa.training.batches import prefetched
from cocoa.training.ranks import Ranks
from cocoa.training.setup import fits, model_of, set_up
from cocoa.training.step import backward_step

_SECONDS = 8.0
"""Time for the steps of a stage: enough for a median, short enough to wait for."""
_LEAST_STEPS = 3
_MOST_STEPS = 12
_SHARE_EXPECTED = 0.5
"""Of what a large matrix product reaches; only decides how much is tried out."""
_SHARE_OF_GPU = 0.8
"""Of what is free: a longest row comes, and allocators leave gaps."""


@dataclass(frozen=True)
class Rehearsal:
    """Seconds of a step on `num_pairs` pairs with a model of `depth`, and those of them that waited for data."""

    seconds: float
    data_wait: float
    num_pairs: int
    depth: Depth


def rehearse(
    backbone: Backbone, recipe: Recipe, stage: Stage, mixture: Mixture, *, num_pairs: int, flops: float, needed: int
) -> Rehearsal:
    """Returns the time of a step on `num_pairs` pairs, tried out on fewer, or on fewer layers, where all take too long
    or have no room here.

    `flops` and `needed` (bytes of weights, optimiser and all that a step holds) are those of the whole step and model.
    """
    device = best_device()
    depth = Depth.of(backbone)
    expected = flops / (_SHARE_EXPECTED * _product_rate(device))
    shrink = min(1.0, room(device) / needed, 2 * _SECONDS * num_pairs / expected)
    if shrink < 1:
        depth = Depth(max(2, int(depth.layers * shrink)), max(2, int(depth.blocks * shrink)))
        expected *= shrink
    num_pairs = max(1, min(num_pairs, int(num_pairs * _SECONDS / (1 + _LEAST_STEPS) / expected)))
    with torch.random.fork_rng():
        model = model_of(recipe, stage, stand_in(backbone, depth, device))
        trainee = (setup := set_up(model, recipe, stage, sharded=False)).trainee
    trainee.train()
    ranks = Ranks(0, 1, device)
    batches = prefetched(
        model.backbone,
        mixture,
        ranks,
        steps=range(_MOST_STEPS),
        batch_size=num_pairs,
        workers=recipe.machine.workers,
        fit=fits(model, stage),
        skip_bad=True,
    )
    times: list[tuple[float, float]] = []
    start = began = time.perf_counter()
    for pairs in batches:
        setup.optimiser.zero_grad(set_to_none=True)
        if pairs.queries:
            backward_step(trainee, pairs, ranks, recipe.machine, 0)
        float(nn.utils.clip_grad_norm_(trainee.trained.values(), stage.max_grad_norm))
        setup.optimiser.step()
        now = time.perf_counter()
        times.append((now - began, pairs.seconds))
        began = now
        if len(times) > _LEAST_STEPS and now - start > _SECONDS:
            break
    # The first step also makes room for all that later steps find there.
    seconds, waits = zip(*(times[1:] or times), strict=True)
    return Rehearsal(statistics.median(seconds), statistics.median(waits), num_pairs, depth)


def room(device: torch.device) -> float:
    """Returns the bytes of its memory that a trial may take on a device: a CPU's is shared with all that runs."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return _SHARE_OF_GPU * free
    return float(psutil.virtual_memory().available) / 2


def _product_rate(device: torch.device) -> float:
    """FLOPs a second of a large matrix product."""
    size = 512
    one = torch.ones(size, size, device=device)
    one @ one
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 0.05:
        float((one @ one)[0, 0])
        count += 1
    return 2 * size**3 * count / (time.perf_counter() - start)
