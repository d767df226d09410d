"""Looking at what a model rebuilds: pictures, words, and words through the bridge token alone.

Shapes: N pairs, S sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from cocoa.backbones import Encoded, Kind
from cocoa.backbones.reading import states_at
from cocoa.batch import collate, joined_row, moved
from cocoa.layouts import LAYOUTS, Role
from cocoa.model import EmbeddingModel
from cocoa.objectives import Draws, MaskedPatch, MaskedText, MaskedTextOptions
from cocoa.report.content import HiddenWord
from cocoa.training.reconstruct import look


@dataclass(frozen=True)
class BridgeReading:
    """Hidden words of targets, read through a bridge token: their mean loss in nats, and each text's words."""

    loss: float
    words: list[list[HiddenWord]]


@torch.inference_mode()
def rebuild_pictures(
    model: EmbeddingModel, objective: MaskedPatch, layout: str, pairs: Sequence[tuple[Encoded, Encoded]], *, seed: int
) -> list[tuple[Image.Image, Image.Image, Image.Image]]:
    """Returns (with hidden patches, as it was, rebuilt) of each pair's first picture.

    In the rebuilt picture the patches that were visible are shown as they are.
    """
    bridged = LAYOUTS[layout].bridged
    rows = [
        joined_row(model.backbone, a, b, model.max_tokens, bridged=bridged, num_bridges=model.pooling.tokens)
        for a, b in pairs
    ]
    whole = collate(model.backbone, rows)
    hidden_batch, hidden = objective.hide(whole, Draws(seed, tuple(range(len(pairs)))))
    view = look(model, layout, hidden_batch)
    painted = objective.paint(view, hidden.at.to(view.states.device)).cpu()
    assert whole.pixel_values is not None
    tokens_hidden = hidden.places[whole.kinds == Kind.IMAGE]
    rows_hidden = tokens_hidden.repeat_interleave(objective.patches_per_token)
    rebuilt = model.backbone.grid.normalised(whole.pixel_values)
    masked = rebuilt.clone()
    rebuilt[rows_hidden] = painted.reshape(int(rows_hidden.sum()), -1)
    masked[rows_hidden] = 0.0  # grey is easier to look at than the noise that the model saw
    triples = []
    start = 0
    for query, target in pairs:
        grids = [*query.grids, *target.grids]
        stop = start + int(np.prod(grids[0]))
        shown = (
            Image.fromarray(model.backbone.grid.uncut(patches[start:stop].numpy(), grids[0]))
            for patches in (masked, whole.pixel_values, rebuilt)
        )
        triples.append(tuple(shown))
        start += sum(int(np.prod(grid)) for grid in grids)
    return triples  # type: ignore[return-value]


@torch.inference_mode()
def rebuild_words(
    model: EmbeddingModel, layout: str, pairs: Sequence[tuple[Encoded, Encoded]], *, rate: float, seed: int
) -> BridgeReading:
    """Returns the targets' words with `rate` of them hidden and predicted, each text with its own picture in sight."""
    return _read(model, layout, pairs, rate, seed)


@torch.inference_mode()
def read_through_bridge(
    model: EmbeddingModel, pairs: Sequence[tuple[Encoded, Encoded]], *, rate: float, seed: int, shuffled: bool
) -> BridgeReading:
    """Returns the targets' hidden words as read through their own bridge token, or through that of the next pair with
    other pictures.

    In both cases the same words are hidden, and under the eos_bridge layout the bridge token is all that a target has
    of its picture; so the difference in loss is the information in the bridge token.
    """
    queries = [query for query, _ in pairs]
    if shuffled:
        queries = _shifted(queries)
    mixed = [(query, target) for query, (_, target) in zip(queries, pairs, strict=True)]
    return _read(model, "eos_bridge", mixed, rate, seed)


def _shifted(queries: list[Encoded]) -> list[Encoded]:
    """For each query the next one, the first after the last, that shows other pictures; just the next if none does."""
    shown = [tuple(patches.tobytes() for patches in query.patches) for query in queries]
    behind = [[*range(place + 1, len(queries)), *range(place)] for place in range(len(queries))]
    places = [
        next((other for other in others if shown[other] != shown[place]), others[0] if others else place)
        for place, others in enumerate(behind)
    ]
    return [queries[place] for place in places]


def _read(
    model: EmbeddingModel, layout: str, pairs: Sequence[tuple[Encoded, Encoded]], rate: float, seed: int
) -> BridgeReading:
    backbone = model.backbone
    bridged = LAYOUTS[layout].bridged
    rows = [
        joined_row(backbone, query, target, model.max_tokens, bridged=bridged, num_bridges=model.pooling.tokens)
        for query, target in pairs
    ]
    batch = collate(backbone, rows)
    objective = MaskedText(MaskedTextOptions(rate=rate, roles=("target",)))
    # What is drawn belongs to the sample, so another query hides the same words of the target.
    hidden_batch, hidden = objective.hide(batch, Draws(seed, tuple(range(len(pairs)))))
    places = hidden.places
    view = look(model, layout, hidden_batch)
    hidden = moved(hidden, view.states.device)
    loss = objective.loss(view, hidden)
    predicted = backbone.logits(states_at(view.states, hidden.before)).argmax(-1).cpu()
    guesses = torch.zeros_like(batch.input_ids)
    guesses[places] = predicted
    texts = []
    for number in range(len(pairs)):
        target = (batch.roles[number] == Role.TARGET).nonzero().flatten().tolist()
        texts.append(
            [
                HiddenWord(
                    backbone.text.words([int(batch.input_ids[number, at])]),
                    bool(places[number, at]),
                    backbone.text.words([int(guesses[number, at])]) if places[number, at] else None,
                )
                for at in target
            ]
        )
    return BridgeReading(float(loss.sum) / max(1, loss.count), texts)
