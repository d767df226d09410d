"""A model folder says of itself all that a reader needs, and comes back as the model that was saved."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from folders import edit_json, renew_manifest

import cocoa
from cocoa import CocoaError
from cocoa.backbones.nano import load_nano
from cocoa.files import check_folder
from cocoa.model import EmbeddingModel, fingerprint, stored_dtype
from cocoa.model.golden import KINDS, Golden, golden_inputs
from cocoa.prompts import PROMPTS
from cocoa.sample import Sample


def test_it_holds_weights_card_golden_vectors_readme_and_files_for_stock_code(saved):
    names = {str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()}
    assert names == {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "cocoa.json",
        "golden.json",
        "README.md",
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
        "chat_template.jinja",
        "files.json",
    }
    check_folder(saved, hashes=True)
    assert all(
        module["type"].startswith("sentence_transformers.")
        for module in json.loads((saved / "modules.json").read_text())
    )
    assert json.loads((saved / "config.json").read_text())["text_config"]["is_causal"] is False


def test_the_card_says_how_to_use_the_model_and_how_it_was_made(saved):
    card = json.loads((saved / "cocoa.json").read_text())
    assert card["format"] == 2
    assert (card["backbone"], card["layout"], card["pooling"]) == ("qwen2_vl", "bidirectional", "bridge")
    assert (card["dimensions"], card["max_tokens"], card["normalized"]) == (32, 128, True)
    assert card["prompts"] == PROMPTS
    assert card["receipt"]["recipe"]["seed"] == 3
    assert card["versions"]["cocoa"] == cocoa.__version__
    assert {"torch", "transformers", "pillow", "python"} <= set(card["versions"])


def test_the_readme_is_made_from_the_card_and_has_the_header_of_the_hub(tiny, tmp_path):
    stages = {"contrastive": {"pairs": 64, "first_losses": {"contrastive": 4.0}, "last_losses": {"contrastive": 0.5}}}
    receipt = {"recipe": {"seed": 3, "backbone": {"name": "Qwen/Qwen2-VL-2B-Instruct"}}, "stages": stages}
    EmbeddingModel(tiny(), matryoshka=(16, 8)).save(tmp_path / "mine", receipt=receipt)
    _, header, text = (tmp_path / "mine" / "README.md").read_text().split("---\n", 2)
    fields = yaml.safe_load(header)
    assert fields["library_name"] == "sentence-transformers"
    assert fields["base_model"] == "Qwen/Qwen2-VL-2B-Instruct"
    assert "| contrastive | 64 | contrastive 4.000 | contrastive 0.500 |" in text
    assert "| shorter vectors (Matryoshka) | 8, 16 |" in text
    assert "`vqa/query/both`" not in text and "| vqa/query/both |" in text
    assert "None" not in text.replace("Seed 3", "")


def test_golden_inputs_are_a_dozen_of_every_kind_and_always_the_same():
    inputs = golden_inputs()
    assert len(inputs) >= 12
    assert {one.kind for one in inputs} == set(KINDS)
    assert [one.pictures for one in inputs] == [one.pictures for one in golden_inputs()]
    assert len({(one.text, one.pictures) for one in inputs}) == len(inputs)


def test_golden_vectors_are_those_of_the_model_to_the_last_digit(saved):
    golden = Golden.read(saved)
    model = EmbeddingModel.load(saved)
    vectors = model.encode([one.sample for one in golden.inputs])
    assert golden.vectors.dtype == np.float32
    np.testing.assert_array_equal(golden.vectors, vectors)


def test_inputs_that_a_small_model_would_cut_are_no_golden_inputs(tiny, tmp_path):
    EmbeddingModel(tiny(), max_tokens=16).save(tmp_path / "model")
    golden = Golden.read(tmp_path / "model")
    assert 0 < len(golden.inputs) < len(golden_inputs())
    EmbeddingModel.load(tmp_path / "model")


@pytest.mark.parametrize("layout", ["bidirectional", "causal", "eos_bridge"])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_every_family_and_layout_comes_back_and_passes_its_self_test(tiny, sample, tmp_path, family, layout):
    model = EmbeddingModel(tiny(family=family), layout=layout, max_tokens=96, matryoshka=(8, 16))
    model.save(tmp_path / "model")
    loaded = EmbeddingModel.load(tmp_path / "model")
    assert (loaded.layout, loaded.max_tokens, loaded.matryoshka) == (layout, 96, (8, 16))
    assert loaded.prompts == model.prompts
    samples = [sample("a red apple"), sample("what?", (60, 80))]
    np.testing.assert_array_equal(loaded.encode(samples), model.encode(samples))


def test_weights_in_bfloat16_stay_so_and_have_golden_vectors_in_float32(tmp_path):
    model = EmbeddingModel(load_nano(), max_tokens=128)
    for weight in model.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    before = [weight.detach().clone() for weight in model.parameters()]
    model.save(tmp_path / "model")
    assert all(
        torch.equal(weight, old) and weight.dtype == old.dtype
        for weight, old in zip(model.parameters(), before, strict=True)
    )
    assert stored_dtype(tmp_path / "model") == torch.bfloat16
    golden = Golden.read(tmp_path / "model")
    whole = EmbeddingModel.load(tmp_path / "model")
    assert whole.dtype == torch.float32
    np.testing.assert_array_equal(whole.encode([one.sample for one in golden.inputs]), golden.vectors)
    half = EmbeddingModel.load(tmp_path / "model", dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half.encode([Sample("a red apple")]).dtype == np.float32


def test_the_fingerprint_tells_models_apart_and_not_what_is_said_of_them(tiny, folder, tmp_path):
    before = fingerprint(folder)
    EmbeddingModel(tiny(), max_tokens=128).save(tmp_path / "again", receipt={"other": 1})
    assert fingerprint(tmp_path / "again") == before
    for other in (
        EmbeddingModel(tiny(), max_tokens=127),
        EmbeddingModel(tiny(), max_tokens=128, layout="causal"),
        EmbeddingModel(tiny(family="qwen2_5_vl"), max_tokens=128),
        EmbeddingModel(tiny().with_pixel_limits(None, 10_000), max_tokens=128),
    ):
        other.save(tmp_path / "other")
        assert fingerprint(tmp_path / "other") != before


def test_people_may_write_on_in_the_readme(folder):
    with (folder / "README.md").open("a") as stream:
        stream.write("\n## Licence\n\nours\n")
    EmbeddingModel.load(folder)


def test_a_folder_of_format_1_is_refused_with_the_way_out(folder):
    edit_json(folder / "cocoa.json", lambda card: card.update(format=1))
    renew_manifest(folder)
    with pytest.raises(CocoaError) as caught:
        EmbeddingModel.load(folder)
    assert caught.value.code == "E_MODEL_FORMAT"
    assert "cocoa export" in caught.value.message
