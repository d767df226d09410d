"""All probes of a model on some tasks, as plain numbers: of the embeddings, and of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cocoa.backbones import Encoded
from cocoa.batch import joined_row
from cocoa.errors import DataError
from cocoa.model import EmbeddingModel
from cocoa.probing.attributes import attribute_probes
from cocoa.probing.geometry import Vectors, alignment, anisotropy, effective_rank, uniformity
from cocoa.probing.layers import hit_at_1, vectors_by_layer
from cocoa.probing.looks import attention_shares
from cocoa.reconstruction import read_through_bridge
from cocoa.sample import Question, Sample, Task

_MOST = 512
"""Questions that are looked at, spread evenly over the tasks."""
_MOST_READ = 128
_MOST_LOOKS = 64
_RATE = 0.7


@dataclass(frozen=True)
class Probes:
    """Measures of a model's embeddings by name, and of each layer's vectors, first layer first."""

    whole: dict[str, float]
    layers: list[dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """Returns them as JSON holds them: the embeddings' measures, and `layers`."""
        return {**self.whole, "layers": self.layers}


def probe(model: EmbeddingModel, tasks: Sequence[Task], *, attributes: bool = True) -> Probes:
    """Returns measures of a model's vectors of queries and right candidates.

    `alignment`, `uniformity`, `anisotropy`, `effective_rank`: see `geometry`. `bridge_true` and `bridge_shuffled`: what
    a hidden word of a target costs the model through its own picture's e and through another's, in nats, and
    `bridge_nats` the difference; they are there where pictures have texts to be found, and leave room for them in a
    row. With `attributes` also `reads_*`, see `attribute_probes`. All but the bridge's are also measured on each
    layer's vectors, with `hit_at_1` among the right candidates of a task, and with the shares of `attention_shares`.

    Raises `E_DATA_EMPTY` for tasks without two questions.
    """
    asked = [(task.name, question) for task in tasks for question in task.questions]
    if len(asked) < 2:
        raise DataError("E_DATA_EMPTY", "probes need two questions")
    chosen = [asked[place] for place in _spread(len(asked), _MOST)]
    questions = [question for _, question in chosen]
    queries = vectors_by_layer(model, [question.query for question in questions])
    targets = vectors_by_layer(model, [question.candidates[0] for question in questions])
    names, keys = [name for name, _ in chosen], [question.candidates[0].key for question in questions]
    looks = attention_shares(model, _looked_at(questions))
    unlike = _unlike([*(question.query for question in questions), *(question.candidates[0] for question in questions)])
    layers = [_geometry(*both, unlike) for both in zip(queries, targets, strict=True)]
    whole = dict(layers[-1])
    for number, layer in enumerate(layers):
        hits = hit_at_1(queries[number], targets[number], names, keys)
        layer.update({"hit_at_1": hits} if hits is not None else {})
        layer.update(looks[number])
    described = [q for _, q in asked if q.query.images and q.candidates[0].text and not q.candidates[0].images]
    pairs = _readable(model, [described[place] for place in _spread(len(described), _MOST_READ)])
    if len(pairs) > 1:
        true, shuffled = bridge_losses(model, pairs)
        whole.update(bridge_true=true, bridge_shuffled=shuffled, bridge_nats=shuffled - true)
    if attributes:
        read = attribute_probes(model)
        whole.update(read[-1])
        for layer, shares in zip(layers, read, strict=True):
            layer.update(shares)
    return Probes(whole, layers)


def bridge_losses(model: EmbeddingModel, pairs: Sequence[tuple[Encoded, Encoded]]) -> tuple[float, float]:
    """Returns the mean loss of a hidden word through its own picture's e, and through another's, in nats."""
    own, other = (
        read_through_bridge(model, pairs, rate=_RATE, seed=7, shuffled=shuffled).loss for shuffled in (False, True)
    )
    return own, other


def _readable(model: EmbeddingModel, questions: Sequence[Question]) -> list[tuple[Encoded, Encoded]]:
    """Query and right candidate of the questions whose picture leaves room for any of the candidates in a joined row.

    One that does not may be embedded all the same: a row of its own is longer.
    """
    encode = model.backbone.encode
    pairs = [(encode(question.query), encode(question.candidates[0])) for question in questions]
    longest = max((target for _, target in pairs), key=len, default=None)
    return [pair for pair in pairs if longest is not None and _fits(model, pair[0], longest)]


def _fits(model: EmbeddingModel, query: Encoded, target: Encoded) -> bool:
    try:
        joined_row(model.backbone, query, target, model.max_tokens, bridged=True, num_bridges=model.pooling.tokens)
    except DataError as error:
        if error.code != "E_DATA_TOO_LONG":
            raise
        return False
    return True


def _unlike(samples: Sequence[Sample]) -> list[int]:
    """The first place of each content among samples."""
    first: dict[str, int] = {}
    for place, sample in enumerate(samples):
        first.setdefault(sample.key, place)
    return list(first.values())


def _geometry(queries: Vectors, targets: Vectors, unlike: list[int]) -> dict[str, float]:
    # Equal inputs are not spread by any model. Their vectors may differ in the last bit, with the batch they were in.
    vectors = np.concatenate([queries, targets])[unlike]
    return {
        "alignment": alignment(queries, targets),
        "uniformity": uniformity(vectors),
        "anisotropy": anisotropy(vectors),
        "effective_rank": effective_rank(vectors),
    }


def _looked_at(questions: Sequence[Question]) -> list[Sample]:
    """Queries whose attention is looked at: those with a picture, where there are any."""
    queries = [question.query for question in questions]
    shown = [query for query in queries if query.images] or queries
    return [shown[place] for place in _spread(len(shown), _MOST_LOOKS)]


def _spread(count: int, most: int) -> list[int]:
    """At most so many places among `count`, evenly spread."""
    chosen = min(most, count)
    return [number * count // chosen for number in range(chosen)]
