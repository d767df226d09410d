"""What the benchmarks measure with, where it can be checked without measuring."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from benchmarks import index

BENCHMARKS = sorted(Path(index.__file__).parent.glob("*.py"))


def test_the_rate_of_memory_is_that_of_reading_once_and_of_the_median(monkeypatch):
    # The fourth of seven takes a minute.
    clock = iter([0, 1, 1, 2, 2, 3, 3, 63, 63, 64, 64, 65, 65, 66])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert index.read_rate(np.ones(1000, np.float32)) == 4000


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.name)
def test_operations_are_counted_with_those_of_the_fused_attention(path):
    text = path.read_text()
    assert text.count("FlopCounterMode(") == text.count("custom_mapping=FUSED")
