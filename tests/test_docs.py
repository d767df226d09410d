"""What the documents say can be done and looked at: every command parses, every path is there, every number is kept."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from scripts.plan_real_recipes import RECIPES, with_head

from cocoa.cli import app

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        *(ROOT / "docs").glob("*.md"),
        *ROOT.glob("recipes/*.yaml"),
        *ROOT.glob("studies/*.yaml"),
    ]
)


def commands(text: str) -> list[str]:
    """Returns every line of a code block or comment that calls cocoa, and every such command in backticks."""
    lines = [line.lstrip("# $").strip() for line in text.splitlines()]
    inline = re.findall(r"`(cocoa [^`]+)`", text)
    return [line.split(" # ")[0] for line in [*lines, *inline] if re.match(r"cocoa [a-z]", line)]


def resolve(command: str) -> None:
    """Raises unless the command is one of the command line's, with options that it has."""
    group = typer.main.get_command(app)
    words = shlex.split(command)[1:]
    while hasattr(group, "commands") and words:
        assert words[0] in group.commands, f"no such command: {command}"
        group = group.commands[words.pop(0)]
    known = {name for parameter in group.params for name in parameter.opts} | {"--help"}
    for word in words:
        if word.startswith("-"):
            assert word.split("=")[0] in known, f"no option {word}: {command}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_cocoa_command_in_it_parses(document: Path):
    for command in commands(document.read_text()):
        resolve(command)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_of_the_project_in_it_exists(document: Path):
    text = document.read_text()
    found = set(
        re.findall(r"(?<![\w./-])((?:src|docs|recipes|studies|scripts|tests|reference|benchmarks)/[\w./-]*\w)", text)
    )
    found |= {
        target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target and not target.startswith("/")
    }
    missing = [path for path in sorted(found) if not (ROOT / path).exists() and not (document.parent / path).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_in_it_exists(document: Path):
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z][a-z-]+)`", document.read_text())) <= targets


def test_the_numbers_of_the_readme_are_those_of_the_kept_run():
    readme = (ROOT / "README.md").read_text()
    kept = json.loads((ROOT / "reference" / "quickstart.json").read_text())
    for name, variant in kept["variants"].items():
        rates = [variant[key] for key in ("classification", "vqa", "retrieval", "grounding", "overall")]
        row = f"| `{name}` | " + " | ".join(f"{100 * rate:.1f}" for rate in rates)
        assert row in readme


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_hours_of_a_recipe_are_those_of_the_kept_plan(recipe: Path):
    made = json.loads((ROOT / "reference" / "plans.json").read_text())["recipes"][recipe.stem]
    assert made["fits"]
    assert with_head(recipe.read_text(), made) == recipe.read_text(), "python -m scripts.plan_real_recipes --write-only"
