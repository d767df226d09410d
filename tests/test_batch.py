"""Rows and batches: what a limit cuts and what it never cuts, and where padding goes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from cocoa.backbones import Backbone, Encoded, Kind
from cocoa.batch import Row, apart_row, closed_row, collate, joined_row, row_length, single_row, target_row
from cocoa.errors import DataError
from cocoa.layouts import Role
from cocoa.layouts.layout import LETTERS
from cocoa.sample import Sample

Tiny = Callable[..., Backbone]
MakeSample = Callable[..., Sample]


@pytest.fixture
def backbone(tiny: Tiny) -> Backbone:
    return tiny()


def words(count: int) -> Encoded:
    return Encoded(np.arange(100, 100 + count), np.zeros(count, np.uint8), where="file.jsonl:3")


def drawn(row: Row) -> str:
    return "".join(LETTERS[role] * len(segment) for segment, role in row)


@pytest.mark.parametrize("length", [1, 9, 10, 11, 50])
def test_a_single_row_is_cut_to_the_limit_and_keeps_its_bridge(backbone: Backbone, length: int) -> None:
    row = single_row(backbone, words(length), 10)
    assert drawn(row) == "A" * min(length, 9) + "e"
    assert row[0][0].ids.tolist() == list(range(100, 100 + min(length, 9))), "cut from the right"
    assert row[1][0].ids.tolist() == [backbone.text.control.bridge]


@pytest.mark.parametrize(
    ("query", "target", "expected"),
    [
        (5, 5, "AAAAAeBBBBB"),
        (10, 10, "A" * 10 + "e" + "B" * 10),
        (10, 20, "A" * 10 + "e" + "B" * 10),  # the target fills what the query leaves
        (50, 50, "A" * 15 + "e" + "B" * 5),  # but keeps a quarter
        (50, 2, "A" * 18 + "e" + "B" * 2),
        (2, 50, "A" * 2 + "e" + "B" * 18),
        (16, 50, "A" * 15 + "e" + "B" * 5),
        (15, 50, "A" * 15 + "e" + "B" * 5),
    ],
)
def test_a_joined_row_keeps_e_and_a_quarter_for_the_target(
    backbone: Backbone, query: int, target: int, expected: str
) -> None:
    row = joined_row(backbone, words(query), words(target), 21, bridged=True)
    assert drawn(row) == expected
    assert row_length(row) == len(expected) <= 21


def test_a_joined_row_without_bridge_uses_the_whole_limit(backbone: Backbone) -> None:
    assert drawn(joined_row(backbone, words(50), words(50), 20, bridged=False)) == "A" * 15 + "B" * 5


def test_a_closed_row_ends_with_e_within_the_limit(backbone: Backbone) -> None:
    assert drawn(closed_row(backbone, words(50), words(50), 21)) == "A" * 15 + "B" * 5 + "e"
    assert drawn(closed_row(backbone, words(2), words(3), 21)) == "AABBBe"


@pytest.mark.parametrize("num_bridges", [1, 4])
@pytest.mark.parametrize("length", [1, 9, 10, 50])
def test_a_target_apart_is_cut_as_behind_one_bridge(backbone: Backbone, length: int, num_bridges: int) -> None:
    row = target_row(backbone, words(length), 10)
    assert drawn(row) == "e" + "B" * min(length, 9)
    *read, (kept, role) = apart_row(backbone, words(50), words(length), 10, num_bridges)
    assert (kept.ids.tolist(), role) == (row[1][0].ids.tolist(), Role.APART)
    assert drawn(read) == "A" * (10 - num_bridges) + "e" * num_bridges


def test_a_picture_is_never_cut(backbone: Backbone, sample: MakeSample) -> None:
    encoded = backbone.encode(sample("<|image_1|> a red apple stands left of a blue bird", (84, 84)))
    assert encoded.num_uncuttable == 11
    kept = single_row(backbone, encoded, 12)[0][0]
    assert (kept.kinds == Kind.IMAGE).sum() == 9
    assert kept.ids.tolist() == encoded.ids[:11].tolist()
    assert len(kept.patches[0]) == 36
    with pytest.raises(DataError) as caught:
        single_row(backbone, encoded, 11)
    assert caught.value.code == "E_DATA_TOO_LONG"


def test_a_query_is_cut_for_the_picture_of_its_target(backbone: Backbone, sample: MakeSample) -> None:
    target = backbone.encode(sample("<|image_1|> a red apple", (84, 84)))
    for limit, expected in ((24, "A" * 13 + "B" * 11), (12, "A" + "B" * 11), (11, "B" * 11)):
        row = joined_row(backbone, words(50), target, limit, bridged=False)
        assert drawn(row) == expected
        assert row[-1][0].num_uncuttable == 11


def test_text_before_a_picture_is_kept_with_it(backbone: Backbone, sample: MakeSample) -> None:
    encoded = backbone.encode(sample("a red apple <|image_1|> stands left of a blue bird", (56, 56)))
    kept = encoded.cut(1)
    assert len(kept) == encoded.num_uncuttable
    assert kept.ids[-1] == backbone.text.control.vision_end


def test_pictures_beyond_the_limit_are_an_error_with_their_row(backbone: Backbone, sample: MakeSample) -> None:
    one = sample("", (84, 84), (84, 84))
    encoded = backbone.encode(Sample("", one.images, "file.jsonl:3"))
    for row in (
        lambda: single_row(backbone, encoded, 22),
        lambda: joined_row(backbone, encoded, words(30), 28, bridged=True),
        lambda: joined_row(backbone, words(3), encoded, 22, bridged=True),
        lambda: closed_row(backbone, encoded, words(30), 28),
    ):
        with pytest.raises(DataError, match=r"file\.jsonl:3: .*max_tokens") as caught:
            row()
        assert caught.value.code == "E_DATA_TOO_LONG"
    assert row_length(single_row(backbone, encoded, 23)) == 23


@pytest.mark.parametrize("padding", ["left", "right"])
def test_padding_stands_on_the_side_that_is_asked_for(backbone: Backbone, sample: MakeSample, padding: str) -> None:
    image = backbone.encode(sample("what is this", (56, 56)))
    rows = [
        joined_row(backbone, words(3), words(2), 50, bridged=True),
        joined_row(backbone, image, words(1), 50, bridged=True),
        joined_row(backbone, words(1), words(1), 50, bridged=False),
    ]
    batch = collate(backbone, rows, padding=padding)
    size = row_length(rows[1])
    letters = ["".join(LETTERS[Role(role)] for role in row) for row in batch.roles.tolist()]
    fill = str.rjust if padding == "left" else str.ljust
    assert letters == [fill(drawn(row), size, "-") for row in rows]
    assert batch.bridge.tolist() == [letters[0].index("e"), size + letters[1].index("e"), -1]
    pad = batch.roles == Role.PAD
    assert (batch.input_ids[pad] == backbone.text.control.pad).all()
    assert not batch.is_text[pad].any()
    assert batch.num_tokens == sum(map(row_length, rows))
    for number, row in enumerate(rows):
        kept = ~pad[number]
        assert batch.input_ids[number, kept].tolist() == [int(i) for segment, _ in row for i in segment.ids]
        assert int(batch.position_ids[:, number, kept].min()) == 0, "positions start at the row, not at the padding"
    assert torch.equal(batch.pixel_values, torch.from_numpy(image.patches[0]))
    assert batch.image_grid_thw.tolist() == [[1, 4, 4]]


def test_a_batch_holds_pictures_as_bytes_and_the_tower_gets_numbers(backbone: Backbone, sample: MakeSample) -> None:
    encoded = [backbone.encode(sample("", (84, 56), seed=number)) for number in range(100)]
    batch = collate(backbone, [single_row(backbone, one, 50) for one in encoded])
    given: list[torch.Tensor] = []
    with backbone.vision.register_forward_pre_hook(lambda tower, inputs: given.append(inputs[0])):
        backbone.see(batch.pixel_values, batch.image_grid_thw)
    [numbers] = given
    assert batch.pixel_values.dtype == torch.uint8
    assert numbers.dtype == torch.float32
    assert numbers.nbytes == 8 * batch.pixel_values.nbytes == 100 * 4 * 24 * 1176
    alone = [backbone.grid.normalised(torch.from_numpy(one.patches[0])) for one in encoded]
    assert torch.equal(numbers, torch.cat(alone))


def test_pictures_come_in_reading_order(backbone: Backbone, sample: MakeSample) -> None:
    one = backbone.encode(sample("a <|image_2|> b <|image_1|>", (56, 56), (84, 56)))
    two = backbone.encode(sample("", (56, 84)))
    batch = collate(backbone, [joined_row(backbone, one, two, 50, bridged=True), single_row(backbone, two, 50)])
    assert batch.image_grid_thw.tolist() == [[1, 4, 6], [1, 4, 4], [1, 6, 4], [1, 6, 4]]
    expected = np.concatenate([*one.patches, *two.patches, *two.patches])
    assert torch.equal(batch.pixel_values, torch.from_numpy(expected))
