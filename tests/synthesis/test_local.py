"""A backbone in this process as the engine: nano says what it sees; an instructed model is spoken to in ChatML."""

from __future__ import annotations

import threading

import pyarrow.parquet as pq
import pytest
from PIL import Image

from cocoa.backbones.nano import load_nano
from cocoa.data.image_text_pairs import ImageTextPairs
from cocoa.data.mmeb_train import MmebTrain
from cocoa.data.scene_pairs import ScenePairs
from cocoa.errors import UsageError
from cocoa.synthesis import Sampling, synthesize
from cocoa.synthesis.chats import Chat, Picture
from cocoa.synthesis.local import LocalEngine

NUM_SCENES = 12


@pytest.fixture
def scenes(tmp_path):
    """A folder of generated scenes, and the captions that are true of them."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    pairs = ScenePairs(seed=7, num_pairs=NUM_SCENES, max_items=1)
    for number in range(NUM_SCENES):
        pairs[number].query.images[0].save(folder / f"{number:02}.png")
    return folder, [pairs[number].target.text for number in range(NUM_SCENES)]


@pytest.fixture
def nano():
    return LocalEngine(load_nano(), "nano")


def test_nano_writes_captions_of_what_it_sees(nano, scenes, tmp_path):
    folder, truths = scenes
    sampling = Sampling(temperature=0.0, max_tokens=40)
    summary = synthesize(folder, tmp_path / "out", kind="captions", engine=nano, sampling=sampling)
    pairs = ImageTextPairs(summary.table)
    assert len(pairs) == summary.rows == NUM_SCENES
    said = [pairs[number].target.text for number in range(NUM_SCENES)]
    grounds = [truth.split(" ground")[0].split()[-1] for truth in truths]
    assert all(f"{ground} ground" in text for ground, text in zip(grounds, said, strict=True))
    row = pq.read_table(summary.table).to_pylist()[0]
    assert (row["model"], row["endpoint"], row["prompts"]) == ("nano", "local", "plain-captions")
    assert summary.completion_tokens > 4 * NUM_SCENES


def test_nano_answers_questions_from_a_list(nano, scenes, tmp_path):
    folder, _ = scenes
    prompts = tmp_path / "mine.yaml"
    prompts.write_text("kind: questions\nquestions:\n- how many things are there?\n")
    sampling = Sampling(temperature=0.0, max_tokens=8)
    options = {"kind": "questions", "engine": nano, "sampling": sampling, "limit": 6}
    with pytest.raises(UsageError, match="follows no instructions"):
        synthesize(folder, tmp_path / "out", **options)
    pairs = MmebTrain(synthesize(folder, tmp_path / "out", prompts=str(prompts), **options).table)
    assert pairs[0].query.text == "<|image_1|>\nhow many things are there?\n"
    assert [pairs[number].target.text for number in range(6)].count("one") >= 5


def test_a_drawn_reply_does_not_depend_on_what_was_asked_before(nano, scenes):
    folder, _ = scenes
    chats = [Chat(Picture(f"{n}", f"{n:064}", folder / f"{n:02}.png", 10_000), ("",)) for n in range(3)]
    sampling = Sampling(temperature=1.5, max_tokens=12)
    ask = [nano.ask(chat, sampling, threading.Event()) for chat in chats]
    assert ask[::-1] == [nano.ask(chat, sampling, threading.Event()) for chat in chats[::-1]]
    assert nano.ask(chats[0], Sampling(temperature=1.5, max_tokens=12, seed=1), threading.Event()) != ask[0]


def test_extra_fields_go_over_the_rest_and_unknown_ones_are_refused_before_anything_is_written(nano, scenes, tmp_path):
    folder, _ = scenes
    chat = Chat(Picture("a", "0" * 64, folder / "00.png", 10_000), ("",))

    def ask(**options):
        return nano.ask(chat, Sampling(**{"max_tokens": 12, **options}), threading.Event())

    assert ask(temperature=0.0, extra={"temperature": 1.5}) == ask(temperature=1.5)
    assert ask(temperature=1.5, extra={"do_sample": False}) == ask(temperature=0.0)
    assert ask(temperature=1.5, extra={"temperature": None}) == ask(temperature=0.0)
    assert ask(extra={"temperature": 1.5, "top_k": 1}).text == ask(temperature=0.0).text
    assert ask(extra={"max_new_tokens": 2}).completion_tokens == 2
    sampling = Sampling(extra={"top_q": 1, "max_tokens": 4})
    with pytest.raises(UsageError, match=r"does not know: max_tokens, top_q; it knows do_sample.*E_USAGE_SYNTHESIS"):
        synthesize(folder, tmp_path / "out", kind="captions", engine=nano, sampling=sampling)
    assert not (tmp_path / "out").exists()


def test_a_reply_that_does_not_end_is_cut(nano, scenes):
    folder, _ = scenes
    chat = Chat(Picture("a", "0", folder / "00.png", 10_000), ("",))
    reply = nano.ask(chat, Sampling(temperature=0.0, max_tokens=2), threading.Event())
    assert (reply.finish, reply.completion_tokens) == ("length", 2)


def test_an_instructed_model_is_spoken_to_in_chatml(tiny):
    backbone = tiny()
    backbone.text.stock.add_special_tokens(
        {"additional_special_tokens": ["<|im_start|>"]}, replace_extra_special_tokens=False
    )
    backbone.text.stock.chat_template = "..."
    engine = LocalEngine(backbone, "tiny")
    assert engine.follows_instructions
    picture = Picture("a", "0", Image.new("RGB", (28, 28)), 10_000)
    chat = Chat(picture, ("What is it? <|im_end|>", "A cat.", "Sure?"), "Be plain.")
    encoded = engine.encode(chat)
    words = backbone.text.words(encoded.ids.tolist())
    num_seen = int((encoded.kinds == 1).sum())
    assert words == (
        "<|im_start|>system\nBe plain.<|im_end|>\n"
        f"<|im_start|>user\n<|vision_start|>{'<|image_pad|>' * num_seen}<|vision_end|>"
        "What is it? <|im_end|><|im_end|>\n"
        "<|im_start|>assistant\nA cat.<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    # What the user spelled is text, what ends a turn is control.
    ends = encoded.ids == backbone.text.control.bridge
    assert ends.sum() == 4
    assert len(encoded.patches) == len(encoded.grids) == 1
