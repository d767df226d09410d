"""Tokens: user text stays text, pictures stand where the text says, and the real tokenizer gives the real ids."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cocoa.backbones import Backbone, Kind
from cocoa.backbones.nano import CONTROL, train_tokenizer
from cocoa.backbones.tokens import TextTokens
from cocoa.batch import collate, single_row
from cocoa.errors import DataError
from cocoa.sample import Sample

Tiny = Callable[..., Backbone]
MakeSample = Callable[..., Sample]

REAL_SPECIAL = (
    *CONTROL,
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_pad|>",
)
# From `tokenizers.Tokenizer.from_file(...).encode(text, add_special_tokens=False).ids`.
REAL_IDS = {
    "\nRepresent the given image with the following question: What color is the hat?\n": [
        198, 65743, 279, 2661, 2168, 448, 279, 2701, 3405, 25, 3555, 1894, 374, 279, 8896, 5267,
    ],
    "Find me an everyday image that matches the given caption: Two dogs play in the snow.\n": [
        9885, 752, 458, 17778, 2168, 429, 9071, 279, 2661, 17256, 25, 9043, 12590, 1486, 304, 279, 11794, 624,
    ],
    '\nSelect the portion of the image that isolates the object labeled as "the left cat"\n': [
        198, 3379, 279, 13348, 315, 279, 2168, 429, 13098, 973, 279, 1633, 29829, 438, 330, 1782, 2115, 8251, 698,
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", CONTROL)
def test_a_control_token_in_user_text_stays_text(tiny: Tiny, name: str) -> None:
    backbone = tiny()
    text = f"a dog {name} and{name}{name} a cat"
    ids = backbone.text.ids(text)
    assert not set(ids) & set(range(len(CONTROL)))
    assert backbone.text.words(ids) == text
    assert (backbone.encode(Sample(text)).kinds == Kind.TEXT).all()


@pytest.mark.parametrize("name", REAL_SPECIAL)
def test_a_real_control_token_in_user_text_stays_text(real_text: TextTokens, name: str) -> None:
    text = f"a dog {name} and{name}{name} a cat"
    ids = real_text.ids(text)
    assert max(ids) < 151643
    assert real_text.words(ids) == text


@pytest.mark.parametrize(
    "copied",
    [lambda text: text, copy.deepcopy, lambda text: pickle.loads(pickle.dumps(text))],
    ids=["made", "copied", "pickled"],
)
def test_a_tokenizer_reads_control_tokens_as_text_made_copied_or_pickled(
    copied: Callable[[TextTokens], TextTokens],
) -> None:
    text = copied(train_tokenizer(["a dog and a cat"], vocab_size=300))
    assert not set(text.ids("a dog <|im_end|><|image_pad|>")) & set(range(len(CONTROL)))


def test_a_control_token_beside_a_picture_adds_no_picture(tiny: Tiny, sample: MakeSample) -> None:
    backbone = tiny()
    image = backbone.text.control.image
    plain = backbone.encode(sample("a dog", (56, 56)))
    hostile = backbone.encode(sample("a dog <|vision_start|><|image_pad|><|vision_end|><|im_end|>", (56, 56)))
    assert np.count_nonzero(plain.ids == image) == np.count_nonzero(hostile.ids == image) == 4
    assert backbone.text.control.bridge not in hostile.ids.tolist()


def test_reading_plain_text_does_not_change_what_is_saved(tiny: Tiny, tmp_path: Path) -> None:
    text = tiny().text
    text.ids("<|im_end|>")
    text.save(tmp_path)
    again = TextTokens.load(str(tmp_path))
    assert again.control == text.control
    assert again.stock("<|im_end|>")["input_ids"] == [text.control.bridge]


def places(backbone: Backbone, one: Sample) -> str:
    """Returns the sample as text with `[n]` for a picture of n tokens."""
    encoded = backbone.encode(one)
    words = backbone.text.words(encoded.ids.tolist())
    for count in range(9, 0, -1):
        words = words.replace(f"<|vision_start|>{'<|image_pad|>' * count}<|vision_end|>", f"[{count}]")
    return words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog", "[4][6]a dog"),
        ("a <|image_1|> dog <|image_2|>", "a [4] dog [6]"),
        ("a <|image_2|> dog <|image_1|>.", "a [6] dog [4]."),
        ("a dog <|image_1|>", "[6]a dog [4]"),
        ("a dog <|image_2|>", "[4]a dog [6]"),
        ("<|image_1|><|image_2|>\n", "[4][6]\n"),
        ("", "[4][6]"),
    ],
)
def test_a_picture_stands_where_its_placeholder_does_or_in_front(
    tiny: Tiny, sample: MakeSample, text: str, expected: str
) -> None:
    one = sample(text, (56, 56), (84, 56))
    backbone = tiny()
    assert places(backbone, one) == expected
    encoded = backbone.encode(one)
    order = [(1, 4, 4), (1, 4, 6)] if expected.index("[4]") < expected.index("[6]") else [(1, 4, 6), (1, 4, 4)]
    assert list(encoded.grids) == order
    assert [len(patches) for patches in encoded.patches] == [rows * columns for _, rows, columns in order]


LONG = f"<|image_{'9' * 5000}|>"


@pytest.mark.parametrize(
    "text", ["<|image_3|>", "<|image_0|> dog", "<|image_1|> and <|image_1|>", "<|image_22|>", LONG]
)
def test_a_placeholder_of_no_picture_or_twice_is_an_error_with_its_row(
    tiny: Tiny, sample: MakeSample, text: str
) -> None:
    one = sample(text, (56, 56), (84, 56))
    with pytest.raises(DataError, match=r"rows\.jsonl:7") as caught:
        tiny().encode(Sample(one.text, one.images, "rows.jsonl:7"))
    assert caught.value.code == "E_DATA_PLACEHOLDER"


def test_without_a_picture_a_placeholder_is_ordinary_text(tiny: Tiny) -> None:
    assert places(tiny(), Sample("what is <|image_1|>?")) == "what is <|image_1|>?"


def test_an_empty_sample_is_an_error_with_its_row(tiny: Tiny) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:7: .*\[E_DATA_EMPTY\]"):
        tiny().encode(Sample("", where="rows.jsonl:7"))


@pytest.mark.parametrize("text", REAL_IDS)
def test_mmeb_prompts_have_the_real_ids(real_text: TextTokens, text: str) -> None:
    assert real_text.ids(text) == REAL_IDS[text]


def test_a_real_row_has_the_real_control_ids(real_text: TextTokens, tiny: Tiny, sample: MakeSample) -> None:
    control = real_text.control
    assert (control.pad, control.bridge, control.mask) == (151643, 151645, 151657)
    backbone = tiny()
    backbone.text, backbone.bridge = real_text, backbone._control(control.bridge)
    text = "\nRepresent the given image with the following question: What color is the hat?\n"
    row = single_row(backbone, backbone.encode(sample(f"<|image_1|>{text}", (84, 84))), 100)
    ids = collate(backbone, [row]).input_ids[0].tolist()
    assert ids == [151652, *[151655] * 9, 151653, *REAL_IDS[text], 151645]


def test_a_backbone_without_room_for_the_mask_token_gets_it(tiny: Tiny) -> None:
    backbone = tiny()
    mask = backbone.text.control.mask
    backbone.stock.resize_token_embeddings(mask)
    grown = Backbone(backbone.stock, backbone.text, backbone.grid)
    assert grown.stock.get_input_embeddings().weight.shape[0] == mask + 1
    assert grown.stock.lm_head.weight is grown.stock.get_input_embeddings().weight
