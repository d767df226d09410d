"""Why a picture matches: which piece of it the score comes from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cocoa.backbones import Kind, Seen
from cocoa.batch import collate, single_row
from cocoa.errors import DataError
from cocoa.explanation import attribute, explain
from cocoa.layouts import LAYOUTS
from cocoa.model import EmbeddingModel
from cocoa.sample import Sample

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(params=FAMILIES)
def model(request, tiny):
    return EmbeddingModel(tiny(family=request.param))


def unit(size, seed=0):
    vector = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    return vector / np.linalg.norm(vector)


def test_what_a_piece_adds_is_the_slope_of_the_score_as_it_moves_away_from_an_average_piece(model, picture):
    document, query = Sample("a cat", (picture(150, 100), picture(60, 60))), unit(32)
    score, added = attribute(model, document, query)
    assert added.numel() > 2

    batch = collate(model.backbone, [single_row(model.backbone, model.backbone.encode(document), model.max_tokens)])
    model.double()  # Norms and rotations stay in single precision, so steps are not too small either.
    with torch.no_grad():
        tower = model.backbone.see(batch.pixel_values, batch.image_grid_thw)
        everyone = torch.ones(1, 1, *[batch.input_ids.shape[1]] * 2, dtype=torch.bool)

        def score_with(piece, step):
            def moved(states):
                states = states.clone()
                states[piece] += step * (states[piece] - states[: added.numel()].mean(0))
                return states

            seen = Seen(moved(tower.features), tuple(moved(deep) for deep in tower.deepstack))
            vector = model.states(batch, everyone, seen).flatten(0, 1)[batch.bridge][0]
            return float(torch.nn.functional.normalize(vector, dim=0) @ torch.from_numpy(query).double())

        slopes = np.array([(score_with(n, 2e-3) - score_with(n, -2e-3)) / 4e-3 for n in range(added.numel())])
        assert score == pytest.approx(score_with(0, 0), abs=1e-5)
    assert added.flatten().numpy() == pytest.approx(slopes, rel=0.02, abs=0.02 * np.abs(slopes).max())


@pytest.mark.parametrize("place", [(0, 0), (0, 2), (1, 0)])
def test_where_one_piece_alone_is_looked_at_the_map_is_one_there_and_zero_elsewhere(model, picture, monkeypatch, place):
    """The rows of the batch let no token look at a piece but that one, so the others cannot matter."""
    document, query = Sample("", (picture(150, 130),)), unit(32)
    shape = attribute(model, document, query)[1].shape
    piece = place[0] * shape[1] + place[1]
    states = model.states

    def states_where_one_is_seen(batch, allowed, seen=None, **reading):
        pieces = (batch.kinds[0] == Kind.IMAGE).nonzero().flatten()
        allowed = LAYOUTS[model.layout].allowed(batch.roles, batch.samples)
        allowed[:, :, :, pieces] = False
        allowed[:, :, :, pieces[piece]] = True
        allowed |= torch.eye(allowed.shape[-1], dtype=torch.bool)
        return states(batch, allowed, seen, **reading)

    monkeypatch.setattr(model, "states", states_where_one_is_seen)
    if attribute(model, document, query)[1].sum() < 0:
        query = -query  # The piece speaks against this query, so it does for the opposite.
    wanted = np.zeros(shape)
    wanted[place] = 1
    assert explain(model, document, query).values.tolist() == wanted.tolist()
    assert explain(model, document, -query).values.max() == 0, "nothing speaks for the opposite"


def test_a_piece_of_the_map_lies_over_the_pixels_it_comes_from(model, picture):
    """The tower may reorder patches inside; changed pixels must change the states of their own piece most."""
    unit_pixels = model.backbone.grid.patch_size * 2
    width, height = model.backbone.grid.resized(168, 112)
    before = picture(168, 112).resize((width, height))
    changed = np.asarray(before).copy()
    row, column = 1, 2
    changed[row * unit_pixels : (row + 1) * unit_pixels, column * unit_pixels : (column + 1) * unit_pixels] = 0

    def seen(pixels):
        encoded = model.backbone.encode(Sample(images=(pixels,)))
        with torch.no_grad():
            tower = model.backbone.see(torch.from_numpy(encoded.patches[0]), torch.tensor(encoded.grids))
        return tower.features

    moved = (seen(Image.fromarray(changed)) - seen(before)).norm(dim=1)
    assert int(moved.argmax()) == row * (width // unit_pixels) + column


def test_a_shorter_query_explains_the_shorter_vector(model, picture):
    document, query = Sample("", (picture(120, 120),)), unit(32)
    vector = model.encode([document])[0, :8]
    shorter = query[:8] / np.linalg.norm(query[:8])
    expected = float(vector @ shorter / np.linalg.norm(vector))
    assert explain(model, document, shorter).score == pytest.approx(expected, abs=1e-5)


def test_a_document_of_text_alone_has_no_map(model):
    with pytest.raises(DataError, match="no picture") as caught:
        explain(model, Sample("a cat", where="row 7"), unit(32))
    assert (caught.value.code, caught.value.where) == ("E_DATA_NO_PICTURE", "row 7")


def test_explaining_leaves_no_gradient_behind(model, picture):
    explain(model, Sample("", (picture(120, 120),)), unit(32))
    assert all(weight.grad is None for weight in model.parameters())
