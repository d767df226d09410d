"""Families: Qwen2-VL, Qwen2.5-VL and Qwen3-VL go through the same code, each as its own stock code would read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoImageProcessor

from cocoa.backbones import NANO, NANO_UNTRAINED, Backbone, load_backbone, open_backbone
from cocoa.backbones.families import FAMILIES
from cocoa.batch import Batch, collate, single_row
from cocoa.errors import ModelError
from cocoa.layouts import LAYOUTS, Role
from cocoa.sample import Sample

Tiny = Callable[..., Backbone]
MakeSample = Callable[..., Sample]
every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def folder(tiny: Tiny, family: str, tmp_path: Path) -> Path:
    tiny(family=family).save(tmp_path / family)
    return tmp_path / family


def rows(backbone: Backbone, sample: MakeSample) -> Batch:
    samples = [sample("How many birds <|image_1|> are there <|image_2|>?", (90, 60), (70, 120)), sample("two cats")]
    return collate(backbone, [single_row(backbone, backbone.encode(one), 200) for one in samples])


def states(backbone: Backbone, batch: Batch) -> Tensor:
    allowed = LAYOUTS["bidirectional"].allowed(batch.roles)
    return backbone.hidden_states(
        batch.input_ids, batch.kinds, allowed, batch.position_ids, batch.pixel_values, batch.image_grid_thw
    )


@every_family
def test_a_saved_backbone_comes_back_with_equal_states_and_settings(
    tiny: Tiny, sample: MakeSample, family: str, folder: Path
) -> None:
    before, again = tiny(family=family), load_backbone(str(folder))
    batch = rows(before, sample)
    with torch.no_grad():
        assert torch.equal(states(again, batch), states(before, batch))
    assert again.family is FAMILIES[family]
    assert again.grid == before.grid
    assert again.text.control == before.text.control


@every_family
@pytest.mark.parametrize("spelling", ["ours", "fast"])
def test_the_stock_processor_of_a_saved_folder_cuts_the_same_patches(
    tiny: Tiny, sample: MakeSample, family: str, folder: Path, spelling: str
) -> None:
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    if spelling == "fast":  # As Qwen3-VL is published: that class, and the limits as a size alone.
        settings["image_processor_type"] = "Qwen2VLImageProcessorFast"
        del settings["min_pixels"], settings["max_pixels"]
        path.write_text(json.dumps(settings))
    backbone = tiny(family=family)
    one = sample("", (90, 61))
    (patches,), (grid,) = backbone.encode(one).patches, backbone.encode(one).grids
    try:
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    except ImportError:
        pytest.skip("this version of transformers finds no processor without torchvision")
    stock = processor(one.images[0], return_tensors="np")
    assert stock["image_grid_thw"].tolist() == [list(grid)]
    pixels = backbone.grid.normalised(torch.from_numpy(patches)).numpy()
    assert pixels.shape[1] == 3 * 2 * settings["patch_size"] ** 2
    assert np.abs(pixels - stock["pixel_values"]).max() <= 1e-5
    assert load_backbone(str(folder), weights=False).grid == backbone.grid


@every_family
def test_a_cut_picture_is_put_together_again(tiny: Tiny, sample: MakeSample, family: str) -> None:
    grid = tiny(family=family).grid
    picture = sample("", (90, 61)).images[0]
    resized = picture.resize(grid.resized(90, 61), Image.Resampling.BICUBIC)
    assert np.array_equal(grid.uncut(*grid.cut(picture)), np.asarray(resized))


@every_family
def test_one_decoder_layer_run_alone_is_the_stock_models_last_layer(
    tiny: Tiny, sample: MakeSample, family: str
) -> None:
    backbone = tiny(family=family)
    batch = rows(backbone, sample)
    inside: list[Tensor] = []
    backbone.layers[-1].register_forward_pre_hook(lambda module, inputs: inside.append(inputs[0]))
    with torch.no_grad():
        expected = states(backbone, batch)
        if (
            family == "qwen3_vl"
        ):  # Two decoder layers, and what the tower's second inner layer saw comes after the last.
            backbone.stock.model.language_model._deepstack_process = lambda states, places, seen: states
            expected = states(backbone, batch)
        allowed = LAYOUTS["bidirectional"].allowed(batch.roles)
        copied = deepcopy(backbone.layers[-1])
        copied._forward_pre_hooks.clear()
        once = backbone.decode_once(copied, inside[-1], allowed, batch.position_ids)
        assert torch.equal(backbone.stock.model.language_model.norm(once), expected)


@every_family
def test_logits_are_those_of_the_stock_head_in_float32(tiny: Tiny, sample: MakeSample, family: str) -> None:
    backbone = tiny(family=family)
    with torch.no_grad():
        hidden = states(backbone, rows(backbone, sample))
        assert torch.equal(backbone.logits(hidden), hidden @ backbone.stock.get_input_embeddings().weight.T)


@every_family
def test_adapters_go_on_the_maps_of_the_text_and_if_wanted_of_the_tower(tiny: Tiny, family: str) -> None:
    backbone = tiny(family=family)
    text, both = backbone.linear_targets(vision=False), backbone.linear_targets(vision=True)
    a_block = {"qwen2_vl": 3, "qwen2_5_vl": 4, "qwen3_vl": 3}[family]
    assert len(text) == 7 * len(backbone.layers)
    assert len(both) == len(text) + a_block * len(backbone.stock.model.visual.blocks)
    assert set(text) < set(both)
    assert all(isinstance(backbone.stock.get_submodule(name), torch.nn.Linear) for name in both)


@every_family
@pytest.mark.parametrize("trouble", ["missing", "reshaped", "unexpected"])
def test_a_weight_of_the_tower_that_does_not_match_is_named(folder: Path, family: str, trouble: str) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    (name,) = (name for name in weights if name.endswith("visual.blocks.0.attn.qkv.weight"))
    if trouble == "missing":
        del weights[name]
    elif trouble == "reshaped":
        weights[name] = torch.ones(7)
    else:
        name = name.replace("qkv", "extra")
        weights[name] = torch.ones(7)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"blocks\.0\.attn") as caught:
        load_backbone(str(folder))
    assert caught.value.code == "E_MODEL_WEIGHTS"


@every_family
def test_without_weights_it_has_the_shape_and_settings_and_reads_no_weights(
    tiny: Tiny, family: str, folder: Path
) -> None:
    (folder / "model.safetensors").unlink()
    shape, whole = load_backbone(str(folder), weights=False, dtype=torch.bfloat16), tiny(family=family)
    assert {weight.device.type for weight in shape.parameters()} == {"meta"}
    assert {weight.dtype for weight in shape.parameters()} == {torch.bfloat16}
    sizes = [{name: weight.shape for name, weight in one.named_parameters()} for one in (shape, whole)]
    assert sizes[0] == sizes[1]
    assert shape.linear_targets(vision=True) == whole.linear_targets(vision=True)
    assert (shape.grid, shape.text.control) == (whole.grid, whole.text.control)
    assert not shape.training


@pytest.mark.parametrize("name", [NANO, NANO_UNTRAINED])
def test_nano_has_a_shape_too(name: str) -> None:
    shape, whole = open_backbone(name, weights=False), open_backbone(name)
    assert shape.device.type == "meta"
    assert [weight.shape for weight in shape.parameters()] == [weight.shape for weight in whole.parameters()]


def test_a_shape_without_room_for_the_mask_token_gets_it(tiny: Tiny) -> None:
    backbone = tiny()
    mask = backbone.text.control.mask
    backbone.stock.resize_token_embeddings(mask)
    grown = Backbone(backbone.stock.to("meta"), backbone.text, backbone.grid)
    assert grown.stock.get_input_embeddings().weight.shape[0] == mask + 1
    assert grown.device.type == "meta"


@every_family
def test_recomputed_activations_give_equal_gradients(tiny: Tiny, sample: MakeSample, family: str) -> None:
    gradients, runs = [], []
    for recomputed in (False, True):
        backbone = tiny(family=family).train()
        if recomputed:
            backbone.checkpoint_activations()
        run: list[str] = []
        for name, layer in (("text", backbone.layers[0]), ("vision", backbone.stock.model.visual.blocks[0])):
            layer.mlp.register_forward_pre_hook(lambda *_, name=name, run=run: run.append(name))
        states(backbone, rows(backbone, sample)).square().sum().backward()
        gradients.append({name: weight.grad for name, weight in backbone.named_parameters() if weight.grad is not None})
        runs.append(run)
    assert runs == [["vision", "text"], ["vision", "text", "text", "vision"]]
    assert gradients[0].keys() == gradients[1].keys()
    assert any("visual" in name for name in gradients[0])
    for name, expected in gradients[0].items():
        assert torch.equal(gradients[1][name], expected), name


@every_family
def test_in_bfloat16_angles_stay_float32_and_states_stay_close(
    tiny: Tiny, sample: MakeSample, family: str, folder: Path
) -> None:
    exact, coarse = load_backbone(str(folder)), load_backbone(str(folder), dtype=torch.bfloat16)
    assert {weight.dtype for weight in coarse.parameters()} == {torch.bfloat16}
    original = dict(tiny(family=family).named_buffers())
    for backbone in (exact, coarse):
        buffers = dict(backbone.named_buffers())
        assert buffers.keys() == original.keys()
        assert all(torch.equal(buffers[name], original[name]) for name in original)
        assert {buffer.dtype for buffer in buffers.values()} == {torch.float32}
    batch = rows(exact, sample)
    with torch.no_grad():
        one, other = states(exact, batch), states(coarse, batch)
        assert other.dtype == torch.bfloat16
        assert coarse.logits(other).dtype == torch.float32
    alike = torch.cosine_similarity(one, other.float(), dim=-1)[batch.roles != Role.PAD]
    # Weights as large as these round to a few coarse steps: single states move, all together hardly.
    assert alike.mean() > 0.99
