"""Fixtures that several backbone tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from cocoa.backbones.tokens import TextTokens


@pytest.fixture(scope="session")
def real_text(real_qwen: Path) -> TextTokens:
    """Qwen2-VL's own tokenizer, read once; without it the test is skipped."""
    return TextTokens.load(str(real_qwen / "tokenizer"))
