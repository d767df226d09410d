"""The example of docs/data.md is whole: written as it stands there, it is checked, trained and scored."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from cocoa.cli import main
from making import make_picture

PAGE = Path(__file__).parents[1] / "docs" / "data.md"
PICTURES = ("apple", "owl", "dog", "cat", "pear", "fox")


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the page's first section, and pictures of the names that they have."""
    section = PAGE.read_text().split("## A small example, whole")[1].split("\n## ")[0]
    files = re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)```", section, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in files] == [
        "data/pairs.jsonl", "data/train/ask.jsonl", "data/test/ask.jsonl", "data/manifest.json", "mine.yaml"
    ]  # fmt: skip
    for name, content in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "data" / "images").mkdir()
    for number, name in enumerate(PICTURES):
        make_picture(84, 84, seed=number).save(tmp_path / "data" / "images" / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_checked_trained_and_scored_as_the_page_says(
    example: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = PAGE.read_text().split("Look at it before you train:")[1].split("```")[1]
    commands = [line.split() for line in section.strip().splitlines()]
    assert [words[1] for words in commands] == ["check-data", "train", "evaluate"]
    for words in commands:
        monkeypatch.setattr(sys, "argv", words)
        try:
            main()
        except SystemExit as stop:
            assert not stop.code, capsys.readouterr()
    said = capsys.readouterr()
    assert "error" not in said.err
    assert "Nothing found in 9 rows of 3 stages and 6 pictures." in " ".join(said.out.split())
    assert (example / "runs" / "mine" / "scores" / "results.json").is_file()
