"""Near neighbours are those that comparing all with all finds; copies are near, other things are not."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
from checked_folder import WORDS, photo, sentence
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cocoa.checking.near import near_hashes, near_sets, shared
from cocoa.checking.pictures import Gallery, Look, look, near_looks
from cocoa.checking.texts import near_texts, plain, prompt_length, words
from cocoa.errors import ImageError
from cocoa.images import open_rgb

HASHES = st.lists(st.integers(0, 2**64 - 1), max_size=12)


def slow_hashes(ours: list[int], theirs: list[int], most: int) -> list[list[int]]:
    return [[i, j] for i, a in enumerate(ours) for j, b in enumerate(theirs) if (a ^ b).bit_count() <= most]


def found_hashes(ours: list[int], theirs: list[int], most: int) -> list[list[int]]:
    blocks = near_hashes(np.array(ours, np.uint64), np.array(theirs, np.uint64), most)
    return sorted(pair for block in blocks for pair in block.tolist())


@settings(max_examples=60, deadline=None)
@given(HASHES, HASHES, st.integers(0, 6), st.randoms(use_true_random=False))
def test_bands_find_what_comparing_all_hashes_finds(ours, theirs, most, random):
    # Random hashes are never near: some of theirs are ours with a few bits turned, at the limit above all.
    theirs = [*theirs, *(hash_ ^ sum(1 << bit for bit in random.sample(range(64), most + turn))
                         for hash_ in ours for turn in (0, 1))]  # fmt: skip
    assert found_hashes(ours, theirs, most) == slow_hashes(ours, theirs, most)


def test_a_hash_that_very_many_have_is_compared_in_blocks(monkeypatch):
    monkeypatch.setattr("cocoa.checking.near._BLOCK", 7)
    ours, theirs = [0] * 5 + [1, 2**63], [0] * 4 + [3, 2**64 - 1]
    assert found_hashes(ours, theirs, 1) == slow_hashes(ours, theirs, 1)


SETS = st.lists(st.frozensets(st.sampled_from("abcdefghij"), max_size=8), max_size=10)


@settings(max_examples=100, deadline=None)
@given(SETS, SETS, st.sampled_from([0.3, 0.5, 0.65, 0.8, 1.0]))
def test_rarest_members_find_what_comparing_all_sets_finds(ours, theirs, least):
    slow = [
        (i, j, shared(a, b))
        for i, a in enumerate(ours)
        for j, b in enumerate(theirs)
        if a and b and shared(a, b) >= least
    ]
    assert near_sets(ours, theirs, least) == slow


def saved(picture: Image.Image, kind: str, **options: object) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return open_rgb(buffer.getvalue())


@pytest.mark.parametrize("seed", range(6))
def test_a_picture_saved_anew_or_resized_a_little_is_near(seed):
    picture = photo(seed, (120, 90))
    changed = [
        saved(picture, "JPEG", quality=40),
        saved(picture, "WEBP", quality=50),
        picture.resize((112, 84), Image.Resampling.BICUBIC),
        saved(picture.resize((140, 105)), "JPEG", quality=70),
    ]
    found = near_looks([look(picture)], [look(each) for each in changed])
    assert found == [(0, place) for place in range(len(changed))]
    assert len({look(each).pixels for each in (picture, *changed)}) == 5


def test_other_pictures_are_not_near():
    looks = [look(photo(seed)) for seed in range(40)]
    assert near_looks(looks, looks) == [(place, place) for place in range(40)]


def test_the_same_shape_in_other_colours_and_plain_sheets_are_not_near():
    picture = photo(1)
    red, green, blue = picture.split()
    plain_sheets = [Image.new("RGB", (84, 84), colour) for colour in ("white", "#fdfdfd", "red")]
    looks = [look(each) for each in (picture, Image.merge("RGB", (blue, green, red)), *plain_sheets)]
    assert near_looks(looks[:1] + looks[2:3], looks[1:2] + looks[3:]) == []


def slow_looks(ours: list[Look], theirs: list[Look]) -> list[tuple[int, int]]:
    def near(a: Look, b: Look) -> bool:
        apart = np.abs(np.frombuffer(a.small, np.uint8).astype(int) - np.frombuffer(b.small, np.uint8))
        contrast = min(a.contrast, b.contrast)
        bits = (a.fingerprint ^ b.fingerprint).bit_count()
        return contrast > 0 and bits <= 4 and apart.mean() <= min(4.0, contrast / 4) and apart.max() <= 40

    firsts = [next((i for i, a in enumerate(ours) if near(a, b)), None) for b in theirs]
    return sorted((i, j) for j, i in enumerate(firsts) if i is not None)


def test_looks_that_crowd_on_few_fingerprints_are_found_as_by_comparing_all(monkeypatch):
    monkeypatch.setattr("cocoa.checking.near._BLOCK", 50)
    monkeypatch.setattr("cocoa.checking.pictures._BLOCK", 30)
    rng = np.random.default_rng(4)
    grounds = [Image.new("RGB", (32, 32), tuple(rng.integers(0, 8, 3).tolist())) for _ in range(60)]
    photos = [photo(seed % 5, (30 + seed % 7, 40)) for seed in range(40)]
    looks = [look(each) for each in [*grounds, *photos, *(Image.new("RGB", (9, 9), "white"),) * 3]]
    rng.shuffle(looks)  # type: ignore[arg-type]
    found = near_looks(looks[:50], looks[50:])
    assert found == slow_looks(looks[:50], looks[50:])
    assert len(found) > 25


def test_pictures_of_one_fingerprint_take_little_memory():
    looks = [Look(b"", 0, bytes(range(256)) * 3, 60.0)] * 2000 + [
        Look(b"", 0, bytes([level, 0, 255 - level] * 256), 80.0) for level in range(256)
    ]
    tracemalloc.start()
    found = near_looks(looks, looks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[:2000] == [(0, place) for place in range(2000)]
    assert peak < 100_000_000


def test_one_size_more_is_another_picture():
    assert look(Image.new("RGB", (8, 2))).pixels != look(Image.new("RGB", (4, 4))).pixels


def test_a_picture_of_many_rows_is_decoded_once_and_fails_in_each_row(tmp_path):
    photo(1).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    gallery = Gallery()
    assert gallery.look(tmp_path / "a.png", "t:1") is gallery.look(tmp_path / "a.png", "t:2")
    for row in ("t:3", "t:4"):
        with pytest.raises(ImageError) as caught:
            gallery.look(tmp_path / "b.png", row)
        assert caught.value.where == row
    assert gallery.num_pictures == 2


def test_a_text_with_one_other_word_is_near_and_one_with_many_is_not():
    text = words(sentence(1))
    one = (*text[:6], "bicycle", *text[7:])
    three = ("bicycle", *text[1:5], "bicycle", *text[6:9], "bicycle", *text[10:])
    assert [(i, j) for i, j, _ in near_texts([text], [one, three, words(sentence(2))])] == [(0, 0)]


def test_captions_from_one_template_are_not_near():
    captions = [
        words(f"there is one {thing} in the picture and it stands on the left of some other {WORDS[-place]}")
        for place, thing in enumerate(WORDS[:30], 1)
    ]
    assert near_texts(captions[:15], captions[15:]) == []
    copy = (*captions[0], "today")
    assert [(i, j) for i, j, _ in near_texts(captions[:15], [copy])] == [(0, 0)]


def test_short_texts_are_near_to_nothing():
    assert near_texts([words("a b c d")], [words("a b c d")]) == []


def test_case_spacing_placeholders_and_forms_of_characters_do_not_matter():
    assert plain("<|image_1|>\nThe  CAFÉ ﬁne\t１") == plain("the cafe\u0301 fine 1")


def test_a_prompt_is_what_all_of_many_texts_begin_with():
    texts = [("find", "me", word, "now") for word in WORDS[:8]]
    assert prompt_length(texts) == 2
    assert prompt_length(texts[:7]) == 0
    assert prompt_length([*texts, ("look",)]) == 0
