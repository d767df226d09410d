"""A step's passes are prepared while the step before runs, and nothing of the run shows it."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from make_golden_losses import save_backbone
from stages import ALONE, LARGE, SMALL, STAGES, calm_backbone, encoded, make_pairs, make_recipe, ready
from torch import Tensor

from cocoa.data.mixing import Mixture
from cocoa.errors import CocoaError, DataError, TrainingStoppedError
from cocoa.layouts import Layout
from cocoa.recipe import MachineOptions, Recipe, parse_recipe
from cocoa.sample import Pair, Sample
from cocoa.training import loop
from cocoa.training.ahead import prepared
from cocoa.training.batches import EncodedPairs, join, prefetched
from cocoa.training.passes import Passes, prepare
from cocoa.training.ranks import Ranks
from cocoa.training.step import backward_step
from cocoa.training.tally import Tally
from making import make_picture

TEXT = """
name: ahead
seed: 3
backbone: {{name: "{folder}/backbone"}}
max_tokens: 48
max_bad_rate: {rate}
machine: {{workers: {workers}, chunk_tokens: 128, checkpoint_every: null}}
stages:
  - name: warm-up
    layout: bidirectional
    objectives: [{{kind: masked_text, rate: 0.2}}, {{kind: masked_patch}}]
    adapter: {{dropout: 0.3}}
    data: &data [{{kind: image_text_pairs, path: "{folder}/pairs.jsonl"}}]
    steps: 4
    batch_size: 5
    learning_rate: 1e-3
  - name: bridge
    layout: eos_bridge
    objectives: [{{kind: masked_text, rate: 0.7, roles: [target]}}]
    data: *data
    min_pixels: 1600
    max_pixels: 1600
    steps: 3
    batch_size: 5
    learning_rate: 1e-3
  - name: joint
    layout: bidirectional
    objectives: [{{kind: contrastive, temperature: 0.2}}, {{kind: bridged_text, rate: 0.7}}]
    adapter: {{dropout: 0.3}}
    data: *data
    steps: 4
    batch_size: 5
    learning_rate: 1e-3
"""
META = torch.device("meta")


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone, and a table of twelve rows of which two have no picture that can be read."""
    folder = tmp_path_factory.mktemp("ahead")
    save_backbone(folder / "backbone")
    (folder / "images").mkdir()
    rows = []
    for number in range(12):
        make_picture(56, 28 * (1 + number % 3), number).save(folder / "images" / f"{number}.png")
        rows.append({"image_path": f"{number}.png", "text": f"a picture of number {number}" + " again" * (number % 4)})
    for number in (4, 9):
        (folder / "images" / f"{number}.png").write_bytes(b"not a picture")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe_of(home: Path, workers: int, rate: float | None = 0.9) -> Recipe:
    return parse_recipe(TEXT.format(folder=home, workers=workers, rate="null" if rate is None else rate))


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("cocoa-")]


def test_a_run_prepared_ahead_is_the_run_that_is_not_to_the_bit(home: Path, tmp_path: Path) -> None:
    found = []
    for workers in (0, 2):
        model, log = loop.train(recipe_of(home, workers), tmp_path / f"{workers}")
        kept = ("stage", "step", "losses", "gradient_norm", "pairs", "skipped", "cut_texts", "looks", "pad_rate")
        records = [{key: record[key] for key in kept} for record in log.records]
        bad = (tmp_path / f"{workers}" / "bad_rows.jsonl").read_text()
        found.append((records, bad, {name: weight.clone() for name, weight in model.state_dict().items()}))
    (records, bad, weights), (again, bad_again, weights_again) = found
    assert len(records) == 11
    assert sum(record["skipped"] for record in records) >= 4
    assert again == records
    assert bad_again == bad
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)


def test_a_row_that_cannot_be_read_ends_the_run_at_its_step_and_leaves_no_thread(home: Path, tmp_path: Path) -> None:
    ends = []
    for workers in (0, 2):
        steps: list[int] = []
        with pytest.raises(CocoaError) as caught:
            loop.train(
                recipe_of(home, workers, None),
                tmp_path / f"{workers}",
                on_step=lambda stage, record: steps.append(record["step"]),  # noqa: B023
            )
        assert threads() == []
        ends.append((steps, caught.value.code, caught.value.where))
    assert ends[0] == ends[1]
    assert ends[0][1] == "E_IMAGE_OPEN"


