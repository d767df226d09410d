"""Some questions of a task that a model got right, and some that it got wrong, with what it ranked first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cocoa.evaluation.scorer import TaskScore
from cocoa.report.evaluation_page import Example
from cocoa.sample import Task

NUM_EXAMPLES = 10
"""Hits, and misses, of a task."""


def find_examples(
    task: Task,
    score: TaskScore,
    query_vectors: NDArray[np.float32],
    candidate_vectors: NDArray[np.float32],
    candidate_index: Sequence[NDArray[np.integer]],
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Returns (hits, misses) spread evenly over the task's questions, at most `NUM_EXAMPLES` of each.

    The vectors [rows, D] have unit length; row q of `candidate_index` lists the candidates of query q.
    """
    ranks = np.array(score.ranks)

    def example(number: int) -> Example:
        question = task.questions[number]
        cosines = candidate_vectors[candidate_index[number]] @ query_vectors[number]
        # A tie counts against the model: what is shown as first in a miss is never the right candidate.
        first = 0 if ranks[number] == 1 else 1 + int(np.argmax(cosines[1:]))
        return Example(
            query=question.query,
            right=question.candidates[0],
            first=question.candidates[first],
            right_score=float(cosines[0]),
            first_score=float(cosines[first]),
            rank=int(ranks[number]),
            candidates=len(question.candidates),
        )

    def spread(numbers: NDArray[np.integer]) -> tuple[Example, ...]:
        count = min(NUM_EXAMPLES, len(numbers))
        return tuple(example(int(numbers[place * len(numbers) // count])) for place in range(count))

    return spread(np.flatnonzero(ranks == 1)), spread(np.flatnonzero(ranks > 1))
