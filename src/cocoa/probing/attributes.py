"""What can be read off a scene's vector by a linear map: its ground, how many things there are, where, and which.

Shapes: N scenes, D dimensions, K values of an attribute.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cocoa.data.scene_splits import all_things, draw_scene
from cocoa.data.scenes import CORNERS, GROUNDS, Scene
from cocoa.model import EmbeddingModel
from cocoa.probing.layers import vectors_by_layer
from cocoa.sample import IMAGE_PLACEHOLDER, Sample

Matrix = NDArray[np.float64]
_NUM_THINGS = 128
_RIDGE = 1e-2
_SEED = 31
"""Of the scenes that are looked at: no stage and no task of a recipe here draws from it."""


def attribute_probes(model: EmbeddingModel, *, num_train: int = 600, num_test: int = 300) -> list[dict[str, float]]:
    """Returns, of each layer, the share of held-out scenes' attributes that a ridge map from its vectors gets right.

    Each is in [0, 1], and the last layer's are those of the embeddings. `ground` and `count` are one answer each; of
    `places` (corners that are taken) and `things` the best so many answers are counted as there are true ones.
    """
    scenes = [
        draw_scene(_SEED, "measure", "any", number, num_things=_NUM_THINGS) for number in range(num_train + num_test)
    ]
    samples = [Sample(f"{IMAGE_PLACEHOLDER}\n", (scene.render(),)) for scene in scenes]
    truths = _truths(scenes)
    return [read_off(layer.astype(np.float64), truths, num_train) for layer in vectors_by_layer(model, samples)]


def read_off(vectors: Matrix, truths: Mapping[str, Matrix], num_train: int) -> dict[str, float]:
    """Returns `reads_NAME` of each attribute: fitted on the first `num_train` vectors, asked of the others."""
    found = {}
    for name, truth in truths.items():
        weights = ridge(vectors[:num_train], truth[:num_train])
        found[f"reads_{name}"] = recall(predict(vectors[num_train:], weights), truth[num_train:])
    return found


def ridge(vectors: Matrix, truth: Matrix, strength: float = _RIDGE) -> Matrix:
    """Returns the map [D + 1, K] from vectors [N, D], with a 1 behind each, to `truth` [N, K].

    It has the least squared error and small weights: `strength` is a share of the vectors' mean variance. The weights
    of the 1 are not held small.
    """
    given = _with_one(vectors)
    penalty = np.eye(given.shape[1]) * strength * len(vectors) * vectors.var(0).mean()
    penalty[-1, -1] = 0.0
    return np.linalg.solve(given.T @ given + penalty, given.T @ truth)


def predict(vectors: Matrix, weights: Matrix) -> Matrix:
    """Returns scores [N, K] of vectors under a map that `ridge` gave."""
    return _with_one(vectors) @ weights


def recall(scores: Matrix, truth: Matrix) -> float:
    """Returns the mean share of the true answers of a row among its best scores, as many as there are true ones."""
    shares = []
    for row, right in zip(scores, truth > 0, strict=True):
        count = int(right.sum())
        if count:
            shares.append(right[np.argsort(-row, kind="stable")[:count]].mean())
    return float(np.mean(shares))


def _with_one(vectors: Matrix) -> Matrix:
    return np.concatenate([vectors, np.ones((len(vectors), 1))], 1)


def _truths(scenes: list[Scene]) -> dict[str, Matrix]:
    """Each attribute as [N, K] of zeros and ones."""
    things = all_things(_NUM_THINGS)
    said: dict[str, tuple[tuple[object, ...], list[set[object]]]] = {
        "ground": (tuple(GROUNDS), [{scene.ground} for scene in scenes]),
        "count": ((1, 2, 3, 4), [{len(scene.items)} for scene in scenes]),
        "places": (CORNERS, [{item.place for item in scene.items} for scene in scenes]),
        "things": (things, [set(scene.names) for scene in scenes]),
    }
    return {
        name: np.array([[float(value in own) for value in values] for own in rows])
        for name, (values, rows) in said.items()
    }
