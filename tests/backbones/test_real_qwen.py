"""Qwen-VL as it is published: real tokenizer, picture settings and shapes go through the same code as nano."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from cocoa.backbones import Backbone, load_backbone
from cocoa.backbones.nano import NANO_GRID
from cocoa.backbones.tokens import TextTokens
from cocoa.batch import collate, single_row
from cocoa.model import EmbeddingModel
from cocoa.sample import Sample


@pytest.fixture(scope="module")
def published(real_qwen, tmp_path_factory):
    """Small layers under the real vocabulary of 151,936 rows, saved by stock code."""
    text = {
        "vocab_size": 151_936,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]},
        "bos_token_id": 151_643,
        "eos_token_id": 151_645,
        "pad_token_id": 151_643,
    }
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2}
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=151_655,
        video_token_id=151_656,
        vision_start_token_id=151_652,
        vision_end_token_id=151_653,
        tie_word_embeddings=True,
    )
    folder = tmp_path_factory.mktemp("published") / "Qwen2-VL"
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    for file in (real_qwen / "tokenizer").iterdir():
        shutil.copyfile(file, folder / file.name)
    shutil.copyfile(real_qwen / "preprocessor_config.json", folder / "preprocessor_config.json")
    return folder


@pytest.fixture(scope="module")
def opened(published):
    return load_backbone(str(published))


def test_it_loads_with_its_own_ids_and_pixel_limits_and_is_not_resized(opened):
    control = opened.text.control
    assert (control.pad, control.bridge, control.image) == (151_643, 151_645, 151_655)
    assert control.mask == 151_657
    assert opened.stock.get_input_embeddings().weight.shape[0] == 151_936
    assert (opened.grid.min_pixels, opened.grid.max_pixels) == (3136, 12_845_056)


def test_an_mmeb_row_becomes_the_ids_that_qwen_uses(opened, picture):
    row = Sample("<|image_1|>\nRepresent the given image for classification\n", (picture(56, 84),))
    batch = collate(opened, [single_row(opened, opened.encode(row), 64)])
    text = [198, 65743, 279, 2661, 2168, 369, 23850, 198]
    assert batch.input_ids[0].tolist() == [151_652, *[151_655] * 6, 151_653, *text, 151_645]
    assert batch.image_grid_thw.tolist() == [[1, 6, 4]]


def test_it_embeds_and_comes_back_from_its_model_folder_with_the_same_vectors(opened, picture, tmp_path):
    model = EmbeddingModel(opened, max_tokens=128)
    samples = [Sample("an owl"), Sample("what is it?", (picture(60, 60),))]
    vectors = model.encode(samples)
    model.save(tmp_path / "model")
    again = EmbeddingModel.load(tmp_path / "model")
    assert torch.equal(torch.from_numpy(again.encode(samples)), torch.from_numpy(vectors))
    assert again.backbone.text.control.mask == 151_657


# Parameters; maps that adapters go on: a decoder layer's x decoder layers, a vision block's x vision blocks.
REAL_SHAPES = {
    "qwen2-vl-2b": (2_208_985_600, 7 * 28, 3 * 32),
    "qwen2-vl-7b": (8_291_375_616, 7 * 28, 3 * 32),
    "qwen2.5-vl-3b": (3_754_622_976, 7 * 36, 4 * 32),
    "qwen2.5-vl-7b": (8_292_166_656, 7 * 28, 4 * 32),
    "qwen3-vl-2b": (2_127_532_032, 7 * 28, 3 * 24),
}


@pytest.mark.parametrize("name", REAL_SHAPES)
def test_each_model_has_its_published_size_room_for_the_mask_token_and_maps_for_adapters(
    real_qwen: Path, real_text: TextTokens, name: str
) -> None:
    num_parameters, num_text, num_vision = REAL_SHAPES[name]
    config = AutoConfig.from_pretrained(real_qwen / f"{name}.config.json")
    with torch.device("meta"):
        stock = AutoModelForImageTextToText.from_config(config)
    backbone = Backbone(stock, real_text, NANO_GRID)
    assert sum(weight.numel() for weight in backbone.parameters()) == num_parameters
    assert stock.get_input_embeddings().weight.shape[0] == config.text_config.vocab_size > real_text.control.mask
    assert len(backbone.linear_targets(vision=False)) == num_text
    assert len(backbone.linear_targets(vision=True)) == num_text + num_vision


def test_qwen3_vl_is_opened_without_weights_from_its_published_files(real_qwen, tiny, tmp_path):
    tiny().text.save(tmp_path)  # The real one takes seconds to read, and has its own tests.
    shutil.copyfile(real_qwen / "qwen3-vl-2b.config.json", tmp_path / "config.json")
    shutil.copyfile(real_qwen / "qwen3-vl.preprocessor_config.json", tmp_path / "preprocessor_config.json")
    backbone = load_backbone(str(tmp_path), weights=False, dtype=torch.bfloat16)
    assert sum(weight.numel() for weight in backbone.parameters()) == 2_127_532_032
    assert (backbone.grid.min_pixels, backbone.grid.max_pixels) == (65_536, 16_777_216)
    assert (backbone.grid.patch_size, backbone.grid.mean, backbone.grid.std) == (16, (0.5,) * 3, (0.5,) * 3)
