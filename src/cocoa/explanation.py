"""Why a picture matches: what each piece of it adds to the score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cocoa.backbones import Seen
from cocoa.batch import collate
from cocoa.errors import DataError
from cocoa.model import EmbeddingModel
from cocoa.sample import Sample


@dataclass(frozen=True)
class Explanation:
    """The cosine `score`, and float32 `values` [rows, columns] in [0, 1]: how much each piece of a picture adds to it.

    A piece is one visual token: a square of the resized picture, rows from its top, columns from its left. The largest
    value is 1, or all are 0 if no piece speaks for the match more than the picture as a whole does.
    """

    score: float
    values: NDArray[np.float32]


def explain(model: EmbeddingModel, document: Sample, query: NDArray[np.float32]) -> Explanation:
    """Returns why the document's first picture matches a query vector [D'], D' up to the model's D.

    A shorter vector is compared with as many leading dimensions of the document's. Raises `E_DATA_NO_PICTURE` for a
    document of text alone, `DataError` or `ImageError` for one that cannot be read.
    """
    score, added = attribute(model, document, query)
    positive = added.clamp(min=0)
    values = positive / positive.max() if positive.max() > 0 else positive
    return Explanation(score, values.numpy())


def attribute(model: EmbeddingModel, document: Sample, query: NDArray[np.float32]) -> tuple[float, Tensor]:
    """Returns the score, and what each piece of the first picture adds to it to first order, float32 [rows, columns].

    That is the gradient of the score with respect to a piece's states times what sets these apart from the picture's
    mean: the slope of the score as the piece moves away from an average one. States are all that the vision tower hands
    to the language model, those for deeper layers included. (Against zero in place of the mean the map says little: a
    norm takes the length of a state away.)
    """
    encoded = model.backbone.encode(document)
    if not encoded.grids:
        raise DataError("E_DATA_NO_PICTURE", "the document has no picture to explain", where=document.where)
    batch = collate(model.backbone, [model.row(encoded)]).to(model.backbone.device)
    assert batch.pixel_values is not None and batch.image_grid_thw is not None
    with torch.no_grad():
        tower = model.backbone.see(batch.pixel_values, batch.image_grid_thw)
    states = [state.detach().requires_grad_() for state in (tower.features, *tower.deepstack)]
    with torch.enable_grad():
        vector = model.embed(batch, Seen(states[0], tuple(states[1:])))[0]
        wanted = torch.from_numpy(query).to(vector)
        score = functional.cosine_similarity(vector[: len(wanted)], wanted, dim=0)
        gradients = torch.autograd.grad(score, states)
    _, *patches = encoded.grids[0]
    rows, columns = (number // model.backbone.grid.merge_size for number in patches)
    added = torch.zeros(rows * columns, device=vector.device)
    for state, gradient in zip(states, gradients, strict=True):
        pieces = state.detach()[: rows * columns].float()
        added += ((pieces - pieces.mean(0)) * gradient[: rows * columns].float()).sum(-1)
    return score.item(), added.cpu().reshape(rows, columns)
