"""Loading: what was saved comes back exactly, and nothing else is ever given back."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cocoa.backbones import Backbone, load_backbone, open_backbone
from cocoa.batch import collate, single_row
from cocoa.errors import ModelError
from cocoa.layouts import LAYOUTS
from cocoa.model import CARD, EmbeddingModel
from cocoa.sample import Sample

Tiny = Callable[..., Backbone]
MakeSample = Callable[..., Sample]


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    tiny().save(tmp_path / "backbone")
    return tmp_path / "backbone"


def states(backbone: Backbone, one: Sample) -> Tensor:
    batch = collate(backbone, [single_row(backbone, backbone.encode(one), 200)])
    with torch.no_grad():
        return EmbeddingModel(backbone).states(batch, LAYOUTS["bidirectional"].allowed(batch.roles))


def saved_name(weights: dict[str, Tensor]) -> str:
    """Returns the name of one norm weight, however the file spells its prefix."""
    (name,) = (name for name in weights if name.endswith("layers.1.input_layernorm.weight"))
    return name


def refusal(folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load_backbone(str(folder))
    return caught.value


def test_a_saved_backbone_gives_equal_states(tiny: Tiny, sample: MakeSample, folder: Path) -> None:
    one = sample("How many birds <|image_1|> are there?", (90, 60))
    again = load_backbone(str(folder))
    assert torch.equal(states(again, one), states(tiny(), one))
    assert again.grid == tiny().grid
    assert again.text.control == tiny().text.control
    assert not again.training


def test_pixel_limits_are_saved(tiny: Tiny, tmp_path: Path) -> None:
    tiny().with_pixel_limits(28 * 28, 112 * 112).save(tmp_path)
    grid = load_backbone(str(tmp_path)).grid
    assert (grid.min_pixels, grid.max_pixels) == (28 * 28, 112 * 112)


@pytest.mark.parametrize("trouble", ["missing", "renamed", "reshaped", "unexpected"])
def test_a_weight_that_does_not_match_is_named(folder: Path, trouble: str) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = saved_name(weights)
    if trouble == "reshaped":
        weights[name] = torch.ones(7)
    elif trouble == "unexpected":
        weights["model.language_model.layers.9.extra"] = torch.ones(7)
        name = "layers.9.extra"
    else:
        weight = weights.pop(name)
        if trouble == "renamed":
            weights[name.replace("input_layernorm", "inputs_norm")] = weight
    save_file(weights, path, metadata={"format": "pt"})
    error = refusal(folder)
    assert error.code == "E_MODEL_WEIGHTS"
    assert name.removeprefix("model.") in str(error)


def test_damaged_weights_are_an_error(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert refusal(folder).code == "E_MODEL_WEIGHTS"


def test_missing_weights_are_an_error(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert refusal(folder).code == "E_MODEL_WEIGHTS"


def test_another_family_is_named(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "llama"
    (folder / "config.json").write_text(json.dumps(config))
    error = refusal(folder)
    assert error.code == "E_MODEL_FAMILY"
    assert "'llama'" in str(error)
    assert "qwen2_vl" in str(error)


def hostile(folder: Path, name: str, tree: dict[str, Any]) -> Path:
    """Returns what a backbone's own code would write if it were run; the settings in file `name` get `tree`."""
    (folder / "own.py").write_text(
        f"open({str(folder / 'ran')!r}, 'w').close()\n"
        "from transformers import Qwen2VLConfig as OwnConfig, Qwen2VLForConditionalGeneration as OwnModel\n"
        "from transformers import Qwen2Tokenizer as OwnTokenizer, Qwen2VLImageProcessorPil as OwnProcessor\n"
    )
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | tree))
    return folder / "ran"


OWN_MODEL = {"AutoConfig": "own.OwnConfig", "AutoModelForImageTextToText": "own.OwnModel"}


@pytest.fixture
def says_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who answers every question with yes."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))


@pytest.mark.usefixtures("says_yes")
def test_another_familys_own_code_is_not_run_and_not_asked_about(folder: Path) -> None:
    ran = hostile(folder, "config.json", {"model_type": "own", "auto_map": OWN_MODEL})
    assert refusal(folder).code == "E_MODEL_FAMILY"
    assert not ran.exists()


