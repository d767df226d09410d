"""A run: the stages of a recipe, one after another, each on the model that the one before left; resumed if killed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from cocoa.data.bad_rows import BadRows
from cocoa.data.mixing import Mixture
from cocoa.errors import RecipeError, TrainingError, TrainingStoppedError, UsageError
from cocoa.files import write_file
from cocoa.model import EmbeddingModel, library_versions
from cocoa.objectives import Objective
from cocoa.recipe import Recipe, Stage, differences, parse_recipe
from cocoa.training.ahead import Steps, prepared
from cocoa.training.batches import EncodedPairs, prefetched
from cocoa.training.checkpoints import (
    Checkpoint,
    clean_up,
    load_optimiser,
    load_weights,
    newest_checkpoint,
    optimiser_tensors,
    save_checkpoint,
)
from cocoa.training.log import BadRowLog, RunLog
from cocoa.training.memory import most_memory
from cocoa.training.passes import prepare
from cocoa.training.random_state import RandomState, random_states
from cocoa.training.ranks import Ranks
from cocoa.training.receipt import data_hashes, receipt, trained_lengths
from cocoa.training.schedule import learning_rate
from cocoa.training.setup import Setup, finished, fits, open_data, open_model, set_up, stage_seed
from cocoa.training.step import backward_step
from cocoa.training.tally import Tally
from cocoa.training.trainee import Trainee, put

EXPLODED = 100.0
"""A loss so many times that of the stage's first step (or of 1, if that is larger) ends the run."""

StepHook = Callable[[Stage, dict[str, Any]], None]
StageHook = Callable[[Stage, EmbeddingModel, list[Objective]], None]
Say = Callable[[str], None]


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    model_folder: Path | None = None,
    ranks: Ranks | None = None,
    on_step: StepHook | None = None,
    on_stage_end: StageHook | None = None,
    say: Say | None = None,
) -> tuple[EmbeddingModel, RunLog]:
    """Returns the trained model and its numbers; writes `recipe.yaml`, `metrics.jsonl`, `checkpoints/` and `model/`.

    All go into `out`, the model to `model_folder` instead, if that is given. `out` must be new or empty, so that no run
    is overwritten; with `resume` it holds a run of the same recipe, which goes on from its newest complete checkpoint
    (or from the start if there is none). `on_step` is told each record, `on_stage_end` is given the model and the
    stage's objectives (which are dropped after it), `say` is told what a person should know.

    Raises `CocoaError`; then `out` has no `model/`. On SIGTERM leaves a checkpoint and raises `TrainingStoppedError`.
    """
    with _leaving(ranks or Ranks.join()) as present:
        run = _Run(recipe, out, present, on_step, on_stage_end, say or _quiet)
        return run.go(resume, model_folder or out / "model")


@contextmanager
def _leaving(ranks: Ranks) -> Iterator[Ranks]:
    try:
        yield ranks
    finally:
        ranks.leave()


def _quiet(text: str) -> None:
    """Says nothing."""


