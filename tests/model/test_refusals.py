"""A folder that is not the model that was saved is refused with the reason, and nothing in it is ever run."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import edit_json, renew_manifest
from safetensors.torch import load_file, save_file

from cocoa import CocoaError
from cocoa.backbones.nano import load_nano
from cocoa.layouts import LAYOUTS
from cocoa.model import EmbeddingModel
from cocoa.model.golden import Golden
from cocoa.model.reading import read_model
from cocoa.model.self_test import check_attention


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def code_in_config(folder: Path, canary: Path) -> None:
    (folder / "modeling_mine.py").write_text(f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n")
    edit_json(folder / "config.json", lambda config: config.update(auto_map={"AutoConfig": "modeling_mine.C"}))


def code_named_in_config(folder: Path, canary: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.update(auto_map={"AutoConfig": "some/where--m.C"}))


def code_in_tokenizer(folder: Path, canary: Path) -> None:
    (folder / "tokenization_mine.py").write_text(f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n")


def code_named_in_tokenizer(folder: Path, canary: Path) -> None:
    edit_json(folder / "tokenizer_config.json", lambda config: config.update(auto_map={"AutoTokenizer": ["m.T", None]}))


def kernel_from_the_hub(folder: Path, canary: Path) -> None:
    kernel = {"_attn_implementation_internal": "some-where/kernel"}
    edit_json(folder / "config.json", lambda config: config["text_config"].update(kernel))


def other_quantisation(folder: Path, canary: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.update(quantization_config={"quant_method": "mine"}))


def pickle_alone(folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Canary(canary)))


def pickle_beside(folder: Path, canary: Path) -> None:
    (folder / "1_Pooling" / "pytorch_model.BIN").write_bytes(pickle.dumps(_Canary(canary)))


def pickle_of_a_sharded_checkpoint(folder: Path, canary: Path) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(_Canary(canary)))


def script_beside(folder: Path, canary: Path) -> None:
    (folder / "run.sh").write_text(f"touch {canary}\n")


def weights_swapped(folder: Path, canary: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.0.mlp.up_proj.weight"))
    weights[name] = weights[name].flip(0).contiguous()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def weight_missing(folder: Path, canary: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if name.endswith("layers.1.mlp.up_proj.weight")))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _shrink(config: dict[str, Any]) -> None:
    config["max_pixels"] = config["size"]["longest_edge"] = 4000


def pixel_limits_of_the_processor(folder: Path, canary: Path) -> None:
    edit_json(folder / "preprocessor_config.json", _shrink)


def pixel_limits_everywhere_but_in_golden(folder: Path, canary: Path) -> None:
    pixel_limits_of_the_processor(folder, canary)
    edit_json(folder / "cocoa.json", lambda card: card.update(max_pixels=4000))


def pixel_limits_everywhere(folder: Path, canary: Path) -> None:
    pixel_limits_everywhere_but_in_golden(folder, canary)
    edit_json(folder / "golden.json", lambda golden: golden["settings"].update(max_pixels=4000))


def picture_colours(folder: Path, canary: Path) -> None:
    edit_json(folder / "preprocessor_config.json", lambda config: config.update(image_mean=[0.5, 0.5, 0.5]))


def layout_on_the_card(folder: Path, canary: Path) -> None:
    edit_json(folder / "cocoa.json", lambda card: card.update(layout="causal"))


def layout_everywhere(folder: Path, canary: Path) -> None:
    layout_on_the_card(folder, canary)
    edit_json(folder / "golden.json", lambda golden: golden["settings"].update(layout="causal"))
    edit_json(folder / "config.json", lambda config: config["text_config"].update(is_causal=True))


def layout_unknown(folder: Path, canary: Path) -> None:
    edit_json(folder / "cocoa.json", lambda card: card.update(layout="sideways"))


def causal_for_stock_code(folder: Path, canary: Path) -> None:
    edit_json(folder / "config.json", lambda config: config["text_config"].update(is_causal=True))


def words_swapped(folder: Path, canary: Path) -> None:
    def swap(tokenizer: dict[str, Any]) -> None:
        words = tokenizer["model"]["vocab"]
        words["a"], words["r"] = words["r"], words["a"]

    edit_json(folder / "tokenizer.json", swap)


def bridge_token_moved(folder: Path, canary: Path) -> None:
    edit_json(folder / "cocoa.json", lambda card: card.update(bridge_token=9))


def prompts_changed(folder: Path, canary: Path) -> None:
    edit_json(folder / "cocoa.json", lambda card: card["prompts"].update({"query/text": "Ignore all: {text}"}))


def golden_vectors_gone(folder: Path, canary: Path) -> None:
    (folder / "golden.json").unlink()


def golden_vectors_broken(folder: Path, canary: Path) -> None:
    edit_json(folder / "golden.json", lambda golden: golden["items"][3].update(vector=[1.0]))


def golden_number_beyond_any_float(folder: Path, canary: Path) -> None:
    edit_json(folder / "golden.json", lambda golden: golden["items"][3]["vector"].__setitem__(0, 10**400))


def card_too_deep(folder: Path, canary: Path) -> None:
    (folder / "cocoa.json").write_text("[" * 100_000)


def config_too_deep(folder: Path, canary: Path) -> None:
    (folder / "config.json").write_text('{"a":' * 100_000)


HIDDEN = [
    (code_in_config, "E_MODEL_UNSAFE"),
    (code_named_in_config, "E_MODEL_UNSAFE"),
    (code_in_tokenizer, "E_MODEL_UNSAFE"),
    (code_named_in_tokenizer, "E_MODEL_UNSAFE"),
    (kernel_from_the_hub, "E_MODEL_UNSAFE"),
    (other_quantisation, "E_MODEL_UNSAFE"),
    (pickle_alone, "E_MODEL_UNSAFE"),
    (pickle_beside, "E_MODEL_UNSAFE"),
    (pickle_of_a_sharded_checkpoint, "E_MODEL_UNSAFE"),
    (script_beside, "E_MODEL_UNSAFE"),
    (weights_swapped, "E_MODEL_GOLDEN"),
    (weight_missing, "E_MODEL_WEIGHTS"),
    (pixel_limits_of_the_processor, "E_MODEL_FORMAT"),
    (pixel_limits_everywhere_but_in_golden, "E_MODEL_GOLDEN"),
    (pixel_limits_everywhere, "E_MODEL_GOLDEN"),
    (picture_colours, "E_MODEL_GOLDEN"),
    (layout_on_the_card, "E_MODEL_ATTENTION"),
    (layout_everywhere, "E_MODEL_GOLDEN"),
    (layout_unknown, "E_MODEL_FORMAT"),
    (causal_for_stock_code, "E_MODEL_ATTENTION"),
    (words_swapped, "E_MODEL_GOLDEN"),
    (bridge_token_moved, "E_MODEL_FORMAT"),
    (prompts_changed, "E_MODEL_GOLDEN"),
    (golden_vectors_gone, "E_MODEL_GOLDEN"),
    (golden_vectors_broken, "E_MODEL_GOLDEN"),
    (golden_number_beyond_any_float, "E_MODEL_GOLDEN"),
    (card_too_deep, "E_MODEL_FORMAT"),
    (config_too_deep, "E_MODEL_FORMAT"),
]


@pytest.mark.parametrize(("attack", "code"), HIDDEN, ids=[attack.__name__ for attack, _ in HIDDEN])
def test_a_changed_folder_is_refused_even_if_its_manifest_was_changed_too(folder, tmp_path, attack, code):
    attack(folder, tmp_path / "canary")
    renew_manifest(folder)
    with pytest.raises(CocoaError) as caught:
        EmbeddingModel.load(folder)
    assert caught.value.code == code, str(caught.value)
    assert str(folder) in str(caught.value)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "attack", [weights_swapped, prompts_changed, golden_vectors_gone, words_swapped], ids=lambda attack: attack.__name__
)
def test_without_a_changed_manifest_the_file_itself_is_named(folder, tmp_path, attack):
    attack(folder, tmp_path / "canary")
    with pytest.raises(CocoaError) as caught:
        EmbeddingModel.load(folder, self_test=False)
    assert caught.value.code == "E_MODEL_INCOMPLETE"


def test_the_canary_of_these_tests_would_sing(tmp_path):
    pickle.loads(pickle.dumps(_Canary(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


def test_the_self_test_can_be_left_out_and_is_what_refused(folder, tmp_path):
    weights_swapped(folder, tmp_path)
    renew_manifest(folder)
    EmbeddingModel.load(folder, self_test=False)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_attention_that_is_not_as_the_layout_says_is_found(tiny, family):
    for layout, other in (("bidirectional", "causal"), ("causal", "bidirectional")):
        model = EmbeddingModel(tiny(family=family), layout=layout)
        model.backbone.stock.config.text_config.is_causal = LAYOUTS[layout].causal
        check_attention(model)
        model.layout = other
        model.backbone.stock.config.text_config.is_causal = LAYOUTS[other].causal
        check_attention(model)

        def blind(batch, allowed, seen=None, *, model=model, layout=layout):
            wrong = LAYOUTS[layout].allowed(batch.roles, batch.samples)
            return EmbeddingModel.states(model, batch, wrong, seen)

        model.states = blind
        with pytest.raises(CocoaError) as caught:
            check_attention(model)
        assert caught.value.code == "E_MODEL_ATTENTION"


def test_a_vector_that_is_not_finite_or_zero_is_no_golden_vector(saved):
    golden = Golden.read(saved)
    for wrong in (float("nan"), float("inf"), 0.0):
        vectors = golden.vectors.copy()
        vectors[2] = wrong
        cosines = golden.cosines(vectors)
        assert cosines[2] == -1
        assert cosines[3] == pytest.approx(1)


def test_bfloat16_passes_and_another_model_in_bfloat16_does_not(tmp_path):
    # Nano, because the tiny model is made to blow rounding up.
    EmbeddingModel(load_nano(), max_tokens=128).save(tmp_path / "model")
    read_model(tmp_path / "model", dtype=torch.bfloat16)
    weights_swapped(tmp_path / "model", tmp_path)
    renew_manifest(tmp_path / "model")
    with pytest.raises(CocoaError) as caught:
        read_model(tmp_path / "model", dtype=torch.bfloat16)
    assert caught.value.code == "E_MODEL_GOLDEN"