@pytest.mark.usefixtures("says_yes")
def test_a_tokenizers_own_code_is_not_run(tiny: Tiny, folder: Path) -> None:
    own = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
    ran = hostile(folder, "tokenizer_config.json", own)
    assert load_backbone(str(folder)).text.control == tiny().text.control
    assert not ran.exists()


@pytest.mark.usefixtures("says_yes")
@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("config.json", OWN_MODEL),
        ("tokenizer_config.json", {"AutoTokenizer": ["own.OwnTokenizer", None]}),
        ("preprocessor_config.json", {"AutoImageProcessor": "own.OwnProcessor"}),
    ],
)
def test_a_familys_stock_code_is_taken_where_the_folder_has_its_own(
    tiny: Tiny, sample: MakeSample, folder: Path, name: str, own: dict[str, Any]
) -> None:
    ran = hostile(folder, name, {"auto_map": own})
    one = sample("How many birds <|image_1|> are there?", (90, 60))
    assert torch.equal(states(load_backbone(str(folder)), one), states(tiny(), one))
    load_backbone(str(folder), weights=False)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("config.json", lambda content: content["vision_config"].update(depth=2**31), "layers"),
        ("config.json", lambda content: content["text_config"].update(hidden_size="wide"), "hidden_size"),
        ("preprocessor_config.json", lambda content: content.update(patch_size=0), "sizes"),
        ("preprocessor_config.json", lambda content: content.update(image_std=[0.5, 0.5, 0]), "three colours"),
    ],
    ids=["endless", "wrong type", "no patch", "no colours"],
)
def test_settings_that_cannot_be_used_are_refused(
    folder: Path, file: str, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    path = folder / file
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    error = refusal(folder)
    assert error.code == "E_MODEL_FORMAT"
    assert file in str(error) and said in str(error)


def test_quantized_weights_are_refused(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "awq"}}))
    error = refusal(folder)
    assert error.code == "E_MODEL_WEIGHTS"
    assert "quantized" in str(error)


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The hub's own local copy of one model, in which two commits differ in one weight; nothing can be fetched."""
    cache = tmp_path / "hub" / "models--somebody--owls"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(NEW)
    for commit, weight in ((OLD, 1.0), (NEW, 2.0)):
        copy = cache / "snapshots" / commit
        shutil.copytree(folder, copy)
        weights = load_file(copy / "model.safetensors")
        weights[saved_name(weights)].fill_(weight)
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return "somebody/owls"


OLD, NEW = "a" * 40, "b" * 40


@pytest.mark.parametrize(("revision", "weight"), [(None, 2.0), ("main", 2.0), (OLD, 1.0), (NEW, 2.0)])
def test_a_hub_id_is_opened_at_its_revision(hub: str, revision: str | None, weight: float) -> None:
    opened = load_backbone(hub, revision=revision)
    assert opened.layers[1].input_layernorm.weight.unique().tolist() == [weight]
    assert opened.commit == (OLD if revision == OLD else NEW)


def test_a_revision_that_is_not_there_is_named(hub: str) -> None:
    with pytest.raises(ModelError, match="somebody/owls") as caught:
        load_backbone(hub, revision="c" * 40)
    assert caught.value.code == "E_MODEL_MISSING"


def test_a_folder_and_what_ships_have_no_revisions(folder: Path) -> None:
    for name in (str(folder), "nano", "nano-untrained"):
        with pytest.raises(ModelError, match="only a model on the hub") as caught:
            open_backbone(name, revision="main")
        assert caught.value.code == "E_MODEL_REVISION"
    assert load_backbone(str(folder)).commit is None


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    error = refusal(tmp_path / "nowhere")
    assert error.code == "E_MODEL_MISSING"
    assert "nowhere" in str(error)


def test_a_folder_without_a_configuration_is_told_so(tmp_path: Path) -> None:
    for content in (None, "{}"):
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        with pytest.raises(ModelError, match=r"no config\.json that names a model_type") as caught:
            load_backbone(str(tmp_path))
        assert caught.value.code == "E_MODEL_MISSING"


@pytest.mark.parametrize("names", [["tokenizer.json", "tokenizer_config.json"], ["tokenizer.json"]], ids=str)
def test_a_missing_tokenizer_is_named(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).unlink()
    error = refusal(folder)
    assert error.code == "E_MODEL_TOKENIZER"
    assert "tokenizer" in str(error)
    assert str(folder) in str(error)


