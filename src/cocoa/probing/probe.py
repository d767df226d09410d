"""All probes of a model on some tasks, as plain numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cocoa.errors import DataError
from cocoa.model import EmbeddingModel
from cocoa.probing.attributes import attribute_probes
from cocoa.probing.geometry import alignment, anisotropy, effective_rank, uniformity
from cocoa.reconstruction import read_through_bridge
from cocoa.sample import Question, Task

_MOST = 512
"""Questions that are looked at, spread evenly over the tasks."""
_MOST_READ = 128
_RATE = 0.7


def probe(model: EmbeddingModel, tasks: Sequence[Task], *, attributes: bool = True) -> dict[str, float]:
    """Returns measures of a model's vectors of queries and right candidates.

    `alignment`, `uniformity`, `anisotropy`, `effective_rank`: see `geometry`. `bridge_nats`: how much less a hidden
    word of a target costs the model through its own picture's e than through another's, in nats; it is there where
    pictures have texts to be found. With `attributes` also `reads_*`, see `attribute_probes`.

    Raises `E_DATA_EMPTY` for tasks without two questions.
    """
    questions = [question for task in tasks for question in task.questions]
    if len(questions) < 2:
        raise DataError("E_DATA_EMPTY", "probes need two questions")
    chosen = _spread(questions, _MOST)
    queries = model.encode([question.query for question in chosen])
    targets = model.encode([question.candidates[0] for question in chosen])
    # Equal inputs are not spread by any model.
    vectors = np.unique(np.concatenate([queries, targets]), axis=0)
    found = {
        "alignment": alignment(queries, targets),
        "uniformity": uniformity(vectors),
        "anisotropy": anisotropy(vectors),
        "effective_rank": effective_rank(vectors),
    }
    described = [q for q in questions if q.query.images and q.candidates[0].text and not q.candidates[0].images]
    if len(described) > 1:
        found["bridge_nats"] = bridge_nats(model, _spread(described, _MOST_READ))
    return {**found, **(attribute_probes(model) if attributes else {})}


def bridge_nats(model: EmbeddingModel, questions: Sequence[Question]) -> float:
    """Returns the mean loss of a hidden word through another's e, less that through its own, in nats."""
    encode = model.backbone.encode
    pairs = [(encode(question.query), encode(question.candidates[0])) for question in questions]
    own, other = (
        read_through_bridge(model, pairs, rate=_RATE, seed=7, shuffled=shuffled).loss for shuffled in (False, True)
    )
    return other - own


def _spread(questions: Sequence[Question], most: int) -> list[Question]:
    count = min(most, len(questions))
    return [questions[number * len(questions) // count] for number in range(count)]
