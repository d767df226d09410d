"""The few formulas of a study, against scipy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from cocoa.ablation.statistics import half_width, holm, paired_t, sign_flips, t_quantile, t_tail


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 29, 120])
def test_the_tail_of_t_is_that_of_scipy(freedom):
    for t in (0.0, 0.1, 1.0, -2.5, 4.0, 12.0):
        assert t_tail(t, freedom) == pytest.approx(2 * stats.t.sf(abs(t), freedom), abs=1e-12)
    for confidence in (0.5, 0.95, 0.99):
        assert t_quantile(confidence, freedom) == pytest.approx(stats.t.ppf((1 + confidence) / 2, freedom), rel=1e-6)


@pytest.mark.parametrize("size", [2, 3, 5, 20])
def test_intervals_and_paired_tests_are_those_of_scipy(size):
    one, other = np.random.default_rng(size).normal([[0.5], [0.45]], 0.03, (2, size)).tolist()
    differences = [a - b for a, b in zip(one, other, strict=True)]
    assert paired_t(differences) == pytest.approx(stats.ttest_rel(one, other).pvalue, abs=1e-9)
    low, high = stats.t.interval(0.95, size - 1, np.mean(one), stats.sem(one))
    assert half_width(one) == pytest.approx((high - low) / 2, rel=1e-6)


@pytest.mark.parametrize("size", [2, 5, 9])
def test_the_test_of_signs_is_that_of_scipy(size):
    differences = np.random.default_rng(size).normal(0.5, 1, size)
    expected = stats.permutation_test(
        (differences, np.zeros(size)), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert sign_flips(differences.tolist()) == pytest.approx(expected)


def test_the_test_of_many_signs_is_near_the_exact_one():
    differences = np.random.default_rng(3).normal(0.4, 1, 14)
    signs = np.array(np.meshgrid(*[[1, -1]] * 14)).reshape(14, -1)
    exact = np.mean(np.abs(differences @ signs) >= abs(differences.sum()) - 1e-12)
    assert sign_flips(differences.tolist()) == pytest.approx(exact, abs=0.02)


def test_five_seeds_that_agree_cannot_say_less_than_a_sixteenth_by_signs():
    assert sign_flips([0.1, 0.2, 0.1, 0.3, 0.2]) == 2 / 2**5


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_false_alarms_rare():
    """Of many studies without any effect, at most one in twenty has an alarm at all."""
    rng = np.random.default_rng(0)
    alarms = sum(min(holm(rng.random(8).tolist())) < 0.05 for _ in range(4000))
    assert alarms / 4000 < 0.065


def test_too_few_values_say_nothing():
    assert half_width([0.5]) is None
    assert paired_t([0.1]) is None
    assert sign_flips([]) is None
    assert (paired_t([0.0, 0.0]), paired_t([0.1, 0.1])) == (1.0, 0.0)
    assert t_tail(math.inf, 3) == 0.0