@pytest.mark.parametrize("way", ["exception", "stop", "end"])
def test_no_thread_is_left_however_a_run_ends(home: Path, tmp_path: Path, way: str) -> None:
    begun = []

    def end(stage: Any, record: dict[str, Any]) -> None:
        begun.append(len(threads()))
        if way == "exception" and record["step"] == 1:
            raise KeyboardInterrupt
        if way == "stop" and record["step"] == 1:
            signal.raise_signal(signal.SIGTERM)

    of_stage_ends: list[str] = []
    try:
        loop.train(
            recipe_of(home, 2),
            tmp_path / "run",
            on_step=end,
            on_stage_end=lambda stage, model, objectives: of_stage_ends.extend(threads()),
        )
    except (KeyboardInterrupt, TrainingStoppedError):
        # Here the exception still holds the frames of the run.
        left = threads()
    else:
        left = threads()
        assert way == "end"
    assert left == []
    assert of_stage_ends == [], "the model changes only when nothing reads it"
    assert begun[0] > 1, "there were some"


def test_what_no_thread_has_begun_to_read_is_left_when_a_run_ends() -> None:
    begun = []

    class Slow:
        def pair(self, number: int) -> Pair:
            begun.append(number)
            if number >= 16:
                time.sleep(0.05)
            return Pair(Sample("a dog"), Sample("two cats"))

    mixture = cast(Mixture, Slow())
    with closing(
        prefetched(
            calm_backbone(), mixture, ALONE, steps=range(9), batch_size=16, workers=2, fit=lambda _: 0, skip_bad=False
        )
    ) as batches:
        assert len(next(batches).queries) == 16
    assert len(begun) < 24, "of the 48 of this step and the two that are read ahead"
    assert threads() == []


