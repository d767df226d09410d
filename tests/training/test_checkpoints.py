"""Checkpoints: a run that is killed anywhere, any number of times, ends as one that was never killed."""

from __future__ import annotations

import errno
import fcntl
import json
import random
import resource
import shutil
import signal
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from make_golden_losses import save_backbone
from rank_runner import run_ranks, start_ranks

from cocoa.claims import Claims
from cocoa.errors import CocoaError, ModelError, TrainingError, TrainingStoppedError, UsageError
from cocoa.failpoints import FAILPOINTS
from cocoa.files import sha256
from cocoa.model import Card, EmbeddingModel
from cocoa.recipe import Recipe, parse_recipe
from cocoa.training import loop, run_folder
from cocoa.training.checkpoints import load_weights, newest_checkpoint
from cocoa.training.log import RunLog
from cocoa.training.loop import asked_to_stop, train
from cocoa.training.restoring import restored_model
from cocoa.training.setup import open_model
from cocoa.training.trainee import Trainee

TEXT = """
name: killed
seed: 5
backbone: {{name: "{folder}/backbone"}}
max_tokens: 64
machine: {{chunk_tokens: 128, workers: 2, checkpoint_every: 7, keep_checkpoints: 2}}
stages:
  - name: warm-up
    layout: bidirectional
    objectives: [{{kind: masked_text, rate: 0.2}}, {{kind: masked_patch}}]
    data: [{{kind: scene_pairs, seed: 1, num_pairs: 30, num_things: 32}}]
    steps: {steps}
    batch_size: 4
    learning_rate: 3e-4
  - name: bridge
    layout: eos_bridge
    objectives: [{{kind: masked_text, rate: 0.7, roles: [target]}}]
    data: [{{kind: scene_pairs, seed: 1, num_pairs: 30, num_things: 32}}]
    adapter: {{dropout: 0.1}}
    steps: {steps}
    batch_size: 4
    learning_rate: 3e-4
    schedule: cosine
    warmup_steps: 2
  - name: contrastive
    layout: bidirectional
    objectives: [{{kind: contrastive, temperature: 0.2}}]
    data: [{{kind: mmeb_train, path: "{folder}/train.jsonl"}}]
    steps: {steps}
    batch_size: 5
    learning_rate: 3e-4
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with a backbone and a table of queries with unequal numbers of hard negatives."""
    folder = tmp_path_factory.mktemp("killed")
    save_backbone(folder / "backbone")
    rows = [
        {
            "qry": f"what is number {number}",
            "qry_image_path": "",
            "pos_text": f"it is {number}",
            "pos_image_path": "",
            "neg_text": [f"it is {number + other}" for other in range(1, 1 + number % 3)],
        }
        for number in range(17)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe_of(home: Path, steps: int = 20, **machine) -> Recipe:
    recipe = parse_recipe(TEXT.format(folder=home, steps=steps))
    return recipe.model_copy(update={"machine": recipe.machine.model_copy(update=machine)})


def train_a_rank(recipe: Recipe, out: Path, resume: bool) -> None:
    train(recipe, out, resume=resume)


def outcome(out: Path) -> tuple[list[dict[str, str]], str]:
    """Each step's losses to the last bit, and the final weights' digest."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [
        {"stage": record["stage"], "step": str(record["step"])}
        | {name: float(loss).hex() for name, loss in record["losses"].items()}
        for record in records
    ]
    return losses, sha256(out / "model" / "model.safetensors")


def survive(recipe: Recipe, out: Path, kills: int, chance: random.Random) -> int:
    """Runs two ranks to the end although killed up to `kills` times at random moments; returns how often they were."""
    killed = 0
    while not (out / "model").exists():
        processes, _ = start_ranks(2, train_a_rank, recipe, out, (out / "recipe.yaml").exists())
        if killed < kills:
            before = _size(out / "metrics.jsonl")
            end = time.monotonic() + 60
            # Mostly while it trains, sometimes while it starts.
            waits = chance.random() < 0.8
            while waits and _size(out / "metrics.jsonl") in (0, before) and processes[0].is_alive():
                assert time.monotonic() < end
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.6))
            killed += any(process.is_alive() for process in processes)
            for process in processes:
                process.kill()
        for process in processes:
            process.join(120)
            assert not process.is_alive()
    return killed


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@pytest.fixture(scope="module")
def unkilled(home: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("unkilled") / "run"
    run_ranks(2, train_a_rank, recipe_of(home), out, False)
    return out


def killed_often(home: Path, unkilled: Path, folder: Path, total: int) -> None:
    expected = outcome(unkilled)
    assert len(expected[0]) == 60
    killed = 0
    for number in range(total):
        if killed < total:
            out = folder / f"run-{number}"
            killed += survive(recipe_of(home), out, total - killed, random.Random(number))
            assert outcome(out) == expected
    assert killed >= total


def test_twelve_kills_of_two_ranks_change_no_bit(home: Path, unkilled: Path, tmp_path: Path) -> None:
    killed_often(home, unkilled, tmp_path, 12)


@pytest.mark.slow
def test_soak_a_hundred_kills_change_no_bit(home: Path, unkilled: Path, tmp_path: Path) -> None:
    killed_often(home, unkilled, tmp_path, 100)


@pytest.fixture(scope="module")
def short_run(home: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("short") / "run"
    run_ranks(1, train_a_rank, recipe_of(home, steps=4, checkpoint_every=2, keep_checkpoints=1), out, False)
    return out


@pytest.mark.parametrize("place", FAILPOINTS)
def test_a_kill_at_each_place_of_the_writing_code_loses_nothing(
    home: Path, short_run: Path, tmp_path: Path, place: str
) -> None:
    recipe = recipe_of(home, steps=4, checkpoint_every=2, keep_checkpoints=1)
    out = tmp_path / "run"
    # The first time may be before there is any checkpoint, the third is after the first one is gone.
    for number in (1, 3):
        if (out / "model").exists():
            shutil.rmtree(out)
        resume = (out / "recipe.yaml").exists()
        if out.exists() and not resume:
            shutil.rmtree(out)
        processes, _ = start_ranks(
            1, train_a_rank, recipe, out, resume, environment={"COCOA_FAILPOINT": f"{place}:{number}"}
        )
        processes[0].join(60)
        assert processes[0].exitcode == -signal.SIGKILL, f"{place} was never passed {number} times"
    if (out / "model").exists():  # killed while the finished model was being made known
        assert outcome(out) == outcome(short_run)
        return
    run_ranks(1, train_a_rank, recipe, out, (out / "recipe.yaml").exists())
    assert outcome(out) == outcome(short_run)
    left = [path for folder in (out, out / "checkpoints") for path in folder.glob(".*.draft")]
    assert not left, "half-written files are swept"


def test_a_sharded_run_survives_too(home: Path, tmp_path: Path) -> None:
    recipe = recipe_of(home, steps=5, checkpoint_every=2, sharding=True)
    run_ranks(2, train_a_rank, recipe, tmp_path / "whole", False)
    assert survive(recipe, tmp_path / "run", 2, random.Random(0)) == 2
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


class PulledPlugError(Exception):
    """Ends a run between two steps."""


def interrupted(recipe: Recipe, out: Path, after: int) -> None:
    seen = []

    def pull(stage, record) -> None:
        seen.append(record)
        if len(seen) == after:
            raise PulledPlugError

    with pytest.raises(PulledPlugError):
        train(recipe, out, on_step=pull)


def resumed(recipe: Recipe, out: Path) -> list[str]:
    said: list[str] = []
    train(recipe, out, resume=True, say=said.append)
    return said


def test_a_resumed_run_goes_on_from_the_newest_checkpoint(home: Path, short_run: Path, tmp_path: Path) -> None:
    recipe = recipe_of(home, steps=4, checkpoint_every=2, keep_checkpoints=3)
    interrupted(recipe, tmp_path / "run", after=7)
    checkpoint, passed = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert (checkpoint.stage, checkpoint.step, checkpoint.num_steps, passed) == (1, 2, 6, [])
    assert {path.name for path in checkpoint.folder.iterdir()} == {
        "weights.safetensors", "optimiser.safetensors", "state.json", "files.json"
    }  # fmt: skip
    assert "resuming after step 6" in resumed(recipe, tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(short_run)


def test_a_run_that_has_seen_its_rare_pictures_may_be_resumed_without_any_left(home: Path, tmp_path: Path) -> None:
    recipe = recipe_of(home, steps=6, checkpoint_every=1)
    [pictures], [texts] = recipe.stages[0].data, recipe.stages[2].data
    data = (pictures.model_copy(update={"num_pairs": 1}), texts)
    recipe = recipe.model_copy(update={"stages": (recipe.stages[0].model_copy(update={"data": data}),)})
    _, log = train(recipe, tmp_path / "whole")
    shows_a_picture = [record["losses"]["masked_patch"] > 0 for record in log.records]
    last = max(step for step, shows in enumerate(shows_a_picture) if shows)
    assert last < 5, "steps without a picture are left"
    interrupted(recipe, tmp_path / "run", after=last + 2)
    assert f"resuming after step {last + 1}" in resumed(recipe, tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_a_run_in_bfloat16_goes_on_from_between_two_stages(home: Path, tmp_path: Path) -> None:
    recipe = recipe_of(home, steps=3).model_copy(update={"precision": "bfloat16"})
    train(recipe, tmp_path / "whole")
    interrupted(recipe, tmp_path / "run", after=5)
    assert "resuming after step 3" in resumed(recipe, tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_a_run_may_go_on_with_another_number_of_ranks(home: Path, tmp_path: Path) -> None:
    recipe = recipe_of(home, steps=4, checkpoint_every=2)
    stages = (recipe.stages[0], recipe.stages[2])  # without dropout, which draws for each rank
    recipe = recipe.model_copy(update={"stages": stages})
    train(recipe, tmp_path / "whole")
    interrupted(recipe, tmp_path / "run", after=3)
    run_ranks(2, train_a_rank, recipe, tmp_path / "run", True)
    for one, two in zip(outcome(tmp_path / "whole")[0], outcome(tmp_path / "run")[0], strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() - {"stage", "step"}:
            assert float.fromhex(two[name]) == pytest.approx(float.fromhex(one[name]), rel=1e-5)


@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "no manifest", "state"])
def test_a_damaged_checkpoint_is_passed_over_with_the_reason(
    home: Path, short_run: Path, tmp_path: Path, damage: str
) -> None:
    recipe = recipe_of(home, steps=4, checkpoint_every=2, keep_checkpoints=3)
    interrupted(recipe, tmp_path / "run", after=7)
    newest, _ = newest_checkpoint(tmp_path / "run" / "checkpoints")
    weights = newest.folder / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    match damage:
        case "cut":
            weights.write_bytes(content[: len(content) // 2])
        case "flip":
            content[len(content) // 2] ^= 1
            weights.write_bytes(content)
        case "remove":
            weights.unlink()
        case "no manifest":
            (newest.folder / "files.json").unlink()
        case "state":
            (newest.folder / "state.json").write_text("{}")
    said = resumed(recipe, tmp_path / "run")
    assert said[0].startswith(f"passed over checkpoint {newest.folder.name} is not complete: ")
    file = {"no manifest": "files.json", "state": "state.json"}.get(damage, "weights.safetensors")
    assert file in said[0]
    assert "resuming after step 4" in said
    assert outcome(tmp_path / "run") == outcome(short_run)


def test_a_damaged_checkpoint_does_not_push_out_a_whole_one(home: Path, tmp_path: Path) -> None:
    interrupted(recipe_of(home, steps=8, checkpoint_every=4), tmp_path / "run", after=13)
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "00000012" / "weights.safetensors").write_bytes(b"")

    def ask(stage, record) -> None:
        signal.raise_signal(signal.SIGTERM)

    recipe = recipe_of(home, steps=8, keep_checkpoints=1)
    with pytest.raises(TrainingStoppedError):
        train(recipe, tmp_path / "run", resume=True, on_step=ask)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["00000010", "00000012.passed-over"]
    assert "resuming after step 10" in resumed(recipe, tmp_path / "run")


@pytest.mark.parametrize("tail", [b'{"step": 2, "stage": "bri', b"\0\0\0\0\n\0\n", b'\xff\xfe\n{"step": 9}\n'])
def test_a_log_that_a_power_cut_left_torn_is_cut_to_its_checkpoint(
    home: Path, short_run: Path, tmp_path: Path, tail: bytes
) -> None:
    recipe = recipe_of(home, steps=4, checkpoint_every=2)
    interrupted(recipe, tmp_path / "run", after=7)
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:6]) + tail)
    assert "resuming after step 6" in resumed(recipe, tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(short_run)


def test_the_log_is_on_the_disk_before_the_checkpoint_is(home: Path, tmp_path: Path, monkeypatch) -> None:
    order = []
    real = run_folder.save_checkpoint
    monkeypatch.setattr(run_folder.RunLog, "sync", lambda log: order.append(len(log.records)))
    monkeypatch.setattr(
        run_folder, "save_checkpoint", lambda *given, **kept: order.append("checkpoint") or real(*given, **kept)
    )
    interrupted(recipe_of(home, steps=4, checkpoint_every=2), tmp_path / "run", after=5)
    assert order == [2, "checkpoint", 4, "checkpoint"]


def test_only_the_newest_checkpoints_are_kept(short_run: Path, unkilled: Path) -> None:
    assert sorted(path.name for path in (short_run / "checkpoints").iterdir()) == ["00000012"]
    assert sorted(path.name for path in (unkilled / "checkpoints").iterdir()) == ["00000054", "00000060"]


def test_another_recipe_is_refused_and_the_options_are_named(home: Path, tmp_path: Path) -> None:
    recipe = recipe_of(home, steps=4, checkpoint_every=2)
    interrupted(recipe, tmp_path / "run", after=3)
    stage = recipe.stages[1].model_copy(update={"learning_rate": 1e-4})
    other = recipe.model_copy(update={"seed": 6, "stages": (recipe.stages[0], stage, recipe.stages[2])})
    with pytest.raises(UsageError) as caught:
        train(other, tmp_path / "run", resume=True)
    assert caught.value.code == "E_USAGE_RESUME"
    assert "seed: 5, not 6" in str(caught.value)
    assert "stages.1.learning_rate: 0.0003, not 0.0001" in str(caught.value)


def test_a_run_whose_data_has_changed_is_not_resumed(home: Path, short_run: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(home, own)
    recipe = recipe_of(own, steps=4, checkpoint_every=3)
    stopped = recipe.model_copy(update={"stages": recipe.stages[2:]})
    with pytest.raises(KeyboardInterrupt):
        train(stopped, tmp_path / "run", on_step=interrupt)
    table = own / "train.jsonl"
    told = json.loads((tmp_path / "run" / "data.json").read_text())
    assert told == {str(table): {"train.jsonl": sha256(table)}}
    rows = table.read_text()
    table.write_text(rows + rows.splitlines()[0] + "\n")
    with pytest.raises(UsageError, match=r"data has changed since the run was begun: \S+train\.jsonl") as caught:
        train(stopped, tmp_path / "run", resume=True)
    assert caught.value.code == "E_USAGE_RESUME"
    _, told = restored_model(tmp_path / "run")
    assert told["data"] != {}
    assert next(iter(told["data"].values())) != {"train.jsonl": sha256(table)}, "the run's data, not today's"
    table.write_text(rows)
    assert "resuming after step 3" in resumed(stopped, tmp_path / "run")


def smaller_pictures(backbone: Path) -> None:
    path = backbone / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    settings["size"]["longest_edge"] = settings["size"]["shortest_edge"]
    path.write_text(json.dumps(settings))


def test_a_run_goes_on_with_the_commit_of_the_hub_that_it_began_from(
    home: Path, short_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, copy = "a" * 40, "b" * 40, tmp_path / "hub" / "models--somebody--owls"
    shutil.copytree(home / "backbone", copy / "snapshots" / old)
    (copy / "refs").mkdir()
    (copy / "refs" / "main").write_text(old)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    recipe = recipe_of(home, steps=4, checkpoint_every=2)
    named = recipe.backbone.model_copy(update={"name": "somebody/owls"})
    recipe = recipe.model_copy(update={"backbone": named})
    interrupted(recipe, tmp_path / "run", after=3)
    # Another commit is pushed, which sees pictures differently.
    smaller_pictures(shutil.copytree(copy / "snapshots" / old, copy / "snapshots" / new))
    (copy / "refs" / "main").write_text(new)
    model, told = restored_model(tmp_path / "run")
    assert (model.backbone.commit, told["backbone"]) == (old, {"commit": old})
    resumed(recipe, tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(short_run)
    assert Card.read(tmp_path / "run" / "model").receipt["backbone"] == {"commit": old}


def test_a_run_whose_backbones_folder_has_changed_is_not_resumed(home: Path, short_run: Path, tmp_path: Path) -> None:
    own = shutil.copytree(home, tmp_path / "own")
    recipe = recipe_of(own, steps=4, checkpoint_every=2)
    interrupted(recipe, tmp_path / "run", after=3)
    smaller_pictures(own / "backbone")
    message = r"backbone\S* has changed since the run was begun: preprocessor_config\.json"
    with pytest.raises(UsageError, match=message) as caught:
        train(recipe, tmp_path / "run", resume=True)
    assert caught.value.code == "E_USAGE_RESUME"
    with pytest.raises(TrainingError, match="has changed since the run was begun") as refused:
        restored_model(tmp_path / "run")
    assert refused.value.code == "E_TRAINING_CHECKPOINT"
    # What does not make the backbone, and weights, which the checkpoint has, may change.
    shutil.copy(home / "backbone" / "preprocessor_config.json", own / "backbone")
    (own / "backbone" / "note.json").write_text("{}")
    resumed(recipe, tmp_path / "run")
    assert "note.json" not in Card.read(tmp_path / "run" / "model").receipt["backbone"]


def interrupt(stage: object, record: dict[str, object]) -> None:
    if record["step"] == 3:
        raise KeyboardInterrupt


def test_how_a_run_is_computed_may_change_when_it_is_resumed(home: Path, short_run: Path, tmp_path: Path) -> None:
    interrupted(recipe_of(home, steps=4, checkpoint_every=2), tmp_path / "run", after=3)
    resumed(recipe_of(home, steps=4, checkpoint_every=3, workers=0, chunk_tokens=64), tmp_path / "run")
    found, _ = outcome(tmp_path / "run")
    expected, _ = outcome(short_run)
    assert [line["step"] for line in found] == [line["step"] for line in expected]


@pytest.mark.parametrize("what", ["nothing there", "finished", "not resumed", "finished and not resumed"])
def test_what_cannot_be_resumed_is_refused(home: Path, short_run: Path, tmp_path: Path, what: str) -> None:
    recipe = recipe_of(home, steps=4, checkpoint_every=2, keep_checkpoints=1)
    interrupted(recipe, tmp_path / "begun", after=3)
    out, resume, message = {
        "nothing there": (tmp_path / "new", True, "no run to resume"),
        "finished": (short_run, True, "the run is finished"),
        "not resumed": (tmp_path / "begun", False, "--resume goes on with it"),
        "finished and not resumed": (short_run, False, "the run in it is finished"),
    }[what]
    with pytest.raises(UsageError, match=message):
        train(recipe, out, resume=resume)


def test_a_folder_that_cannot_be_written_is_refused_before_data_is_read(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cocoa.training.loop.open_data", lambda *given: pytest.fail("data was read"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file is not a folder") as caught:
        train(recipe_of(home, steps=4), tmp_path / "file" / "run")
    assert caught.value.code == "E_USAGE_OUT"
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UsageError, match="is not writable"):
        train(recipe_of(home, steps=4), tmp_path / "new" / "run")


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("no folder", "E_MODEL_MISSING"),
        ("no weights", "E_MODEL_WEIGHTS"),
        ("weights cut short", "E_MODEL_WEIGHTS"),
        ("a shard is missing", "E_MODEL_WEIGHTS"),
        ("another family", "E_MODEL_FAMILY"),
        ("no tokenizer", "E_MODEL_TOKENIZER"),
    ],
)
def test_a_backbone_that_cannot_be_used_is_refused_before_data_is_read(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, code: str
) -> None:
    monkeypatch.setattr("cocoa.training.loop.open_data", lambda *given: pytest.fail("data was read"))
    recipe = recipe_of(home, steps=4)
    folder = tmp_path / "backbone"
    save_backbone(folder)
    weights = folder / "model.safetensors"
    match what:
        case "no folder":
            shutil.rmtree(folder)
        case "no weights":
            weights.unlink()
        case "weights cut short":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "a shard is missing":
            weights.rename(folder / "model-00001-of-00002.safetensors")
            shards = {"one": "model-00001-of-00002.safetensors", "two": "model-00002-of-00002.safetensors"}
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
        case "another family":
            (folder / "config.json").write_text('{"model_type": "bert"}')
        case "no tokenizer":
            (folder / "tokenizer.json").unlink()
    backbone = recipe.backbone.model_copy(update={"name": str(folder)})
    with pytest.raises(ModelError) as caught:
        train(recipe.model_copy(update={"backbone": backbone}), tmp_path / "run")
    assert caught.value.code == code
    assert "backbone" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_sigterm_leaves_a_checkpoint_of_the_last_step(home: Path, short_run: Path, tmp_path: Path) -> None:
    recipe = recipe_of(home, steps=4, checkpoint_every=None)

    def ask(stage, record) -> None:
        if record["step"] == 1 and stage.name == "bridge":
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingStoppedError) as caught:
        train(recipe, tmp_path / "run", on_step=ask)
    assert caught.value.exit_code == 0
    assert signal.getsignal(signal.SIGTERM) == before
    checkpoint, _ = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert (checkpoint.stage, checkpoint.step) == (1, 3), "the step that was under way is finished"
    resumed(recipe, tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(short_run)


def test_a_handler_of_sigterm_that_is_not_pythons_does_not_end_a_run_that_is_over(monkeypatch) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    # What Python answers where a library has set the handler.
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    try:
        with asked_to_stop() as stop:
            signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        monkeypatch.undo()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_ctrl_c_leaves_a_checkpoint_too_and_once_more_ends_the_run_at_once(
    home: Path, tmp_path: Path, at_a_keyboard: None
) -> None:
    recipe = recipe_of(home, steps=4, checkpoint_every=None)

    def ask(stage, record) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    said: list[str] = []
    with pytest.raises(TrainingStoppedError, match=r"after step 2 \(2 of 4 of stage warm-up\)") as caught:
        train(
            recipe,
            tmp_path / "run",
            on_step=lambda stage, record: record["step"] or ask(stage, record),
            say=said.append,
        )
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) == before
    assert said == ["stopping after this step, with a checkpoint; Ctrl-C again ends it at once"]
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "other", on_step=ask)
    assert not list((tmp_path / "other").glob("checkpoints/*"))


def test_ctrl_c_after_the_ranks_have_asked_each_other_is_told_of_once_and_obeyed_a_step_later(
    home: Path, tmp_path: Path, monkeypatch, at_a_keyboard: None
) -> None:
    plain, said = loop._Run._notice, []

    def late(self, stage, pairs, stop):
        notice = plain(self, stage, pairs, stop)
        if not stop.is_set():
            signal.raise_signal(signal.SIGINT)
        return notice

    monkeypatch.setattr(loop._Run, "_notice", late)
    with pytest.raises(TrainingStoppedError, match="after step 2 "):
        train(recipe_of(home, steps=4), tmp_path / "run", say=said.append)
    assert said == ["stopping after this step, with a checkpoint; Ctrl-C again ends it at once"]


def test_ctrl_c_stays_ignored_where_it_was(home: Path, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        train(recipe_of(home, steps=4), tmp_path / "run", on_step=lambda *_: signal.raise_signal(signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "run" / "model").is_dir()


def test_a_wrong_weight_is_refused_by_name(home: Path, short_run: Path) -> None:
    recipe = recipe_of(home)
    checkpoint, _ = newest_checkpoint(short_run / "checkpoints")
    trainee = Trainee(open_model(recipe), recipe.stages[0], [])
    load_weights(trainee, checkpoint)
    good = checkpoint.weights()
    name = "model.backbone.stock.model.language_model.layers.1.mlp.up_proj.weight"
    for change, message in (
        ({name: None}, f"the checkpoint lacks {name}"),
        ({"extra": torch.zeros(1)}, "the checkpoint has unexpected extra"),
        ({name: torch.zeros(2, 2)}, f"{name} is \\(2, 2\\)"),
        ({name: good[name].bfloat16()}, f"{name} is .*bfloat16"),
    ):
        weights = {key: value for key, value in (good | change).items() if value is not None}
        fake = type("Fake", (), {"weights": lambda self, weights=weights: weights, "folder": checkpoint.folder})()
        with pytest.raises(TrainingError, match=message) as caught:
            load_weights(trainee, fake)
        assert caught.value.code == "E_TRAINING_CHECKPOINT"


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(home: Path, tmp_path: Path) -> None:
    recipe = recipe_of(home, steps=6, checkpoint_every=2)
    stage = recipe.stages[0].model_copy(update={"learning_rate": 1e9, "warmup_steps": 0, "schedule": "constant"})
    with pytest.raises(TrainingError) as caught:
        train(recipe.model_copy(update={"stages": (stage,)}), tmp_path / "run")
    assert caught.value.code == "E_TRAINING_DIVERGED"
    assert "rows: generated pair" in str(caught.value)
    assert not (tmp_path / "run" / "model").exists()
    for path in (tmp_path / "run" / "checkpoints").glob("0*"):
        for weight in newest_checkpoint(path.parent)[0].weights().values():
            assert torch.isfinite(weight).all()


def train_on_a_full_disk(recipe: Recipe, out: Path) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        train(recipe, out, resume=True)
    except (OSError, CocoaError) as error:
        return type(error).__name__
    return "no error"


def test_a_full_disk_leaves_the_old_checkpoint_and_the_run_can_go_on(
    home: Path, short_run: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(home, steps=4, checkpoint_every=2, keep_checkpoints=1)
    interrupted(recipe, tmp_path / "run", after=3)
    old, _ = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert run_ranks(1, train_on_a_full_disk, recipe, tmp_path / "run") != ["no error"]
    now, passed = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert (now.num_steps, passed) == (old.num_steps, [])
    resumed(recipe, tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(short_run)


def test_a_model_that_finds_no_room_is_told_by_its_place_and_written_when_there_is_some(
    home: Path, short_run: Path, tmp_path: Path, monkeypatch
) -> None:
    recipe = recipe_of(home, steps=4, checkpoint_every=2, keep_checkpoints=1)

    def full(self, folder, **rest) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingModel, "save", full)
        with pytest.raises(TrainingError, match=r"No space left on device.*the last checkpoint has all") as caught:
            train(recipe, tmp_path / "run")
    assert (caught.value.code, caught.value.where) == ("E_TRAINING_MODEL", str(tmp_path / "run" / "model"))
    resumed(recipe, tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(short_run)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_log_that_finds_no_room_is_named() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        RunLog(Path("/dev/full")).add({"step": 0})
    assert caught.value.filename == "/dev/full"


def be_a_run(out: Path) -> None:
    with Claims(out) as claims:
        assert claims.take("run")
        (out / "taken").touch()
        time.sleep(120)


def test_a_folder_in_which_a_run_is_at_work_is_left_alone(home: Path, short_run: Path, tmp_path: Path) -> None:
    recipe, out = recipe_of(home, steps=4, checkpoint_every=2, keep_checkpoints=1), tmp_path / "run"
    [other], _ = start_ranks(1, be_a_run, out)
    while not (out / "taken").exists():
        time.sleep(0.01)
    (out / "taken").unlink()
    with pytest.raises(UsageError) as caught:  # begun while the other had not yet written anything
        train(recipe, out)
    assert (caught.value.code, caught.value.where) == ("E_USAGE_BUSY", str(out))
    assert [path.name for path in out.iterdir()] == [".claims"]
    other.kill()
    other.join()
    interrupted(recipe, out, after=3)  # the dead one is not in the way
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    [other], _ = start_ranks(1, be_a_run, out)
    while not (out / "taken").exists():
        time.sleep(0.01)
    (out / "taken").unlink()
    with pytest.raises(UsageError, match="another run is at work"):
        train(recipe, out, resume=True)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
    other.kill()
    other.join()
    resumed(recipe, out)
    assert outcome(out) == outcome(short_run)


def test_a_run_that_began_and_ended_while_the_data_was_read_is_not_written_over(
    home: Path, tmp_path: Path, monkeypatch
) -> None:
    recipe = recipe_of(home, steps=4)

    def meanwhile(*arguments, **options):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "recipe.yaml").write_text("another's")
        return open_model(*arguments, **options)

    monkeypatch.setattr("cocoa.training.loop.open_model", meanwhile)
    with pytest.raises(UsageError, match="not empty"):
        train(recipe, tmp_path / "run")
    assert (tmp_path / "run" / "recipe.yaml").read_text() == "another's"


def test_a_file_system_without_locks_is_told_of_and_no_hindrance(home: Path, tmp_path: Path, monkeypatch) -> None:
    def none(*arguments) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    said: list[str] = []
    train(recipe_of(home, steps=3), tmp_path / "run", say=said.append)
    assert any("no locks" in line for line in said)
    assert (tmp_path / "run" / "model").is_dir()


def test_the_model_of_a_resumed_run_opens(short_run: Path) -> None:
    assert EmbeddingModel.load(short_run / "model").layout == "bidirectional"
