"""Bad rows in training: left out by policy and listed, or the end of the run; never a grey picture, never uncounted."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from make_golden_losses import save_backbone
from PIL import Image
from rank_runner import run_ranks

from cocoa.errors import CocoaError, DataError, TrainingError
from cocoa.recipe import Recipe, parse_recipe
from cocoa.training.loop import train
from making import make_picture

TEXT = """
name: bad-rows
seed: 1
backbone: {{name: "{folder}/backbone"}}
max_tokens: 48
max_bad_rate: {rate}
stages:
  - name: bridge
    layout: eos_bridge
    objectives: [{{kind: masked_text, rate: 0.7, roles: [target]}}]
    data: [{{kind: image_text_pairs, path: "{folder}/pairs.jsonl"}}]
    steps: 8
    batch_size: 5
    learning_rate: 1e-4
"""
NUM_GOOD = 30


def huge_png() -> bytes:
    stream = io.BytesIO()
    Image.new("1", (9000, 9000)).save(stream, "PNG")
    return stream.getvalue()


def long_png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (2800, 12)).save(stream, "PNG")
    return stream.getvalue()


def png(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    make_picture(width, height).save(stream, "PNG")
    return stream.getvalue()


# What is found when the table is opened, and what only when the picture is decoded.
AT_OPENING = {
    "missing.png": (None, "a picture", "E_IMAGE_MISSING"),
    "../outside.png": (None, "a picture", "E_DATA_PATH"),
    "empty-text.png": (png(56, 56), "  ", "E_DATA_EMPTY"),
    "number.png": (png(56, 56), 7, "E_DATA_TYPE"),
}
AT_DECODING = {
    "text.png": (b"not a picture", "a picture", "E_IMAGE_OPEN"),
    "cut.png": (png(56, 56)[:900], "a picture", "E_IMAGE_TRUNCATED"),
    "huge.png": (huge_png(), "a picture", "E_IMAGE_TOO_LARGE"),
    "long.png": (long_png(), "a picture", "E_IMAGE_RATIO"),
    "many-tokens.png": (png(2000, 12), "a picture", "E_DATA_TOO_LONG"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bad-rows")
    save_backbone(folder / "backbone")
    (folder / "images").mkdir()
    rows = []
    for number in range(NUM_GOOD):
        make_picture(56, 56, number).save(folder / "images" / f"{number}.png")
        rows.append({"image_path": f"{number}.png", "text": f"a picture of number {number}"})
    for place, (name, (content, text, _)) in enumerate((AT_OPENING | AT_DECODING).items()):
        if content is not None:
            (folder / "images" / name).write_bytes(content)
        rows.insert(3 * place + 1, {"image_path": name, "text": text})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe_of(home: Path, rate: float | None, **changes) -> Recipe:
    recipe = parse_recipe(TEXT.format(folder=home, rate="null" if rate is None else rate))
    # A strip of 2000 x 12 pixels makes 38 visual tokens; a row of 16 has no room for them.
    return recipe.model_copy(update={"max_tokens": 16, **changes})


def rows_of(home: Path, names: dict) -> dict[str, str]:
    """The place of each bad row, and the code it must have."""
    lines = [json.loads(line)["image_path"] for line in (home / "pairs.jsonl").read_text().splitlines()]
    return {f"{home}/pairs.jsonl:{lines.index(name) + 1}": code for name, (_, _, code) in names.items()}


def listed(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "bad_rows.jsonl").read_text().splitlines()]


def test_bad_rows_are_left_out_listed_and_counted(home: Path, tmp_path: Path) -> None:
    _, log = train(recipe_of(home, 0.5), tmp_path / "run")
    bad = listed(tmp_path / "run")
    opening = {line["where"]: line["code"] for line in bad if line["step"] is None}
    assert opening == rows_of(home, AT_OPENING)
    decoding = {line["where"]: line["code"] for line in bad if line["step"] is not None}
    assert decoding == rows_of(home, AT_DECODING), "all come once an epoch of 35 pairs, and 40 are asked for"
    asked = [line for line in bad if line["step"] is not None]
    for step, record in enumerate(log.records):
        assert record["pairs"] + record["skipped"] == 5
        assert record["skipped"] == sum(line["step"] == step for line in asked)
    assert sum(record["pairs"] for record in log.records) + len(asked) == 40
    receipt = json.loads((tmp_path / "run" / "model" / "cocoa.json").read_text())["receipt"]["stages"]["bridge"]
    assert (receipt["pairs"], receipt["skipped"]) == (40 - len(asked), len(asked))


def test_without_a_rate_the_first_bad_row_ends_the_run(home: Path, tmp_path: Path) -> None:
    with pytest.raises(CocoaError) as caught:
        train(recipe_of(home, None), tmp_path / "run")
    assert caught.value.where in rows_of(home, AT_OPENING | AT_DECODING)
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(("rate", "kind"), [(4 / 39, TrainingError), (3.99 / 39, DataError)])
def test_too_many_at_opening_are_refused_before_anything_is_trained(
    home: Path, tmp_path: Path, rate: float, kind: type
) -> None:
    """4 of 39 rows are bad when the table is opened; the others are only seen later."""
    with pytest.raises(CocoaError) as caught:
        train(recipe_of(home, rate), tmp_path / "run")
    assert caught.value.code == "E_DATA_BAD_ROWS"
    assert isinstance(caught.value, kind), "at the rate the run begins, and stops at the next bad row"
    if kind is DataError:
        assert "4 of 39 rows" in str(caught.value)
        assert not (tmp_path / "run" / "metrics.jsonl").exists()


def train_a_rank(recipe: Recipe, out: Path) -> None:
    train(recipe, out)


def test_two_ranks_leave_out_the_same_rows(home: Path, tmp_path: Path) -> None:
    train(recipe_of(home, 0.5), tmp_path / "one")
    run_ranks(2, train_a_rank, recipe_of(home, 0.5), tmp_path / "two")

    def told(out: Path) -> list[tuple]:
        return sorted((line["step"] is None, line["step"] or 0, line["where"], line["code"]) for line in listed(out))

    assert told(tmp_path / "two") == told(tmp_path / "one")
    counts = [
        [(record["pairs"], record["skipped"]) for record in map(json.loads, path.read_text().splitlines())]
        for path in (tmp_path / "one" / "metrics.jsonl", tmp_path / "two" / "metrics.jsonl")
    ]
    assert counts[0] == counts[1]


def test_a_resumed_run_lists_each_bad_row_once(home: Path, tmp_path: Path) -> None:
    recipe = recipe_of(home, 0.5)
    recipe = recipe.model_copy(update={"machine": recipe.machine.model_copy(update={"checkpoint_every": 3})})
    train(recipe, tmp_path / "whole")

    def pull(stage, record) -> None:
        if record["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", on_step=pull)
    train(recipe, tmp_path / "run", resume=True)

    def told(out: Path) -> list[str]:
        return sorted(json.dumps(line) for line in listed(out))

    assert told(tmp_path / "run") == told(tmp_path / "whole")


def test_texts_that_are_cut_are_counted(home: Path, tmp_path: Path) -> None:
    _, log = train(recipe_of(home, 0.5), tmp_path / "run")
    assert all(record["cut_texts"] == record["pairs"] for record in log.records), "16 tokens are too few for any"
    _, log = train(recipe_of(home, 0.5, max_tokens=64), tmp_path / "roomy")
    assert all(record["cut_texts"] == 0 for record in log.records)


def test_each_stage_counts_its_own_bad_rows(home: Path, tmp_path: Path) -> None:
    """Nine or ten of 39 rows a stage are within a quarter; those of two stages together would not be."""
    recipe = recipe_of(home, 0.26)
    again = recipe.stages[0].model_copy(update={"name": "again"})
    machine = recipe.machine.model_copy(update={"checkpoint_every": 3})
    recipe = recipe.model_copy(update={"stages": (recipe.stages[0], again), "machine": machine})

    def pull(stage, record) -> None:
        if stage.name == "again" and record["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", on_step=pull)
    _, log = train(recipe, tmp_path / "run", resume=True)
    assert len(log.records) == 16
