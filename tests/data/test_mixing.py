"""Mixing: an order that depends on (seed, position) alone and shows every pair once an epoch."""

from __future__ import annotations

import pytest

from cocoa.data.mixing import Mixture
from cocoa.errors import DataError
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
