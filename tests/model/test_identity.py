"""An identity says what vectors depend on, and which thing makes two sets of them incomparable."""

from __future__ import annotations

import json

import pytest

from cocoa import Embedder
from cocoa.embedder import identity_difference
from cocoa.model import EmbeddingModel

VERSIONS = ["cocoa", "transformers", "torch", "pillow"]
DECIDING = ["fingerprint", "backbone", "layout", "pooling", "bridge_token", "dimensions", "dtype", "normalized"]
DECIDING += ["prompts", "min_pixels", "max_pixels", "max_tokens"]


@pytest.fixture
def identity(tiny, tmp_path):
    EmbeddingModel(tiny(), max_tokens=128).save(tmp_path / "model")
    return Embedder.load(tmp_path / "model").identity


def test_it_holds_all_that_a_vector_depends_on_and_fits_into_json(identity):
    assert list(identity) == DECIDING + VERSIONS
    assert json.loads(json.dumps(identity)) == identity
    assert identity["max_tokens"] == 128
    assert identity["dtype"] == "float32"


def test_equal_identities_and_other_versions_are_comparable(identity):
    other = identity | {"cocoa": "9", "transformers": "9", "torch": "9", "pillow": "9"}
    assert identity_difference(identity, dict(identity)) is None
    assert identity_difference(identity, other) is None


@pytest.mark.parametrize("field", DECIDING)
def test_any_other_field_that_differs_is_named_with_both_values(identity, field):
    said = identity_difference(identity, identity | {field: "other"})
    assert said is not None
    assert str(identity[field])[:16] in said
    assert "other" in said
    missing = {name: value for name, value in identity.items() if name != field}
    assert identity_difference(identity, missing) is not None


def test_all_that_differs_is_named_and_the_fingerprint_last(identity):
    said = identity_difference(identity, identity | {"fingerprint": "x", "layout": "causal", "max_tokens": 9})
    both = "attention layout bidirectional and causal; longest row in tokens 128 and 9"
    weights = f"fingerprint of weights, tokenizer and settings {identity['fingerprint'][:16]} and x"
    assert said == f"they differ in {both}; {weights}"
