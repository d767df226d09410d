"""Measures of how vectors lie, against loops over pairs and against what is known of simple cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cocoa.probing.geometry import alignment, anisotropy, effective_rank, uniformity


def unit(rng, size, dimensions=8):
    vectors = rng.standard_normal((size, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_each_measure_is_that_of_a_loop_over_pairs():
    rng = np.random.default_rng(0)
    queries, targets = unit(rng, 7), unit(rng, 7)
    pairs = [(one, other) for one in range(7) for other in range(one)]
    expected = sum(sum((q - t) ** 2 for q, t in zip(*both, strict=True)) for both in zip(queries, targets, strict=True))
    assert alignment(queries, targets) == pytest.approx(expected / 7, rel=1e-5)
    potentials = [math.exp(-2 * float(((queries[a] - queries[b]) ** 2).sum())) for a, b in pairs]
    assert uniformity(queries) == pytest.approx(math.log(sum(potentials) / len(pairs)), rel=1e-5)
    assert anisotropy(queries) == pytest.approx(sum(float(queries[a] @ queries[b]) for a, b in pairs) / 21, abs=1e-6)


def test_the_effective_rank_is_that_of_the_eigenvalues_of_the_spread():
    vectors = unit(np.random.default_rng(1), 40, 5).astype(np.float64)
    values = np.sqrt(np.linalg.eigvalsh(np.cov(vectors.T, bias=True)).clip(0))
    shares = values / values.sum()
    assert effective_rank(vectors) == pytest.approx(math.exp(-sum(s * math.log(s) for s in shares)), rel=1e-6)


def test_what_is_known_of_simple_vectors():
    same = np.tile(np.eye(4, dtype=np.float32)[:1], (5, 1))
    assert alignment(same, same) == 0.0
    assert (anisotropy(same), uniformity(same), effective_rank(same)) == (1.0, 0.0, 1.0)
    both_ways = np.concatenate([np.eye(4), -np.eye(4)]).astype(np.float32)
    assert effective_rank(both_ways) == pytest.approx(4.0)
    assert anisotropy(both_ways) == pytest.approx(-4 / 28)
    assert alignment(both_ways[:4], both_ways[4:]) == 4.0


def test_one_vector_has_no_pairs():
    with pytest.raises(ValueError, match="two vectors"):
        anisotropy(np.eye(4, dtype=np.float32)[:1])
