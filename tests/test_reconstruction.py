"""What is shown of the rebuilding, and the claim behind it: after the bridge stage, e carries what is seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cocoa import reconstruction
from cocoa.backbones.nano import load_nano
from cocoa.data.scene_pairs import ScenePairs
from cocoa.layouts import Role
from cocoa.model import EmbeddingModel
from cocoa.objectives import MaskedPatchOptions
from cocoa.pooling import Pooling
from cocoa.recipe import parse_recipe
from cocoa.reconstruction import read_through_bridge, rebuild_pictures, rebuild_words
from cocoa.training.loop import train
from cocoa.training.setup import open_model


def encoded(backbone, num, seed=7):
    scenes = ScenePairs(seed=seed, num_pairs=num)
    return [(backbone.encode(scenes[n].query), backbone.encode(scenes[n].target)) for n in range(num)]


@pytest.fixture
def model(tiny):
    return EmbeddingModel(tiny(), max_tokens=256)


def test_a_rebuilt_picture_keeps_what_was_visible(model):
    pairs = encoded(model.backbone, 3)
    painter = MaskedPatchOptions(rate=0.5).build(model.backbone)
    for (masked, truth, rebuilt), number in zip(
        rebuild_pictures(model, painter, "bidirectional", pairs, seed=1), range(3), strict=True
    ):
        masked, truth, rebuilt = (np.asarray(picture).astype(int) for picture in (masked, truth, rebuilt))
        scene = ScenePairs(seed=7, num_pairs=3)[number].query.images[0]
        width, height = model.backbone.grid.resized(*scene.size)
        np.testing.assert_array_equal(truth, np.asarray(scene.resize((width, height), 3)))
        changed = (masked != truth).any(-1)
        assert 0.3 < changed.mean() < 0.7
        np.testing.assert_array_equal(rebuilt[~changed], truth[~changed])


def test_a_picture_is_rebuilt_from_rows_with_all_bridge_tokens(model, monkeypatch):
    model.pooling = Pooling(tokens=4)
    batches = []
    real = reconstruction.collate
    monkeypatch.setattr(reconstruction, "collate", lambda *given: batches.append(real(*given)) or batches[-1])
    painter = MaskedPatchOptions(rate=0.5).build(model.backbone)
    rebuild_pictures(model, painter, "eos_bridge", encoded(model.backbone, 2), seed=1)
    [batch] = batches
    assert (batch.roles == Role.BRIDGE).sum(1).tolist() == [4, 4]


def test_the_same_words_are_hidden_whichever_bridge_token_is_read(model):
    pairs = encoded(model.backbone, 6)
    own = read_through_bridge(model, pairs, rate=0.7, seed=1, shuffled=False)
    other = read_through_bridge(model, pairs, rate=0.7, seed=1, shuffled=True)
    for mine, theirs, (_, target) in zip(own.words, other.words, pairs, strict=True):
        assert [(word.text, word.hidden) for word in mine] == [(word.text, word.hidden) for word in theirs]
        assert "".join(word.text for word in mine) == model.backbone.text.words(target.ids.tolist())
        assert sum(word.hidden for word in mine) == max(1, round(0.7 * len(target)))
        assert all((word.predicted is not None) == word.hidden for word in mine)
    assert own.loss != other.loss


def test_anothers_picture_is_not_the_same_one_that_the_neighbour_asks_about(model):
    one, two, three = encoded(model.backbone, 3)
    # Two questions about one picture, side by side.
    asked = [one, (one[0], two[1]), three]
    other = read_through_bridge(model, asked, rate=0.7, seed=1, shuffled=True)
    given = read_through_bridge(
        model, [(three[0], one[1]), (three[0], two[1]), (one[0], three[1])], rate=0.7, seed=1, shuffled=False
    )
    assert other == given
    # Where all pictures are one, there is no other.
    alike = [(one[0], target) for _, target in asked]
    assert read_through_bridge(model, alike, rate=0.7, seed=1, shuffled=True).loss == pytest.approx(
        read_through_bridge(model, alike, rate=0.7, seed=1, shuffled=False).loss
    )


def test_rebuilt_words_have_the_loss_of_the_objective(model):
    pairs = encoded(model.backbone, 2)
    read = rebuild_words(model, "bidirectional", pairs, rate=0.5, seed=3)
    assert np.isfinite(read.loss)
    assert read.loss > 0


BRIDGE = """
name: bridge
seed: 3
backbone: {name: nano}
max_tokens: 96
stages:
  - name: bridge
    layout: eos_bridge
    objectives: [{kind: masked_text, rate: 0.7, roles: [target]}]
    data: [{kind: scene_pairs, seed: 3, num_pairs: 100000}]
    steps: 130
    batch_size: 32
    learning_rate: 1e-3
    warmup_steps: 5
"""


def test_the_bridge_stage_puts_the_picture_into_the_bridge_token(tmp_path):
    recipe = parse_recipe(BRIDGE)
    model = open_model(recipe)
    pairs = encoded(model.backbone, 64)

    def worth_of_the_bridge_token(model):
        own = read_through_bridge(model, pairs, rate=0.7, seed=1, shuffled=False)
        return read_through_bridge(model, pairs, rate=0.7, seed=1, shuffled=True).loss - own.loss

    before = worth_of_the_bridge_token(model)
    trained, _ = train(recipe, tmp_path / "run")
    after = worth_of_the_bridge_token(trained)
    # In nats a hidden word. Before, the loss is above 4 and the difference is noise; the quickstart's longer stage
    # reaches more than this one (reference/quickstart.json).
    assert abs(before) < 0.1
    assert after > 0.25


def test_the_shipped_backbone_says_what_it_sees():
    nano = load_nano()
    scenes = ScenePairs(seed=7, num_pairs=64, questions=1.0)
    right = 0
    for number in range(64):
        pair = scenes[number]
        query, answer = nano.encode(pair.query), nano.text.ids(pair.target.text)
        words = torch.from_numpy(query.ids)[None]
        output = nano.stock.generate(
            input_ids=words,
            attention_mask=torch.ones_like(words),
            mm_token_type_ids=torch.from_numpy((query.kinds == 1).astype(int))[None],
            pixel_values=nano.grid.normalised(torch.from_numpy(query.patches[0])),
            image_grid_thw=torch.tensor(query.grids),
            max_new_tokens=len(answer),
            do_sample=False,
        )
        right += output[0, words.shape[1] :].tolist() == answer
    assert right / 64 > 0.5
