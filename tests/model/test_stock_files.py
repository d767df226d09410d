"""The chat template renders an input into the very tokens that this package makes, so stock code reads the same row."""

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer

from cocoa.backbones.tokens import TextTokens
from cocoa.model import EmbeddingModel
from cocoa.model.stock_files import chat_template, stock_prompts
from cocoa.prompts import PROMPTS, prompted, worded
from cocoa.sample import Sample
from making import make_picture

ODD = PROMPTS | {"query/text": 'say "é 🍎 \\n"\n{text} {% if %} {{ x }} %}'}
PICTURES = (make_picture(60, 40), make_picture(40, 60, 1), make_picture(56, 56, 2))
INPUTS = [
    Sample("a red apple"),
    Sample(" "),
    Sample("two  spaces,\ta tab\n\nand new lines\n"),
    Sample("{text} {{ messages }} {% endfor %} <b>&amp;'\""),
    Sample("日本語 🍎"),
    Sample("", PICTURES[:1]),
    Sample("an owl", PICTURES[:1]),
    Sample("", PICTURES[:2]),
    Sample("which is larger?\n", PICTURES),
]


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock") / "model"
    EmbeddingModel(tiny(), max_tokens=200, prompts=ODD).save(folder)
    model = EmbeddingModel.load(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (folder / "chat_template.jinja").read_text()
    return model, tokenizer


def rendered(tokenizer, sample, prompt=None):
    """Returns the tokens that stock code makes of a sample; a picture is one token, text may be a string or a part."""
    parts = [{"type": "image", "image": "…"} for _ in sample.images]
    parts += [{"type": "text", "text": sample.text}] if sample.text else []
    system = [{"role": "system", "content": [{"type": "text", "text": prompt}]}] if prompt else []
    text = tokenizer.apply_chat_template([*system, {"role": "user", "content": parts}], tokenize=False)
    assert text.endswith("<|im_end|>")
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def ours(model, sample):
    """Returns the tokens of our row, each picture one token, as before a processor widens it."""
    control = model.backbone.text.control
    ids = [*model.backbone.encode(sample).ids.tolist(), control.bridge]
    return [token for place, token in enumerate(ids) if token != control.image or ids[place - 1] != control.image]


@pytest.mark.parametrize("sample", INPUTS, ids=range(len(INPUTS)))
def test_without_a_prompt(model, sample):
    model, tokenizer = model
    assert rendered(tokenizer, sample) == ours(model, sample)


@pytest.mark.parametrize("name", stock_prompts(PROMPTS))
@pytest.mark.parametrize("sample", INPUTS, ids=range(len(INPUTS)))
def test_in_the_words_of_a_side_or_task(model, sample, name):
    model, tokenizer = model
    task, _, side = name.rpartition("/")
    expected = prompted(sample, side, task or None, model.prompts)
    assert rendered(tokenizer, sample, stock_prompts(PROMPTS)[name]) == ours(model, expected)


@pytest.mark.parametrize("prompt", ["Find: ", "{text}?", "Look <|image_1|> and say: {text}\n", "<|image_1|>\n"])
@pytest.mark.parametrize("sample", INPUTS, ids=range(len(INPUTS)))
def test_in_words_of_ones_own(model, sample, prompt):
    model, tokenizer = model
    assert rendered(tokenizer, sample, prompt) == ours(model, worded(sample, prompt))


def test_with_the_real_tokenizer(real_qwen):
    text = TextTokens.load(str(real_qwen / "tokenizer"))
    text.stock.chat_template = chat_template(ODD)
    control = text.control
    for sample in INPUTS:
        for prompt, asked in ((None, sample), ("cocoa:query", prompted(sample, "query", None, ODD))):
            expected = []
            for piece in text.split(asked.text, len(asked.images)):
                picture = [control.vision_start, control.image, control.vision_end]
                expected += text.ids(piece) if isinstance(piece, str) else picture
            assert rendered(text.stock, sample, prompt) == [*expected, control.bridge]


def test_a_message_may_be_a_string(model):
    _, tokenizer = model
    messages = [{"role": "system", "content": "cocoa:document"}, {"role": "user", "content": "an owl"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "an owl<|im_end|>"


def test_the_prompts_are_found_by_the_names_that_stock_code_asks_for(saved):
    config = json.loads((saved / "config_sentence_transformers.json").read_text())
    assert {"query", "document", "vqa/query"} <= set(config["prompts"])
    assert config["similarity_fn_name"] == "cosine"
