"""Shorter and smaller vectors are what their formulas say, number by number."""

from __future__ import annotations

import numpy as np
import pytest

from cocoa import CocoaError
from cocoa.precision import quantized, shortened


@pytest.fixture
def vectors():
    drawn = np.random.default_rng(0).normal(size=(9, 19)).astype(np.float32)
    drawn[3, 5] = 0.0
    drawn[4, :7] = 0.0
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_int8_is_each_vector_by_its_own_largest_number(vectors):
    slow = [[round(127 * float(number) / max(abs(float(one)) for one in row)) for number in row] for row in vectors]
    found = quantized(vectors, "int8")
    assert found.dtype == np.int8
    assert np.abs(found.astype(int) - np.array(slow)).max() <= 1  # the quotient itself is rounded in float32
    assert (np.abs(found.astype(int)).max(1) == 127).all()
    cosine = (found * vectors).sum(1) / np.linalg.norm(found.astype(float), axis=1)
    assert cosine.min() > 0.9999


def test_binary_is_one_bit_a_number_and_zeros_fill_the_last_byte(vectors):
    found = quantized(vectors, "binary")
    assert found.dtype == np.uint8
    assert found.shape == (9, 3)
    for row, packed in zip(vectors, found, strict=True):
        bits = "".join("1" if number > 0 else "0" for number in row) + "0" * 5
        assert list(packed) == [int(bits[start : start + 8], 2) for start in (0, 8, 16)]


def test_float16_is_the_nearest_and_float32_the_same(vectors):
    assert quantized(vectors, "float16").dtype == np.float16
    np.testing.assert_array_equal(quantized(vectors, "float16"), np.array(vectors.tolist(), np.float16))
    assert quantized(vectors, "float32") is vectors


def test_a_shortened_vector_is_its_first_numbers_with_unit_length_again(vectors):
    found = shortened(vectors, 7)
    for row, short in zip(vectors, found, strict=True):
        length = sum(float(number) ** 2 for number in row[:7]) ** 0.5
        expected = [float(number) / length if length else 0.0 for number in row[:7]]
        np.testing.assert_allclose(short, expected, atol=1e-6)
    assert shortened(vectors, 19) is vectors


def test_no_vectors_are_no_vectors_in_any_precision():
    nothing = np.zeros((0, 19), np.float32)
    assert quantized(nothing, "int8").shape == (0, 19)
    assert quantized(nothing, "binary").shape == (0, 3)
    assert shortened(nothing, 7).shape == (0, 7)


@pytest.mark.parametrize("dimensions", [0, -1, 20])
def test_a_length_that_there_is_not_is_refused(vectors, dimensions):
    with pytest.raises(CocoaError) as caught:
        shortened(vectors, dimensions)
    assert caught.value.code == "E_USAGE_DIMENSIONS"


def test_a_precision_that_there_is_not_is_refused(vectors):
    with pytest.raises(CocoaError) as caught:
        quantized(vectors, "int4")
    assert caught.value.code == "E_USAGE_PRECISION"
