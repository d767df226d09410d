"""Mixing: an order that depends on (seed, position) alone and shows every pair once an epoch."""

from __future__ import annotations

import json
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cocoa.data.mixing import Mixture, _order
from cocoa.data.mmeb_train import MmebTrain
from cocoa.errors import DataError, UsageError
from cocoa.sample import Pair, Sample


def numbered(name: str, count: int) -> list[Pair]:
    return [Pair(Sample(f"{name}{number}"), Sample("t")) for number in range(count)]


def names(mixture: Mixture, start: int, stop: int) -> list[str]:
    return [mixture.pair(position).query.text for position in range(start, stop)]


def make(seed: int = 0) -> Mixture:
    return Mixture([numbered("a", 7), [], numbered("b", 1), numbered("c", 12)], seed)


EVERY = sorted([*(f"a{n}" for n in range(7)), "b0", *(f"c{n}" for n in range(12))])


def test_the_order_depends_on_seed_and_position_alone() -> None:
    forwards = names(make(), 0, 60)
    mixture = make()
    backwards = [mixture.pair(position).query.text for position in reversed(range(60))]
    assert backwards[::-1] == forwards
    assert names(make(1), 0, 20) != forwards[:20]


def test_large_seeds_that_are_near_differ() -> None:
    assert len({tuple(names(make(2**64 - number), 0, 20)) for number in range(1, 9)}) == 8


GOLDEN = ["c11", "a6", "c0", "c6", "a1", "c9", "c5", "c7"]


def test_the_order_is_the_same_today_as_ever() -> None:
    assert names(make(), 0, 8) == GOLDEN


@pytest.mark.parametrize("epoch", range(4))
def test_every_pair_comes_once_an_epoch(epoch: int) -> None:
    assert len(make()) == 20
    assert sorted(names(make(), 20 * epoch, 20 * (epoch + 1))) == EVERY


def test_epochs_differ() -> None:
    epochs = {tuple(names(make(), 20 * epoch, 20 * (epoch + 1))) for epoch in range(5)}
    assert len(epochs) == 5


def test_batches_follow_one_another_over_the_end_of_an_epoch() -> None:
    mixture = make()
    batches = [pair.query.text for step in range(5) for pair in mixture.batch(step, 8)]
    assert batches == names(mixture, 0, 40)


@pytest.mark.parametrize("sources", [[], [[]], [[], []]])
def test_sources_without_pairs_are_an_error(sources: list[list[Pair]]) -> None:
    with pytest.raises(DataError) as caught:
        Mixture(sources, 0)
    assert caught.value.code == "E_DATA_EMPTY"


class Tables(list[Pair]):
    """Pairs of several tables, one after the other."""

    def __init__(self, name: str, sizes: list[int]) -> None:
        super().__init__(pair for number, size in enumerate(sizes) for pair in numbered(f"{name}{number}.", size))
        self.groups = tuple(sizes)


def group_of(name: str) -> str:
    return name.partition(".")[0]


SIZES = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=4), min_size=1, max_size=4).filter(
    lambda sizes: sum(map(sum, sizes)) > 0
)


def tables(sizes: list[list[int]]) -> list[Tables]:
    return [Tables("abcd"[number], one) for number, one in enumerate(sizes)]


@given(SIZES, st.integers(0, 2**70), st.integers(0, 5))
@settings(deadline=None)
def test_every_pair_of_any_sources_comes_once_an_epoch(sizes: list[list[int]], seed: int, epoch: int) -> None:
    mixture = Mixture(tables(sizes), seed)
    size = mixture.epoch_size
    assert size == len(mixture) == sum(map(sum, sizes))
    every = sorted(pair.query.text for source in tables(sizes) for pair in source)
    assert sorted(names(mixture, epoch * size, (epoch + 1) * size)) == every