class _Run:
    """One run on one rank."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        ranks: Ranks,
        on_step: StepHook | None,
        on_stage_end: StageHook | None,
        say: Say,
    ) -> None:
        self.recipe = recipe
        self.out = out
        self.ranks = ranks
        self.on_step = on_step
        self.on_stage_end = on_stage_end
        self.say = say if ranks.is_first else _quiet
        self.log = RunLog(out / "metrics.jsonl" if ranks.is_first else None)
        self.bad_rows = BadRowLog(out / "bad_rows.jsonl")
        self.num_bad = 0  # rows of the stage under way that could not be read, over all ranks
        self.num_steps = 0

    def go(self, resume: bool, model_folder: Path) -> tuple[EmbeddingModel, RunLog]:
        for stage in self.recipe.stages:
            if stage.batch_size < self.ranks.count:
                few = f"batch_size {stage.batch_size} is below the number of ranks, {self.ranks.count}"
                raise RecipeError("E_RECIPE_OPTION", f"stage {stage.name}: {few}")
        if not resume:
            self._check_folder()
        checkpoint = self._find_checkpoint() if resume else None
        # All data is opened before anything is trained or written: a bad row of the last stage must not cost the first
        # two, and a run that cannot begin must not be in the way of the next.
        found = [BadRows(self.recipe.max_bad_rate) for _ in self.recipe.stages]
        opened = [open_data(self.recipe, stage, bad) for stage, bad in zip(self.recipe.stages, found, strict=True)]
        data = [(mixture, len(bad.rows)) for mixture, bad in zip(opened, found, strict=True)]
        hashes = data_hashes(self.recipe) if self.ranks.is_first else {}
        model = open_model(self.recipe, self.ranks.device)
        self._begin(resume, found, checkpoint)
        first = 0
        if checkpoint is not None:
            first = checkpoint.stage
            if checkpoint.step == 0:
                load_weights(Trainee(model, self.recipe.stages[0], []), checkpoint)
        with _asked_to_stop() as stop:
            for number in range(first, len(self.recipe.stages)):
                here = checkpoint if checkpoint is not None and number == first and checkpoint.step else None
                model = self._run_stage(model, number, data[number], here, stop)
        model.matryoshka = trained_lengths(self.recipe)
        if self.ranks.is_first:
            model.save(model_folder, receipt=receipt(self.recipe, self.log.records, hashes))
        self.ranks.wait()
        return model, self.log

    # The folder and what is in it.

    def _check_folder(self) -> None:
        """Raises unless the folder is new or empty."""
        if self.out.exists() and any(self.out.iterdir()):
            hint = "; --resume goes on with it" if (self.out / "recipe.yaml").is_file() else ""
            raise UsageError(
                "E_USAGE_OUT", f"folder is not empty; choose another --out or remove it{hint}", where=str(self.out)
            )

    def _find_checkpoint(self) -> Checkpoint | None:
        """The checkpoint to go on from, if the run has one yet. Raises if this is not that run."""
        saved = self.out / "recipe.yaml"
        if not saved.is_file():
            raise UsageError("E_USAGE_RESUME", "no run to resume: there is no recipe.yaml", where=str(self.out))
        if found := differences(parse_recipe(saved.read_text(), where=str(saved)), self.recipe):
            raise UsageError(
                "E_USAGE_RESUME", f"the run was begun with another recipe: {'; '.join(found)}", where=str(self.out)
            )
        if (self.out / "model").exists():
            raise UsageError("E_USAGE_RESUME", "the run is finished: there is a model", where=str(self.out))
        checkpoint, passed = newest_checkpoint(self.out / "checkpoints")
        for reason in passed:
            self.say(f"passed over checkpoint {reason}")
        self.num_steps = checkpoint.num_steps if checkpoint else 0
        self.say(f"resuming after step {self.num_steps}" if checkpoint else "no checkpoint yet: starting again")
        return checkpoint

    def _begin(self, resume: bool, found: list[BadRows], checkpoint: Checkpoint | None) -> None:
        """Makes the folder hold a run up to the checkpoint and nothing of later steps."""
        # Nobody may write before everybody has read.
        self.ranks.wait()
        if self.ranks.is_first:
            if resume:
                clean_up(self.out)
                clean_up(self.out / "checkpoints")
                self.log.go_back(self.num_steps)
                going_on = self.recipe.stages[checkpoint.stage].name if checkpoint and checkpoint.step else ""
                self.num_bad = self.bad_rows.go_back(self.num_steps, going_on)
            else:
                self.out.mkdir(parents=True, exist_ok=True)
                write_file(self.out / "recipe.yaml", self.recipe.to_yaml())
            for stage, bad in zip(self.recipe.stages, found, strict=True):
                self.bad_rows.add(bad.rows, stage=stage.name, step=None)
        self.num_bad = self.ranks.most(self.num_bad)

    # One stage.

    def _run_stage(
        self,
        model: EmbeddingModel,
        number: int,
        data: tuple[Mixture, int],
        checkpoint: Checkpoint | None,
        stop: threading.Event,
    ) -> EmbeddingModel:
        recipe, stage, ranks = self.recipe, self.recipe.stages[number], self.ranks
        mixture, _ = data
        own_limits = model.backbone.grid
        setup = set_up(model, recipe, stage, sharded=recipe.machine.sharding and ranks.count > 1)
        trainee, optimiser = setup.trainee, setup.optimiser
        seed = stage_seed(recipe.seed, stage.name)
        # What is drawn from here on (dropout) differs from rank to rank.
        torch.manual_seed(seed + 1 + ranks.number)
        first_step = 0
        if checkpoint is None:
            self.num_bad = 0
        else:
            first_step = checkpoint.step
            load_weights(trainee, checkpoint)
            load_optimiser(trainee, optimiser, checkpoint.optimiser())
            self._restore_random(checkpoint)
        first_losses: dict[str, float] = checkpoint.state["first_losses"] if checkpoint is not None else {}
        trainee.train()
        with closing(self._steps(trainee, mixture, range(first_step, stage.steps), seed)) as steps:
            began = time.perf_counter()
            for step, (pairs, passes) in enumerate(steps, first_step):
                rate = learning_rate(
                    step,
                    steps=stage.steps,
                    warmup_steps=stage.warmup_steps,
                    peak=stage.learning_rate,
                    schedule=stage.schedule,
                )
                for group in optimiser.param_groups:
                    group["lr"] = rate
                notice = self._notice(stage, pairs, stop)
                self._check_bad_rows(stage, step, data)
                optimiser.zero_grad(set_to_none=True)
                tally = backward_step(trainee, pairs, ranks, recipe.machine, seed, passes)
                norm = _norm(nn.utils.clip_grad_norm_(trainee.trained.values(), stage.max_grad_norm))
                first_losses = first_losses or tally.losses
                _check_sane(tally, norm, first_losses, f"step {step} of stage {stage.name}", pairs)
                optimiser.step()
                self.num_steps += 1
                now = time.perf_counter()
                self._record(stage, step, tally, notice, pairs, rate=rate, norm=norm, seconds=now - began)
                began = now
                every = recipe.machine.checkpoint_every
                if step + 1 < stage.steps and (notice.stop or (every and (step + 1) % every == 0)):
                    self._save(number, step + 1, trainee, optimiser, first_losses)
                if notice.stop and step + 1 < stage.steps:
                    raise TrainingStoppedError(
                        "E_TRAINING_STOPPED",
                        f"asked to stop after step {step} of stage {stage.name}; go on with --resume",
                        where=str(self.out),
                    )
        model, objectives = self._finish(setup, own_limits, stage)
        if self.on_stage_end is not None:
            self.on_stage_end(stage, model, objectives)
        self._save(number + 1, 0, Trainee(model, stage, []), None, {})
        return model

    def _steps(self, trainee: Trainee, mixture: Mixture, steps: range, seed: int) -> Steps:
        """This rank's pairs of each step of a stage, with their passes."""
        recipe, model, stage = self.recipe, trainee.model, trainee.stage
        machine = recipe.machine
        batches = prefetched(
            model.backbone,
            mixture,
            self.ranks,
            steps=steps,
            batch_size=stage.batch_size,
            workers=machine.workers,
            fit=fits(model, stage),
            skip_bad=recipe.max_bad_rate is not None,
        )
        return prepared(batches, lambda pairs: prepare(trainee, pairs, machine, seed), ahead=machine.workers > 0)

    def _finish(self, setup: Setup, limits: Any, stage: Stage) -> tuple[EmbeddingModel, list[Objective]]:
        """The model of a stage's end, whole on every rank and without adapters, and the stage's objectives."""
        trainee = setup.trainee
        if trainee.is_sharded:
            weights = trainee.whole_weights()
            setup = set_up(open_model(self.recipe, self.ranks.device), self.recipe, stage, sharded=False)
            trainee = setup.trainee
            for name, weight in trainee.named_parameters():
                put(weight.data, weights[name])
        return finished(setup, limits), list(trainee.objectives)  # type: ignore[arg-type]

    def _notice(self, stage: Stage, pairs: EncodedPairs, stop: threading.Event) -> _Notice:
        """What all ranks must know of each other before a step, in one message."""
        self.bad_rows.add(pairs.bad, stage=stage.name, step=self.num_steps)
        own = [len(pairs.queries), len(pairs.bad), pairs.num_cut, int(stop.is_set())]
        good, bad, num_cut, stops = self.ranks.total(torch.tensor(own)).tolist()
        self.num_bad += bad
        return _Notice(good, bad, num_cut, stops > 0)

    def _check_bad_rows(self, stage: Stage, step: int, data: tuple[Mixture, int]) -> None:
        rate = self.recipe.max_bad_rate
        mixture, refused = data
        read = max((step + 1) * stage.batch_size, len(mixture)) + refused
        if rate is not None and self.num_bad + refused > rate * read:
            raise TrainingError(
                "E_DATA_BAD_ROWS",
                f"{self.num_bad + refused} rows of about {read} could not be read, more than {rate:.2%}",
                where=str(self.bad_rows.path),
            )

    def _record(
        self,
        stage: Stage,
        step: int,
        tally: Tally,
        notice: _Notice,
        pairs: EncodedPairs,
        *,
        rate: float,
        norm: float,
        seconds: float,
    ) -> None:
        record = {
            "step": step,
            "stage": stage.name,
            "losses": tally.losses,
            "learning_rate": rate,
            "gradient_norm": norm,
            "pairs": notice.good,
            "skipped": notice.bad,
            "cut_texts": notice.num_cut,
            "tokens_per_second": tally.num_tokens / seconds,
            "pad_rate": tally.pad_rate,
            "looks": tally.num_looks,
            "idle_look_rate": tally.idle_look_rate,
            "data_wait_seconds": pairs.seconds,
            "memory_bytes": peak_memory(self.ranks.device),
            "seconds": seconds,
        }
        self.log.add(record)
        if self.on_step is not None and self.ranks.is_first:
            self.on_step(stage, record)

    # Checkpoints.

    def _save(
        self, stage: int, step: int, trainee: Trainee, optimiser: Optimizer | None, first_losses: dict[str, float]
    ) -> None:
        """Writes a checkpoint of the state before `step` of a stage (0: the model between two stages)."""
        weights = trainee.whole_weights()
        memory = optimiser_tensors(trainee, optimiser) if optimiser else {}
        state = {
            "stage": stage,
            "step": step,
            "num_steps": self.num_steps,
            "ranks": self.ranks.count,
            "first_losses": first_losses,
            "random": random_states(self.ranks),
            "recipe": self.recipe.model_dump(mode="json"),
            "versions": library_versions(),
        }
        if self.ranks.is_first:
            save_checkpoint(self.out / "checkpoints", state, weights, memory, keep=self.recipe.machine.keep_checkpoints)
        self.ranks.wait()

    def _restore_random(self, checkpoint: Checkpoint) -> None:
        saved = checkpoint.state["random"]
        if len(saved) != self.ranks.count:
            self.say(f"the run had {len(saved)} ranks and has {self.ranks.count} now: dropout draws anew")
            return
        if checkpoint.state["versions"] != library_versions():
            self.say("library versions have changed since the checkpoint: numbers may differ in the last digits")
        RandomState.read(saved[self.ranks.number], self.ranks.device).restore()


