"""A folder as Qwen2-VL is published (stock weights, real tokenizer and picture settings) goes through the same code."""

from __future__ import annotations

import shutil

import pytest
import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from cocoa.backbones import load_backbone
from cocoa.batch import collate, single_row
from cocoa.model import EmbeddingModel
from cocoa.sample import Sample


@pytest.fixture
def published(real_qwen, tmp_path):
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
    folder = tmp_path / "Qwen2-VL"
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    for file in (real_qwen / "tokenizer").iterdir():
        shutil.copyfile(file, folder / file.name)
    shutil.copyfile(real_qwen / "preprocessor_config.json", folder / "preprocessor_config.json")
    return folder


def test_it_loads_with_its_own_ids_and_pixel_limits_and_is_not_resized(published):
    backbone = load_backbone(str(published))
    control = backbone.text.control
    assert (control.pad, control.bridge, control.image) == (151_643, 151_645, 151_655)
    assert control.mask == 151_657
    assert backbone.stock.get_input_embeddings().weight.shape[0] == 151_936
    assert (backbone.grid.min_pixels, backbone.grid.max_pixels) == (3136, 12_845_056)


def test_an_mmeb_row_becomes_the_ids_that_qwen_uses(published, picture):
    backbone = load_backbone(str(published))
    row = Sample("<|image_1|>\nRepresent the given image for classification\n", (picture(56, 84),))
    batch = collate(backbone, [single_row(backbone, backbone.encode(row), 64)])
    text = [198, 65743, 279, 2661, 2168, 369, 23850, 198]
    assert batch.input_ids[0].tolist() == [151_652, *[151_655] * 6, 151_653, *text, 151_645]
    assert batch.image_grid_thw.tolist() == [[1, 6, 4]]


def test_it_embeds_and_comes_back_from_its_model_folder_with_the_same_vectors(published, picture, tmp_path):
    model = EmbeddingModel(load_backbone(str(published)), max_tokens=128)
    samples = [Sample("an owl"), Sample("what is it?", (picture(60, 60),))]
    vectors = model.encode(samples)
    model.save(tmp_path / "model")
    again = EmbeddingModel.load(tmp_path / "model")
    assert torch.equal(torch.from_numpy(again.encode(samples)), torch.from_numpy(vectors))
    assert again.backbone.text.control.mask == 151_657
