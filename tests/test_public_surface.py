"""What users import is a fixed list, and importing it costs nothing until it is used."""

from __future__ import annotations

import subprocess
import sys

import cocoa


def test_the_public_names_are_these_and_all_can_be_had():
    assert cocoa.__all__ == [
        "CocoaError",
        "Embedder",
        "Hit",
        "Index",
        "Pair",
        "Recipe",
        "Sample",
        "load_recipe",
        "train",
    ]
    for name in cocoa.__all__:
        assert getattr(cocoa, name).__module__.startswith("cocoa.")


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(cocoa, "Embeder")


def test_importing_the_package_does_not_load_torch():
    code = "import sys, cocoa, cocoa.cli; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
