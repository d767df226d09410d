"""`SentenceTransformer(folder)` gives the vectors of `Embedder.load(folder)`, by stock modules and no code of ours.

In a process of its own, because torchvision, which stock processors of pictures insist on, must be prepared there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cocoa import Embedder
from cocoa.backbones.nano import load_nano, new_nano, train_tokenizer
from cocoa.backbones.tokens import TextTokens
from cocoa.model import EmbeddingModel
from making import SENTENCES, make_picture, new_small

HERE = Path(__file__).parent
TORCHVISION = Path(sys.prefix) / "torchvision"
USE = HERE.parents[1] / "docs" / "use.md"
FOLDERS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SAME = ("batch", "alone", "backwards", "query", "document", "task", "prompt")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None
    or (importlib.util.find_spec("torchvision") is None and not TORCHVISION.is_dir()),
    reason="sentence-transformers or torchvision is not here",
)


def recipe_of(title: str, **names: str) -> str:
    """Returns the Python code below a heading of the page on use, with other names for what it opens."""
    section = USE.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    [code] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    for old, new in names.items():
        code = code.replace({"model": "runs/quickstart/cocoa", "picture": "apple.png"}[old], new)
    return code


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("stock")
    EmbeddingModel(load_nano(), max_tokens=512).save(home / "qwen2_vl")
    text = train_tokenizer(SENTENCES, vocab_size=420)
    for family in ("qwen2_5_vl", "qwen3_vl"):
        torch.manual_seed(0)
        EmbeddingModel(new_small(family, text, 32, "sdpa"), max_tokens=512).save(home / family)
    shutil.copytree(home / "qwen2_vl", home / "causal")
    config = json.loads((home / "causal" / "config.json").read_text())
    config["text_config"]["is_causal"] = True
    (home / "causal" / "config.json").write_text(json.dumps(config))
    make_picture(60, 80, 1).save(home / "apple.png")
    return home


def ask(home: Path, folders: dict[str, list[str]], recipe: str) -> dict[str, Any]:
    """Returns the answer of a process with torchvision about folders (theirs and ours) and a recipe."""
    request = {"folders": folders, "verify": str(home / "qwen2_vl"), "recipe": recipe}
    (home / "request.json").write_text(json.dumps(request))
    command = [sys.executable, HERE / "stock_runner.py", TORCHVISION, home / "request.json", home / "answer.json"]
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((home / "answer.json").read_text())


@pytest.fixture(scope="module")
def answer(home):
    folders = {name: [str(home / name)] * 2 for name in FOLDERS}
    folders["causal"] = [str(home / "causal"), str(home / "qwen2_vl")]
    recipe = recipe_of("sentence-transformers", model=str(home / "qwen2_vl"), picture=str(home / "apple.png"))
    return ask(home, folders, recipe)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_input_has_the_same_vector_alone_in_a_batch_and_with_prompts(answer, name):
    found = answer["differences"][name]
    assert {way: found[way] for way in SAME if found[way] > 1e-5} == {}


@pytest.mark.slow
def test_so_has_a_model_with_the_real_tokenizer(home, real_qwen):
    text = TextTokens.load(str(real_qwen / "tokenizer"))
    small = new_nano(text, hidden_size=32, num_layers=2, num_vision_layers=1)
    EmbeddingModel(small, max_tokens=512).save(home / "real")
    found = ask(home, {"real": [str(home / "real")] * 2}, "queries = documents = []")["differences"]["real"]
    assert {way: found[way] for way in SAME if found[way] > 1e-5} == {}


def test_with_causal_attention_it_would_not(answer):
    # This is what the flag in the configuration is for; we refuse such a folder.
    assert min(answer["differences"]["causal"][way] for way in SAME) > 1e-2


def test_a_control_token_spelled_in_a_text_is_text_to_us_and_a_control_token_to_them(answer):
    # What docs/use.md says differs, differs.
    assert answer["differences"]["qwen2_vl"]["spelled control token"] > 1e-3


def test_verify_against_it_passes_for_every_kind_of_input(answer):
    assert answer["verify"]["passed"] is True
    assert set(answer["verify"]["kinds"]) == {"text", "image", "both", "several"}
    assert min(kind["smallest_cosine"] for kind in answer["verify"]["kinds"].values()) > 1 - 1e-9


def test_the_recipe_of_the_page_on_use_does_what_our_own_does(answer, home):
    ours = {}
    code = recipe_of("Python", model=str(home / "qwen2_vl"), picture=str(home / "apple.png"))
    exec(compile(code, "recipe", "exec"), ours)
    assert isinstance(ours["embedder"], Embedder)
    np.testing.assert_allclose(answer["recipe"]["queries"], ours["queries"], atol=1e-5)
    np.testing.assert_allclose(answer["recipe"]["documents"], ours["documents"], atol=1e-5)


FRAMEWORKS = {"LangChain": "langchain_huggingface", "LlamaIndex": "llama_index.embeddings.huggingface"}
FRAMEWORKS |= {"Haystack": "haystack_integrations.components.embedders.sentence_transformers"}


def is_here(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_recipe_of_a_framework_gives_the_same_vectors_where_it_is_installed(home, framework):
    if not is_here(FRAMEWORKS[framework]):
        pytest.skip(f"{framework} is not installed")
    found = ask(home, {}, recipe_of(framework, model=str(home / "qwen2_vl")))["recipe"]
    embedder = Embedder.load(home / "qwen2_vl")
    np.testing.assert_allclose(found["queries"], embedder.encode_query(["a red apple"]), atol=1e-5)
    np.testing.assert_allclose(found["documents"], embedder.encode_document(["an apple", "an owl"]), atol=1e-5)
