"""Ranks: two processes give the numbers of one, in whatever way the weights are kept; and none outlives another."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from make_golden_losses import make_recipe as three_stages
from make_golden_losses import save_backbone
from rank_runner import run_ranks, start_ranks
from stages import (
    LARGE,
    SMALL,
    STAGES,
    assert_equal_gradients,
    calm_backbone,
    gradients,
    make_pairs,
    make_recipe,
    plain_sample,
    ready,
)

from cocoa.data.mixing import Mixture
from cocoa.data.scene_pairs import ScenePairs
from cocoa.errors import CocoaError, UsageError
from cocoa.recipe import MachineOptions
from cocoa.training.batches import prefetched
from cocoa.training.loop import train
from cocoa.training.ranks import Ranks

FIRST = ["warm-up", "bridge", "contrastive"]


def test_a_rank_without_a_gpu_of_its_own_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for name, value in {"RANK": "4", "LOCAL_RANK": "4", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="4 are seen") as caught:
        Ranks.join()
    assert caught.value.code == "E_USAGE_RANKS"


def test_one_rank_needs_no_others(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("RANK", "0")
    for size in ("1", None):  # what torchrun says to one, and what something else may have left
        if size is None:
            monkeypatch.delenv("WORLD_SIZE")
        else:
            monkeypatch.setenv("WORLD_SIZE", size)
        assert Ranks.join() == Ranks(0, 1, torch.device("cpu"))
        assert not torch.distributed.is_initialized()


def what_a_rank_is_told():
    ranks = Ranks.join()
    own = [f"{ranks.number} says: ü"] * ranks.number
    told = ranks.agree("alike"), ranks.agree(str(ranks.number == 2)), ranks.lines(own), ranks.lines([])
    ranks.leave()
    return told


def test_ranks_know_whether_they_agree_and_what_each_says() -> None:
    expected = (True, False, ["1 says: ü", "2 says: ü", "2 says: ü"], [])
    assert run_ranks(3, what_a_rank_is_told) == [expected] * 3


def steps_of_a_rank(cases, sharded: bool, most: int | None = None):
    """All cases in one process, because a process takes seconds to start; the first `most` pairs of each."""
    ranks = Ranks.join()
    answers = []
    for name, extra, top, machine in cases:
        setup = ready(calm_backbone(), make_recipe(name, extra, top), sharded=sharded)
        tally, found = gradients(setup, make_pairs(plain_sample)[:most], machine, ranks)
        answers.append((tally.losses, tally.num_tokens, found))
    ranks.leave()
    return answers


CASES = [
    *((name, "", "", machine) for name in FIRST for machine in (LARGE, SMALL)),
    *((name, "adapter: {dropout: 0.0}", "", SMALL) for name in FIRST),
    ("warm-up", "freeze_vision: true", "", SMALL),
    ("contrastive", "freeze_vision: true", "", SMALL),
    ("bridge", "", "machine: {activation_checkpointing: true}", SMALL),
    ("contrastive", "adapter: {dropout: 0.0}", "precision: bfloat16", SMALL),
    # Here the ranks have unlike numbers of the decoders' passes, and one of them has no picture to paint.
    *((name, "", "", machine) for name in ("joint", "joint-patches") for machine in (LARGE, SMALL)),
    ("joint-patches", "freeze_vision: true", "", SMALL),
    ("joint-patches", "adapter: {dropout: 0.0}", "", SMALL),
    ("joint-patches", "", "machine: {activation_checkpointing: true}", LARGE),
]


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_two_ranks_give_the_loss_and_gradients_of_one(sharded: bool) -> None:
    both = run_ranks(2, steps_of_a_rank, CASES, sharded)
    for number, (name, extra, top, machine) in enumerate(CASES):
        setup = ready(calm_backbone(), make_recipe(name, extra, top))
        tally, expected = gradients(setup, make_pairs(plain_sample), machine)
        for losses, num_tokens, found in (answers[number] for answers in both):
            rough = "bfloat16" in top
            assert losses == pytest.approx(tally.losses, rel=2e-2 if rough else 1e-6), CASES[number]
            assert num_tokens == tally.num_tokens
            assert_equal_gradients(expected, found, 5e-2 if rough else 1e-6)


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_a_rank_without_pairs_takes_part_and_adds_nothing(sharded: bool) -> None:
    cases = [(name, "", "", machine) for name in sorted(STAGES) for machine in (LARGE, SMALL)]
    all_three = run_ranks(3, steps_of_a_rank, cases, sharded, 2)
    for number, (name, extra, top, machine) in enumerate(cases):
        setup = ready(calm_backbone(), make_recipe(name, extra, top))
        tally, expected = gradients(setup, make_pairs(plain_sample)[:2], machine)
        for losses, num_tokens, found in (answers[number] for answers in all_three):
            assert losses == pytest.approx(tally.losses, rel=1e-6), cases[number]
            assert num_tokens == tally.num_tokens
            # Sharded weights that nothing needs have a gradient of 0 where whole ones have none.
            assert not any(found[weight].any() for weight in found.keys() - expected.keys())
            assert_equal_gradients(expected, {weight: found[weight] for weight in expected}, 1e-6)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_the_order_of_pairs_depends_on_seed_and_step_alone(ranks: int, workers: int) -> None:
    backbone = calm_backbone()
    mixture = Mixture([ScenePairs(seed=1, num_pairs=7)], 3)
    expected = [[mixture.pair(step * 6 + place).target.text for place in range(6)] for step in range(2, 5)]
    shares = []
    for number in range(ranks):
        batches = prefetched(
            backbone,
            mixture,
            Ranks(number, ranks, torch.device("cpu")),
            steps=range(2, 5),
            batch_size=6,
            workers=workers,
            fit=lambda pair: 0,
            skip_bad=False,
        )
        shares.append([[backbone.text.words(one.ids.tolist()) for one in pairs.targets] for pairs in batches])
    found = [[text for share in shares for text in share[step]] for step in range(3)]
    assert found == expected


def train_a_rank(recipe, out: Path):
    model, log = train(recipe, out)
    weights = {name: weight.tolist() for name, weight in list(model.state_dict().items())[:6]}
    return [record["losses"] for record in log.records], weights


@pytest.fixture(scope="module")
def backbone_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks") / "backbone"
    save_backbone(folder)
    return folder


@pytest.mark.parametrize("sharding", [False, True])
def test_a_run_on_two_ranks_is_the_run_of_one(backbone_folder: Path, tmp_path: Path, sharding: bool) -> None:
    recipe = three_stages(backbone_folder)
    pulled = {"steps": 3, "weight_decay": 0.5, "max_grad_norm": 0.1}
    stages = [stage.model_copy(update=pulled) for stage in recipe.stages]
    stages[1] = stages[1].model_copy(
        update={"adapter": make_recipe("bridge", "adapter: {dropout: 0.0}").stages[0].adapter}
    )
    recipe = recipe.model_copy(update={"stages": tuple(stages)})
    alone, weights = run_ranks(1, train_a_rank, recipe, tmp_path / "one")[0]
    machine = MachineOptions(sharding=sharding)
    both = run_ranks(2, train_a_rank, recipe.model_copy(update={"machine": machine}), tmp_path / "two")
    assert both[0][1] == both[1][1], "the ranks hold the same model"
    found = [json.loads(line)["losses"] for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert len(found) == len(alone) == 9
    for one, two in zip(alone, found, strict=True):
        assert two == pytest.approx(one, rel=2e-5)
    for name, weight in weights.items():
        assert torch.allclose(torch.tensor(both[0][1][name]), torch.tensor(weight), atol=2e-4), name


def with_a_broken_picture(folder: Path) -> Path:
    """A table whose row 6 names a picture that is not one."""
    from making import make_picture

    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(8):
        make_picture(56, 56, number).save(folder / "images" / f"{number}.png")
        rows.append({"image_path": f"{number}.png", "text": f"a picture of number {number}"})
    (folder / "images" / "5.png").write_bytes(b"not a picture")
    table = folder / "pairs.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return table


def broken_recipe(backbone_folder: Path, table: Path, steps: int = 4):
    recipe = three_stages(backbone_folder)
    source = type(make_recipe("bridge").stages[0].data[0])
    assert source.__name__ == "ScenePairsSource"
    from cocoa.data.sources import ImageTextPairsSource

    stage = recipe.stages[1].model_copy(update={"data": (ImageTextPairsSource(path=table),), "steps": steps})
    return recipe.model_copy(update={"stages": (stage,)})


def test_a_bad_row_on_one_rank_ends_all_and_is_named(backbone_folder: Path, tmp_path: Path) -> None:
    recipe = broken_recipe(backbone_folder, with_a_broken_picture(tmp_path / "data"))
    processes, folder = start_ranks(2, train_a_rank, recipe, tmp_path / "run")
    began = time.monotonic()
    for process in processes:
        process.join(60)
    assert all(process.exitcode for process in processes)
    assert time.monotonic() - began < 60
    texts = [(folder / f"{rank}").read_bytes().decode(errors="replace") for rank in range(2)]
    assert any("pairs.jsonl:6" in text and "E_IMAGE_OPEN" in text for text in texts)
    assert not (tmp_path / "run" / "model").exists()


def train_in_a_place_of_its_own(recipes, out: Path, resume: bool):
    number = int(os.environ["RANK"])
    return refusal(recipes[number], out / f"{number}", resume=resume)


def refusal(recipe, out: Path, *, resume: bool = False) -> str:
    try:
        train(recipe, out, resume=resume)
    except CocoaError as error:
        return str(error)
    return "trained"


@pytest.mark.parametrize("change", [{"seed": 9}, {"machine": MachineOptions(sharding=True)}], ids=["seed", "machine"])
def test_ranks_that_were_not_started_alike_are_refused(backbone_folder: Path, tmp_path: Path, change) -> None:
    """Else each would train on its own, and nobody would see it."""
    recipe = three_stages(backbone_folder)
    unlike = [recipe, recipe.model_copy(update=change)]
    for said in run_ranks(2, train_in_a_place_of_its_own, unlike, tmp_path, False):
        assert "the ranks do not have the same recipe" in said
        assert "E_USAGE_RANKS" in said
    assert not (tmp_path / "0").exists()


def train_with_rows_of_ones_own(recipe, out: Path):
    from cocoa.training import loop

    limit = 5 + Ranks.join().number
    plain = loop.open_data
    loop.open_data = lambda recipe, stage, bad: plain(
        recipe, stage.model_copy(update={"data": (stage.data[0].model_copy(update={"limit": limit}),)}), bad
    )
    return refusal(recipe, out)


def test_ranks_that_read_unlike_tables_are_refused(backbone_folder: Path, tmp_path: Path) -> None:
    recipe = broken_recipe(backbone_folder, with_a_broken_picture(tmp_path / "data"))
    for said in run_ranks(2, train_with_rows_of_ones_own, recipe, tmp_path / "run"):
        assert "the ranks do not have the same data" in said


def test_a_folder_that_the_first_rank_alone_sees_is_enough_until_it_is_resumed(
    backbone_folder: Path, tmp_path: Path
) -> None:
    recipe = broken_recipe(backbone_folder, with_a_broken_picture(tmp_path / "data"))
    recipe = recipe.model_copy(update={"max_bad_rate": 0.5})
    assert run_ranks(2, train_in_a_place_of_its_own, [recipe] * 2, tmp_path, False) == ["trained"] * 2
    train(recipe, tmp_path / "alone")
    assert (tmp_path / "0" / "bad_rows.jsonl").read_text() == (tmp_path / "alone" / "bad_rows.jsonl").read_text()
    assert not (tmp_path / "1").exists()
    # Two machines with a run each, as two who forgot that the folder must be shared.
    for number in range(2):
        place = tmp_path / f"{number}"
        shutil.rmtree(place, ignore_errors=True)
        stopped = recipe.model_copy(update={"machine": MachineOptions(checkpoint_every=1 + number)})
        train(stopped, place)
        shutil.rmtree(place / "model")
        shutil.rmtree(place / "checkpoints" / "00000004")
    for said in run_ranks(2, train_in_a_place_of_its_own, [recipe] * 2, tmp_path, True):
        assert "the ranks do not have the same checkpoint" in said


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "standing still"])
def test_a_rank_that_dies_or_stands_still_ends_the_others(backbone_folder: Path, tmp_path: Path, sent: int) -> None:
    recipe = three_stages(backbone_folder)
    long = recipe.stages[0].model_copy(update={"steps": 5000})
    recipe = recipe.model_copy(update={"stages": (long,), "machine": MachineOptions(rank_timeout=5)})
    processes, _ = start_ranks(2, train_a_rank, recipe, tmp_path / "run")
    log = tmp_path / "run" / "metrics.jsonl"
    end = time.monotonic() + 60
    while time.monotonic() < end and not (log.exists() and log.stat().st_size):
        time.sleep(0.05)
    os.kill(processes[1].pid, sent)
    began = time.monotonic()
    processes[0].join(60)
    assert time.monotonic() - began < 60
    assert processes[0].exitcode == 1
    processes[1].kill()
