"""The progress on the screen says what the records say, fits the screen, and leaves one line a stage in a file."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from cocoa.recipe import Recipe, parse_recipe
from cocoa.report import progress
from cocoa.report.progress import TrainingProgress
from cocoa.report.totals import total

STAGE = """
  - name: {name}
    layout: bidirectional
    objectives: [{objectives}]
    data: [{{kind: scene_pairs, num_pairs: 10}}]
    steps: {steps}
    batch_size: {batch_size}
    learning_rate: 1.0e-3
"""


@pytest.fixture
def recipe() -> Recipe:
    warm_up = STAGE.format(
        name="warm-up", objectives="{kind: masked_text, rate: 0.3}, {kind: masked_patch}", steps=3000, batch_size=64
    )
    contrast = STAGE.format(name="contrast", objectives="{kind: contrastive}", steps=1000, batch_size=128)
    return parse_recipe(f"name: small\nbackbone: {{name: nano}}\nstages:{warm_up}{contrast}")


def record(step: int, **changed: Any) -> dict[str, Any]:
    values = {
        "step": step,
        "stage": "warm-up",
        "losses": {"masked_text": 2.3456, "masked_patch": 0.4567},
        "pairs": 64,
        "skipped": 0,
        "cut_texts": 0,
        "tokens_per_second": 12_000.0,
        "pad_rate": 0.25,
        "data_wait_seconds": 0.02,
        "memory_bytes": 23_400_000_000,
        "seconds": 2.0,
    }
    return values | changed


def screen(width: int, terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)


def shown(console: Console, bar: TrainingProgress) -> list[str]:
    """What stands on the screen now."""
    with console.capture() as capture:
        console.print(bar._live.renderable)
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.parametrize("width", [200, 100, 80, 60])
def test_all_numbers_are_shown_whole_on_every_screen(recipe: Recipe, width: int) -> None:
    console = screen(width)
    bar = TrainingProgress(console, recipe.stages)
    bar.step(recipe.stages[0], record(1233, skipped=2))
    lines = shown(console, bar)
    assert all(len(line) <= min(width, 100) for line in lines)
    said = "\n".join(lines)
    facts = ("2.346", "0.457", "12,000 tokens/s", "25% pad", "1% data wait", "23.4 GB", "2 rows left out")
    for fact in ("warm-up", "1,234/3,000", "58 min 52 s left", "run ~", *facts):
        assert fact in said, fact


def test_the_common_line_takes_two_rows_of_100_columns(recipe: Recipe) -> None:
    console = screen(100)
    bar = TrainingProgress(console, recipe.stages)
    bar.step(recipe.stages[0], record(1233))
    assert len(shown(console, bar)) == 2


def test_speeds_are_those_of_the_last_20_steps_weighted_by_time_and_places(recipe: Recipe) -> None:
    console = screen(100)
    bar = TrainingProgress(console, recipe.stages)
    for step in range(5):
        bar.step(recipe.stages[0], record(step, tokens_per_second=1.0, seconds=1000.0, pad_rate=0.9))
    for step in range(5, 24):
        bar.step(recipe.stages[0], record(step, tokens_per_second=100.0, seconds=1.0, data_wait_seconds=0.5))
    # 19 steps of 100 tokens, 25 % padding and a second; one of 1,900 tokens in a second, none of them padding.
    bar.step(recipe.stages[0], record(24, tokens_per_second=1900.0, seconds=1.0, pad_rate=0.0, data_wait_seconds=0.5))
    said = "\n".join(shown(console, bar))
    assert "190 tokens/s" in said
    assert f"{1 - 3800 / (1900 / 0.75 + 1900):.0%} pad" in said
    assert "50% data wait" in said
    assert "49 min 35 s left" in said


def test_later_stages_are_guessed_by_their_pairs(recipe: Recipe) -> None:
    console = screen(100)
    bar = TrainingProgress(console, recipe.stages)
    bar.step(recipe.stages[0], record(2999 - 1))
    # One step of 2 s is left, and 1000 steps of twice the pairs.
    assert "2.0 s left, run ~66 min 42 s" in "\n".join(shown(console, bar))
    bar.step(recipe.stages[1], record(998, stage="contrast", losses={"contrastive": 1.0}))
    assert "2.0 s left of the run" in "\n".join(shown(console, bar))


def test_a_resumed_stage_starts_where_it_was_and_counts_its_own_steps(recipe: Recipe) -> None:
    console = screen(100, terminal=False)
    bar = TrainingProgress(console, recipe.stages)
    for step in range(2990, 3000):
        bar.step(recipe.stages[0], record(step))
    assert "warm-up  3,000/3,000  10 steps in 20 s" in console.file.getvalue()


def test_a_file_gets_one_line_a_stage_and_one_now_and_then(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    console = screen(80, terminal=False)
    with TrainingProgress(console, recipe.stages) as bar:
        bar.say("[resuming]")
        for step in range(3000):
            if step == 1000:
                monkeypatch.setattr(progress, "QUIET_SECONDS", -1.0)
            bar.step(recipe.stages[0], record(step))
            monkeypatch.setattr(progress, "QUIET_SECONDS", 1e9)
    lines = console.file.getvalue().splitlines()
    assert [line[:21].strip() for line in lines if line] == [
        "[resuming]",
        "warm-up  1,001/3,000",
        "warm-up  3,000/3,000",
    ]


def test_a_step_without_tokens_breaks_no_rate() -> None:
    nothing = total([record(0, tokens_per_second=0.0, pad_rate=1.0)])
    assert (nothing.tokens_per_second, nothing.pad_rate) == (0.0, 0.0)
    assert total([]).wait_rate == 0.0