@dataclass(frozen=True)
class _Notice:
    """Pairs of a step, rows left out, texts cut, and whether the run was asked to stop; over all ranks."""

    good: int
    bad: int
    num_cut: int
    stop: bool


def peak_memory(device: torch.device) -> int:
    """Returns the most memory that this process has held: of its GPU, or of the machine if it has none, in bytes."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else most_memory()


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Gives an event that SIGTERM sets; outside the main thread, where no signal arrives, nothing sets it."""
    stop = threading.Event()

    def ask(signum: int, frame: FrameType | None) -> None:
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def _norm(norm: Tensor) -> float:
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _check_sane(tally: Tally, norm: float, first: dict[str, float], place: str, pairs: EncodedPairs) -> None:
    """Raises `E_TRAINING_DIVERGED` before a bad step is taken; the weights and checkpoints are still good."""
    for name, loss in tally.losses.items():
        if not loss < EXPLODED * max(1.0, first[name]):  # also true of nan
            raise TrainingError("E_TRAINING_DIVERGED", f"{name} loss is {loss} at {place}; rows: {_rows(pairs)}")
    if not norm < float("inf"):
        raise TrainingError("E_TRAINING_DIVERGED", f"gradient norm is {norm} at {place}; rows: {_rows(pairs)}")


def _rows(pairs: EncodedPairs) -> str:
    places = [sample.where or f"row {number}" for number, sample in enumerate(pairs.queries)]
    return ", ".join(places[:8]) + (f" and {len(places) - 8} more" if len(places) > 8 else "")
