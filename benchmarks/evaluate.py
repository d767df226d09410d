"""Evaluation time against plain loops that do what the peers do: `python -m benchmarks.evaluate [--json FILE]`.

The plain loop encodes every query and all its candidates in file order, 16 at a time, padded to the longest of them,
and neither remembers nor sorts. Beside it stands a loop that does the same but embeds what repeats within one side of a
task once, as MoCa and VLM2Vec V2 do (peers.md 3d). Same model, same data, same decoder, one process, nothing kept from
run to run; the scores are checked to be equal, and the runs alternate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import Times, circumstances, matrix_rate, median, ratio, timed
from benchmarks.outcome import MATRIX_RATE, Case, Targets, outcome
from cocoa.backbones.nano import load_nano
from cocoa.batch import collate, single_row
from cocoa.data.mmeb_eval import read_tasks
from cocoa.data.scene_tasks import write_scene_tasks
from cocoa.evaluation.runner import evaluate
from cocoa.evaluation.scorer import TaskScore, score_task
from cocoa.model import EmbeddingModel
from cocoa.planning.ledger import FUSED
from cocoa.sample import Sample, Task

BATCH_SIZE = 16
TARGET = 3.0
OURS, PEER, ONCE = "cocoa evaluate", "plain loop", "loop, once a task"
OPEN_SETS = Path(__file__).resolve().parents[2] / "shared" / "data"


@torch.inference_mode()
def embed_in_order(model: EmbeddingModel, samples: Sequence[Sample]) -> NDArray[np.float32]:
    """Returns the vectors of samples, in fixed batches in the order given."""
    vectors = []
    for start in range(0, len(samples), BATCH_SIZE):
        encoded = [model.backbone.encode(sample) for sample in samples[start : start + BATCH_SIZE]]
        batch = collate(model.backbone, [single_row(model.backbone, each, model.max_tokens) for each in encoded])
        vectors.append(model.embed(batch.to(model.backbone.device)).cpu().numpy())
    return np.concatenate(vectors)


def plain_loop(model: EmbeddingModel, tasks: Sequence[Task], *, every_candidate: bool) -> list[TaskScore]:
    """Returns the scores of tasks by the peers' way."""
    scores = []
    for task in tasks:
        queries = embed_in_order(model, [question.query for question in task.questions])
        samples = [sample for question in task.questions for sample in question.candidates]
        if every_candidate:
            index = np.split(np.arange(len(samples)), np.cumsum([len(q.candidates) for q in task.questions])[:-1])
        else:
            places: dict[str, int] = {}
            index = [
                np.array([places.setdefault(sample.key, len(places)) for sample in question.candidates])
                for question in task.questions
            ]
            first = {places[sample.key]: sample for sample in reversed(samples)}
            samples = [first[place] for place in range(len(places))]
        scores.append(score_task(queries, embed_in_order(model, samples), index))
    return scores


def check_equal(ours: Sequence[TaskScore], theirs: Sequence[TaskScore], tasks: Sequence[Task]) -> int:
    """Returns how many ranks differ; exits if a hit@1 differs by more than one near tie."""
    moved = 0
    for task, one, other in zip(tasks, ours, theirs, strict=True):
        moved += sum(a != b for a, b in zip(one.ranks, other.ranks, strict=True))
        # Batches of other shapes round otherwise in the last digit, and a near tie may fall to the other side.
        if abs(one.hit_at_1 - other.hit_at_1) > 1 / one.queries + 1e-9:
            sys.exit(f"scores differ on {task.name}: {one.hit_at_1:.4f} and {other.hit_at_1:.4f}; no time is given")
    return moved


def compare(model: EmbeddingModel, tasks: Sequence[Task], repeats: int) -> dict[str, Any]:
    """Returns the times of all and their ratios to ours; what is timed is also what is checked to give equal scores."""
    ways: dict[str, Callable[[Sequence[Task]], Sequence[TaskScore]]] = {
        OURS: lambda tasks: evaluate(model, tasks, name="ours").scores,
        PEER: lambda tasks: plain_loop(model, tasks, every_candidate=True),
        ONCE: lambda tasks: plain_loop(model, tasks, every_candidate=False),
    }
    for way in ways.values():
        way([replace(task, questions=task.questions[:1]) for task in tasks])  # warm-up
    times: dict[str, list[Times]] = {name: [] for name in ways}
    moved = 0
    for _ in range(repeats):
        scores = {}
        for name, way in ways.items():
            with timed(times[name]):
                scores[name] = way(tasks)
        moved = max(moved, *(check_equal(scores[OURS], scores[name], tasks) for name in (PEER, ONCE)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Passes side by side run in threads where nothing is counted.
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        receipt = evaluate(model, tasks, name="ours").receipt or {}
    torch.set_num_threads(threads)
    rate = matrix_rate()
    own = median(times[OURS])
    return {
        "beside_peer": ratio(times[PEER], times[OURS]),
        "beside_once_a_task": ratio(times[ONCE], times[OURS]),
        "seconds": {name: [one.wall for one in some] for name, some in times.items()},
        "cpu_seconds": {name: [one.cpu for one in some] for name, some in times.items()},
        "flops_per_second": rate,
        "share": counter.get_total_flops() / own / rate,
        "ranks_moved": moved,
        "tasks": [task.name for task in tasks],
        "samples_asked": receipt["samples_asked"],
        "samples_distinct": receipt["samples_distinct"],
    }


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, help="model folder; default: the nano backbone as it ships")
    parser.add_argument("--tasks", type=Path, help="default: the emoji sets, or generated tasks where they are not")
    parser.add_argument("--questions", type=int, default=15, help="the first of each task; 0: all (an hour)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = EmbeddingModel.load(options.model) if options.model else EmbeddingModel(load_nano()).eval()
    with tempfile.TemporaryDirectory() as folder:
        where = options.tasks or OPEN_SETS / "emoji"
        if not where.is_dir():
            where = Path(folder) / "scenes"
            write_scene_tasks(where, seed=0, num_train=12, num_test=200)
        tasks = [replace(task, questions=task.questions[: options.questions or None]) for task in read_tasks(where)]
        result = compare(model, tasks, options.repeats)
    case = Case.of(f"{options.questions or 'all'} questions a task", result["beside_peer"], result.pop("share"))
    result = outcome("evaluate", PEER, MATRIX_RATE, [case], Targets(TARGET)) | result
    result |= {"data": where.name, "questions_a_task": options.questions or "all", **circumstances(options.threads)}
    print(f"{result['samples_asked']:,} samples asked for, {result['samples_distinct']:,} distinct")
    for name, some in result["seconds"].items():
        cpu = statistics.median(result["cpu_seconds"][name])
        print(f"{name:18}{statistics.median(some):8.1f} s ({min(some):.1f} to {max(some):.1f}), {cpu:.1f} s of CPU")
    for key in ("beside_peer", "beside_once_a_task"):
        low, high = result[key]["spread"]
        print(f"{key:18}{result[key]['median']:8.2f}   ({low:.2f} to {high:.2f}), of CPU {result[key]['cpu']:.2f}")
    print(f"{result['ceiling_share']:.0%} of the rate of a matrix product; target {TARGET:g} x the plain loop")
    print(f"equal hit@1 on {len(tasks)} tasks ({result['ranks_moved']} ranks moved by rounding); {result['hardware']}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