def test_a_tokenizer_that_would_be_counted_for_minutes_is_refused(folder: Path) -> None:
    tree = json.loads((folder / "tokenizer.json").read_text())
    tree["model"]["vocab"][next(iter(tree["model"]["vocab"]))] = 2**31
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    error = refusal(folder)
    assert error.code == "E_MODEL_TOKENIZER"
    assert "2147483648" in str(error)


def test_a_tokenizer_without_the_control_tokens_is_refused(folder: Path) -> None:
    tree = json.loads((folder / "tokenizer.json").read_text())
    text = json.dumps(tree).replace("<|vision_start|>", "<|other|>")
    (folder / "tokenizer.json").write_text(text)
    config = (folder / "tokenizer_config.json").read_text().replace("<|vision_start|>", "<|other|>")
    (folder / "tokenizer_config.json").write_text(config)
    error = refusal(folder)
    assert error.code == "E_MODEL_TOKENIZER"
    assert "<|vision_start|>" in str(error)


def test_missing_picture_settings_are_named(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    error = refusal(folder)
    assert error.code == "E_MODEL_MISSING"
    assert "preprocessor_config.json" in str(error)


@pytest.fixture
def model_folder(tiny: Tiny, tmp_path: Path) -> Path:
    EmbeddingModel(tiny(), layout="causal", max_tokens=77).save(tmp_path / "model", receipt={"note": 1})
    return tmp_path / "model"


def vectors(model: EmbeddingModel, samples: list[Sample]) -> Tensor:
    with torch.no_grad():
        return model.embed_all([model.backbone.encode(one) for one in samples])


def test_a_model_folder_gives_equal_vectors(tiny: Tiny, sample: MakeSample, model_folder: Path) -> None:
    samples = [sample("a red apple", (60, 80)), sample("two cats"), sample("", (90, 57))]
    again = EmbeddingModel.load(model_folder)
    assert (again.layout, again.max_tokens) == ("causal", 77)
    assert torch.equal(vectors(again, samples), vectors(EmbeddingModel(tiny(), layout="causal"), samples))
    assert json.loads((model_folder / CARD).read_text())["receipt"] == {"note": 1}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "preprocessor_config.json"])
@pytest.mark.parametrize("trouble", ["deleted", "truncated"])
def test_a_model_folder_with_a_hole_is_refused(model_folder: Path, name: str, trouble: str) -> None:
    path = model_folder / name
    content = path.read_bytes()
    path.unlink()
    if trouble == "truncated":
        path.write_bytes(content[:-1])
    with pytest.raises(ModelError, match=name.replace(".", r"\.")) as caught:
        EmbeddingModel.load(model_folder)
    assert caught.value.code == "E_MODEL_INCOMPLETE"


def test_a_model_folder_without_its_manifest_is_refused(model_folder: Path) -> None:
    (model_folder / "files.json").unlink()
    with pytest.raises(ModelError) as caught:
        EmbeddingModel.load(model_folder)
    assert caught.value.code == "E_MODEL_INCOMPLETE"


def test_a_bare_backbone_is_not_a_model_folder(folder: Path) -> None:
    with pytest.raises(ModelError, match="trained first") as caught:
        EmbeddingModel.load(folder)
    assert caught.value.code == "E_MODEL_MISSING"


def test_the_folder_of_a_run_names_its_model(model_folder: Path) -> None:
    run = model_folder.parent / "run"
    run.mkdir()
    model_folder.rename(run / "model")
    with pytest.raises(ModelError, match=f"its model is {run / 'model'}") as caught:
        EmbeddingModel.load(run)
    assert caught.value.code == "E_MODEL_MISSING"


@pytest.mark.parametrize("existing", [True, False])
def test_a_save_that_fails_leaves_nothing_and_keeps_the_older_folder(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool
) -> None:
    model = EmbeddingModel(tiny())
    if existing:
        model.save(tmp_path / "model")
    before = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fail(self: Backbone, draft: Path) -> Any:
        (draft / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Backbone, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        model.save(tmp_path / "model")
    assert {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == (["model"] if existing else [])


def test_a_save_replaces_the_older_folder_whole(tiny: Tiny, model_folder: Path) -> None:
    (model_folder / "stray.txt").write_text("old")
    EmbeddingModel(tiny(), layout="bidirectional").save(model_folder)
    assert EmbeddingModel.load(model_folder).layout == "bidirectional"
    assert not (model_folder / "stray.txt").exists()
    assert [path.name for path in model_folder.parent.iterdir()] == ["model"]
