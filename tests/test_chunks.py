"""Chunks: every row once, never over the budget, little padding."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cocoa.chunks import bounded, flattened, packed_chunks, padded_chunks

Lengths = st.lists(st.integers(1, 60), max_size=40)


@given(Lengths, st.integers(1, 200))
def test_padded_chunks_hold_every_row_once_within_the_limit(lengths: list[int], limit: int) -> None:
    chunks = padded_chunks(lengths, limit)
    assert all(len(line) == 1 for chunk in chunks for line in chunk)
    assert sorted(place for chunk in chunks for [place] in chunk) == list(range(len(lengths)))
    for chunk in chunks:
        assert len(chunk) == 1 or len(chunk) * max(lengths[place] for [place] in chunk) <= limit


@given(Lengths, st.integers(60, 400), st.integers(20, 60))
def test_packed_chunks_hold_every_row_once_in_lines_within_both_limits(
    lengths: list[int], limit: int, line_tokens: int
) -> None:
    chunks = packed_chunks(lengths, limit, line_tokens=line_tokens)
    assert sorted(place for chunk in chunks for line in chunk for place in line) == list(range(len(lengths)))
    for chunk in chunks:
        used = [sum(lengths[place] for place in line) for line in chunk]
        assert all(total <= line_tokens or len(line) == 1 for total, line in zip(used, chunk, strict=True))
        assert len(chunk) == 1 or len(chunk) * max(used) <= limit


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 60)), min_size=1, max_size=40), st.integers(60, 400))
def test_what_stands_beside_rows_is_bounded_too_and_no_row_is_lost(sizes: list[tuple[int, int]], limit: int) -> None:
    lengths, aside = zip(*sizes, strict=True)
    for chunks in (padded_chunks(lengths, limit), packed_chunks(lengths, limit, line_tokens=60)):
        for chunk in chunks:
            parts = bounded(chunk, aside, limit)
            whole = flattened(chunk)[0]
            assert sorted(place for part in parts for place in flattened(part)[0]) == sorted(whole)
            for part in parts:
                places, _ = flattened(part)
                assert len(places) * max(aside[place] for place in places) <= limit
                assert all(any(set(line) <= set(own) for own in chunk) for line in part), (
                    "no row comes into another's line"
                )
            if len(whole) * max(aside[place] for place in whole) <= limit:
                assert parts == [chunk]


def test_what_is_longer_than_a_chunk_stands_alone_and_the_others_are_not_cut_for_it() -> None:
    assert bounded([[0], [1], [2], [3]], [10, 500, 10, 20], 100) == [[[0], [2], [3]], [[1]]]
    assert bounded([[0, 1, 2], [3]], [30, 50, 40, 30], 100) == [[[3], [0]], [[2, 1]]]


def test_packing_wastes_less_than_padding_where_lengths_differ() -> None:
    lengths = [10, 50] * 8
    packed = packed_chunks(lengths, 512, line_tokens=64)
    assert all(sum(lengths[place] for place in line) == 60 for chunk in packed for line in chunk)


@given(Lengths)
def test_a_flattened_chunk_counts_its_places_in_reading_order(lengths: list[int]) -> None:
    for chunk in packed_chunks(lengths, 120, line_tokens=60):
        places, lines = flattened(chunk)
        assert [place for line in lines for place in line] == list(range(len(places)))
        assert [[places[number] for number in line] for line in lines] == chunk


def test_a_pass_on_a_gpu_is_filled_up_before_padding_is_minded() -> None:
    lengths = [100] * 20 + [400] * 20
    assert [len(chunk) for chunk in padded_chunks(lengths, 16_384, "cuda")] == [20, 20]  # 2,000 of 16,000 tokens
    few = [100] * 4 + [400] * 5
    assert [len(chunk) for chunk in padded_chunks(few, 16_384)] == [4, 5]
    assert [len(chunk) for chunk in padded_chunks(few, 16_384, "cuda")] == [9]


def test_a_pass_on_a_cpu_is_never_larger_than_its_caches_like() -> None:
    lengths = [100] * 100
    assert {len(chunk) for chunk in padded_chunks(lengths, 16_384)} == {20}
    assert [len(chunk) for chunk in padded_chunks(lengths, 16_384, "cuda")] == [100]
    assert [len(chunk) for chunk in padded_chunks([3000, 3000], 16_384)] == [1, 1]
    # Whatever the memory allows decides how small is too small, not what a CPU makes of it.
    assert [len(chunk) for chunk in padded_chunks([10] * 5 + [100] * 5, 16_384)] == [10]