def test_the_next_step_is_prepared_while_one_trains(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = [threading.Event() for _ in range(5)]
    by = []
    made: list[Passes] = []
    numbers: Iterator[int] = iter(range(4))
    plain = backward_step

    def preparing(*arguments: Any) -> Passes:
        by.append(threading.current_thread())
        begun[len(by) - 1].set()
        made.append(prepare(*arguments))
        return made[-1]

    def stepping(*arguments: Any) -> Tally:
        number = next(numbers)
        assert number == 3 or begun[number + 1].wait(20), "a step ends only when the next is being prepared"
        assert arguments[-1] is made[number]
        return plain(*arguments)

    monkeypatch.setattr(loop, "prepare", preparing)
    monkeypatch.setattr(loop, "backward_step", stepping)
    recipe = recipe_of(home, 1)
    loop.train(recipe.model_copy(update={"stages": recipe.stages[:1]}), tmp_path / "run")
    assert len(by) == 4
    assert threading.main_thread() not in by


def batches(
    count: int, error: Exception | None = None, closed: list[bool] | None = None
) -> Generator[EncodedPairs, None, None]:
    try:
        for number in range(count):
            yield join([], [number])
        if error is not None:
            raise error
    finally:
        if closed is not None:
            closed.append(True)


def nothing(pairs: EncodedPairs) -> Passes:
    return Passes([], [], [])


@pytest.mark.parametrize("ahead", [True, False])
def test_an_error_comes_where_its_step_is_asked_for(ahead: bool) -> None:
    def failing(pairs: EncodedPairs) -> Passes:
        if pairs.numbers == [2]:
            raise DataError("E_DATA_TOO_LONG", "too long")
        return nothing(pairs)

    for source, prepares in ((batches(2, DataError("E_DATA_TOO_LONG", "too long")), nothing), (batches(9), failing)):
        steps = prepared(source, prepares, ahead=ahead)
        assert [next(steps)[0].numbers, next(steps)[0].numbers] == [[0], [1]]
        with pytest.raises(DataError):
            next(steps)
        assert threads() == []


def test_without_workers_nothing_is_prepared_before_it_is_asked_for() -> None:
    by: list[tuple[int, threading.Thread]] = []

    def noting(pairs: EncodedPairs) -> Passes:
        by.append((pairs.numbers[0], threading.current_thread()))
        return nothing(pairs)

    for number, _ in enumerate(prepared(batches(3), noting, ahead=False)):
        assert by == [(seen, threading.main_thread()) for seen in range(number + 1)]
    assert len(by) == 3


@pytest.mark.parametrize("ahead", [True, False])
def test_what_reads_is_closed_with_the_steps(ahead: bool) -> None:
    closed: list[bool] = []
    source = batches(9, closed=closed)  # held, so that it is not closed for want of a holder
    steps = prepared(source, nothing, ahead=ahead)
    next(steps)
    steps.close()
    assert closed == [True]


@pytest.mark.parametrize("name", STAGES)
def test_preparing_reads_no_weight_and_no_random_state(name: str, sample: Callable[..., Any]) -> None:
    """On the meta device a look at a weight's value raises."""
    setup = ready(calm_backbone(), make_recipe(name))
    pairs = encoded(setup.trainee.model.backbone, make_pairs(sample))
    state = torch.get_rng_state()
    before = prepare(setup.trainee, pairs, SMALL, 4)
    setup.trainee.to(META)
    after = prepare(setup.trainee, pairs, SMALL, 4)
    other = prepare(setup.trainee, pairs, SMALL, 5)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(tensors(before)) > 10
    assert equal(before, after)
    assert equal(before, other) == (name in ("contrastive", "captioner")), "these hide nothing"


@pytest.mark.parametrize("attention", ["split", "sdpa"])
@pytest.mark.parametrize("machine", [LARGE, SMALL], ids=["whole", "cached"])
@pytest.mark.parametrize("name", STAGES)
def test_who_may_look_at_whom_is_worked_out_before_the_step_and_once_a_pass(
    name: str, machine: MachineOptions, attention: str, sample: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where attention takes a square mask, that is made with the pass and never to be counted alone."""
    asked: Counter[str] = Counter()

    def counting(kind: str) -> Callable[..., Any]:
        plain = getattr(Layout, kind)

        def ask(*given: Any, **options: Any) -> Any:
            asked[kind] += 1
            return plain(*given, **options)

        return ask

    setup = ready(calm_backbone(attention), make_recipe(name))
    pairs = encoded(setup.trainee.model.backbone, make_pairs(sample))
    expected = backward_step(setup.trainee, pairs, ALONE, machine, 0)
    for kind in ("looks", "allowed"):
        monkeypatch.setattr(Layout, kind, counting(kind))
    passes = prepare(setup.trainee, pairs, machine, 0)
    rows = [*passes.joined, *passes.single, *passes.beside]
    num_apart = sum(chunk.batch.apart is not None for chunk in rows)
    assert asked["looks"] == (len(rows) + num_apart if attention == "split" else 0)
    asked.clear()
    tally = backward_step(setup.trainee, pairs, ALONE, machine, 0, passes)
    assert (tally.num_looks, tally.num_needed_looks) == (expected.num_looks, expected.num_needed_looks)
    assert tally.losses == expected.losses
    num_runs = len(passes.joined) + (1 + (machine is SMALL)) * len(passes.single)
    if attention == "split":
        assert not asked
    elif not num_apart:  # each light decoder makes its own
        assert asked == {"allowed": num_runs}


def tensors(part: Any) -> list[Tensor]:
    if isinstance(part, Tensor):
        return [part]
    if dataclasses.is_dataclass(part):
        part = list(vars(part).values())
    return [tensor for inner in part for tensor in tensors(inner)] if isinstance(part, list) else []


def equal(one: Passes, other: Passes) -> bool:
    return all(torch.equal(*both) for both in zip(tensors(one), tensors(other), strict=True))


@pytest.mark.parametrize("machine", [LARGE, SMALL], ids=["whole", "cached"])
@pytest.mark.parametrize("extra", ["", "freeze_vision: true", "adapter: {dropout: 0.3}"])
def test_a_contrastive_step_asks_a_device_nothing_before_its_loss_is_read(
    sample: Callable[..., Any], machine: Any, extra: str
) -> None:
    setup = ready(calm_backbone(), make_recipe("contrastive", extra))
    pairs = encoded(setup.trainee.model.backbone, make_pairs(sample))
    setup.trainee.to(META)
    tally = backward_step(setup.trainee, pairs, Ranks(0, 1, META), machine, 0)
    assert tally.num_tokens > 0
    assert all(weight.grad is not None for name, weight in setup.trainee.trained.items() if "norm" in name)
    with pytest.raises((RuntimeError, NotImplementedError)):
        _ = tally.losses


def test_sums_on_a_device_are_added_as_numbers_are() -> None:
    parts = (torch.rand(2, 50, generator=torch.Generator().manual_seed(0)) * 1000).tolist()
    numbers, held = Tally(), Tally()
    for name, losses in zip(("one", "other"), parts, strict=True):
        for loss in losses:
            numbers.add(name, loss, 3)
            held.add(name, torch.tensor(loss, requires_grad=True), 3)
    held.add("none", 0.0, 0)
    numbers.add("none", 0.0, 0)
    assert held.over(ALONE).losses == numbers.losses