@given(SIZES, st.integers(0, 2**70), st.integers(0, 5), st.integers(1, 8))
@settings(deadline=None)
def test_sub_batches_hold_one_group_and_the_left_overs_stand_last(
    sizes: list[list[int]], seed: int, epoch: int, sub_batch: int
) -> None:
    total = sum(map(sum, sizes))
    assume(total >= sub_batch)
    mixture = Mixture(tables(sizes), seed, sub_batch)
    size = mixture.epoch_size
    assert (len(mixture), size) == (total, total // sub_batch * sub_batch)
    order = names(mixture, epoch * size, (epoch + 1) * size)
    # Each pair at most once, and of every group at least its whole sub-batches.
    assert len(set(order)) == len(order)
    groups = [[group_of(name) for name in order[start : start + sub_batch]] for start in range(0, size, sub_batch)]
    pure = sum(count // sub_batch for one in sizes for count in one)
    assert all(len(set(names)) == 1 for names in groups[:pure])
    kept = Counter(names[0] for names in groups[:pure])
    expected = {f"{'abcd'[n]}{m}": count // sub_batch for n, one in enumerate(sizes) for m, count in enumerate(one)}
    assert kept == {name: count for name, count in expected.items() if count}


@given(st.integers(0, 2**64), st.one_of(st.none(), st.integers(1, 8)), st.permutations(range(60)))
@settings(deadline=None)
def test_the_order_is_the_same_whatever_is_asked_first(seed: int, sub_batch: int | None, asked: list[int]) -> None:
    def fresh() -> Mixture:
        return Mixture(tables([[9, 3], [8]]), seed, sub_batch)

    forwards = names(fresh(), 0, 60)
    mixture = fresh()
    assert {place: mixture.pair(place).query.text for place in asked} == dict(enumerate(forwards))


def test_sub_batches_stay_in_line_with_batches_in_every_epoch() -> None:
    mixture = Mixture(tables([[13, 18], [11]]), 0, 4)
    assert mixture.epoch_size == 40
    for epoch in range(5):
        for step in range(10 * epoch, 10 * epoch + 9):
            assert len({group_of(pair.query.text) for pair in mixture.batch(step, 4)}) == 1


def test_other_pairs_miss_each_epoch() -> None:
    mixture = Mixture(tables([[13, 18], [11]]), 0, 4)
    every = set(names(Mixture(tables([[13, 18], [11]]), 0), 0, 42))
    missed = [every - set(names(mixture, 40 * epoch, 40 * epoch + 40)) for epoch in range(40)]
    assert {len(names) for names in missed} == {2}
    assert len(set.union(*missed)) > 30


def test_sub_batches_of_several_groups_alternate_and_differ_by_seed_and_epoch() -> None:
    orders = set()
    for seed in range(3):
        mixture = Mixture(tables([[40, 40], [40]]), seed, 4)
        for epoch in range(3):
            order = names(mixture, 120 * epoch, 120 * epoch + 120)
            assert sum(group_of(one) != group_of(two) for one, two in pairwise(order[::4])) > 10
            orders.add(tuple(order))
    assert len(orders) == 9


GOLDEN_SUB_BATCHES = ["a0.4", "a0.1", "b0.0", "b0.2", "a1.3", "a1.1", "a0.2", "a0.0", "a1.2", "a1.0", "a0.3", "b0.1"]


def test_the_order_of_sub_batches_is_the_same_today_as_ever() -> None:
    assert names(Mixture(tables([[5, 4], [3]]), 0, 2), 0, 12) == GOLDEN_SUB_BATCHES


def test_train_tables_are_groups(tmp_path: Path) -> None:
    row = {"qry_image_path": "", "pos_text": "p", "pos_image_path": ""}
    for name, size in (("a", 6), ("b", 9)):
        lines = [json.dumps(row | {"qry": f"{name}.{number}"}) + "\n" for number in range(size)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    mixture = Mixture([MmebTrain(tmp_path), numbered("c.", 6)], 0, 3)
    groups = [[group_of(pair.query.text) for pair in mixture.batch(step, 3)] for step in range(7)]
    assert Counter(map(tuple, groups)) == {("a",) * 3: 2, ("b",) * 3: 3, ("c",) * 3: 2}


@pytest.mark.parametrize("sub_batch", [None, 64])
def test_an_epoch_of_millions_is_ordered_in_seconds(sub_batch: int | None) -> None:
    began = time.process_time()
    sizes = (100_000,) * 19 + (1_000,) * 100
    order = _order(0, 0, sizes, sub_batch, sizes)
    assert time.process_time() - began < 15
    assert len(order) == 2_000_000 and (np.bincount(order) == 1).all()


def test_wrong_sub_batches_and_groups_are_errors() -> None:
    with pytest.raises(DataError, match=r"7 pairs.*of 8.*E_DATA_SUB_BATCH"):
        Mixture([numbered("a", 7)], 0, 8)
    with pytest.raises(UsageError, match="sub_batch is 0"):
        Mixture([numbered("a", 7)], 0, 0)
    wrong = Tables("a", [3])
    wrong.groups = (2,)
    with pytest.raises(ValueError, match="groups of 2 pairs in a source of 3"):
        Mixture([wrong], 0)


@pytest.mark.parametrize("sub_batch", [None, 2])
def test_a_weight_says_how_often_pairs_come(sub_batch: int | None) -> None:
    sources = [numbered("half", 8), numbered("once", 6), numbered("twice", 4)]
    mixture = Mixture(sources, 0, sub_batch, [0.5, 1.0, 2.0])
    assert mixture.epoch_size == 4 + 6 + 8
    for epoch in range(0, 8, 2):
        first, second = (names(mixture, 18 * (epoch + n), 18 * (epoch + n + 1)) for n in range(2))
        for one in (first, second):
            assert sum(name.startswith("half") for name in one) == 4
            assert Counter(name for name in one if name.startswith("twice")) == {f"twice{n}": 2 for n in range(4)}
            assert sorted(name for name in one if name.startswith("once")) == [f"once{n}" for n in range(6)]
        halves = [name for name in first + second if name.startswith("half")]
        assert sorted(halves) == [f"half{n}" for n in range(8)], "each once in two epochs"


def test_a_weight_of_one_is_no_weight() -> None:
    sources = [numbered("a", 7), numbered("c", 12)]
    assert names(Mixture(sources, 3, None, [1.0, 1.0]), 0, 60) == names(Mixture(sources, 3), 0, 60)
