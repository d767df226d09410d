"""A run: the stages of a recipe, one after another, each on the model that the one before left; resumed if killed."""

from __future__ import annotations

import json
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
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from cocoa.data.bad_rows import BadRow, BadRows
from cocoa.data.mixing import Mixture
from cocoa.errors import RecipeError, TrainingError, TrainingInterruptedError, TrainingStoppedError, UsageError
from cocoa.model import EmbeddingModel
from cocoa.objectives import Objective
from cocoa.recipe import Recipe, Stage
from cocoa.training.ahead import Steps, prepared
from cocoa.training.batches import EncodedPairs, prefetched
from cocoa.training.checkpoints import Checkpoint, load_optimiser, load_weights
from cocoa.training.log import RunLog
from cocoa.training.memory import most_memory
from cocoa.training.passes import prepare
from cocoa.training.ranks import Ranks
from cocoa.training.receipt import backbone_origin, data_hashes, receipt, trained_lengths
from cocoa.training.run_folder import BAD_ROWS, RunFolder, Say
from cocoa.training.sanity import Effects, check_sane
from cocoa.training.schedule import learning_rate
from cocoa.training.setup import (
    Setup,
    check_start,
    finished,
    fits,
    num_left_out,
    open_data,
    open_model,
    set_up,
    stage_seed,
)
from cocoa.training.step import backward_step
from cocoa.training.tally import Tally
from cocoa.training.trainee import Trainee, put, whole

StepHook = Callable[[Stage, dict[str, Any]], None]
StageHook = Callable[[Stage, EmbeddingModel, list[Objective]], None]
LogHook = Callable[[RunLog], None]


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    model_folder: Path | None = None,
    ranks: Ranks | None = None,
    on_step: StepHook | None = None,
    on_stage_end: StageHook | None = None,
    on_trained: LogHook | None = None,
    say: Say | None = None,
) -> tuple[EmbeddingModel, RunLog]:
    """Returns the trained model and its numbers; writes `recipe.yaml`, `metrics.jsonl`, `checkpoints/` and `model/`.

    All go into `out`, the model to `model_folder` instead, if that is given. `out` must be new or empty, so that no run
    is overwritten; with `resume` it holds a run of the same recipe, which goes on from its newest complete checkpoint
    (or from the start if there is none). `on_step` is told each record, `on_stage_end` is given the model and the
    stage's objectives (which are dropped after it), `on_trained` the log when all is trained and the model not yet
    written (so what it writes is there with the model), `say` is told what a person should know.

    Raises `CocoaError`; then `out` has no `model/`. On SIGTERM and Ctrl-C leaves a checkpoint and raises
    `TrainingStoppedError`; a second Ctrl-C ends it at once.
    """
    with _leaving(ranks or Ranks.join(recipe.machine.rank_timeout)) as present:
        run = _Run(recipe, out, present, on_step, on_stage_end, say or _quiet)
        with closing(run.folder):
            return run.go(resume, model_folder or out / "model", on_trained)


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
        self.ranks = ranks
        self.folder = RunFolder(out, recipe, ranks, say if ranks.is_first else _quiet)
        self.on_step = on_step
        self.on_stage_end = on_stage_end
        self.num_bad = 0  # rows of the stage under way that could not be read, over all ranks
        self.num_steps = 0

    def go(self, resume: bool, model_folder: Path, on_trained: LogHook | None) -> tuple[EmbeddingModel, RunLog]:
        for stage in self.recipe.stages:
            if stage.batch_size < self.ranks.count:
                few = f"batch_size {stage.batch_size} is below the number of ranks, {self.ranks.count}"
                raise RecipeError("E_RECIPE_OPTION", f"stage {stage.name}: {few}")
        self._check_agreement("recipe", self.recipe.model_dump_json())
        if not resume:
            self.folder.check_new()
        checkpoint = self.folder.find_checkpoint() if resume else None
        self.num_steps = checkpoint.num_steps if checkpoint else 0
        # A run goes on with the commit that it began from, whatever has been pushed meanwhile.
        commit = checkpoint.backbone.get("commit") if checkpoint else None
        check_start(self.recipe, commit=commit)
        # All data is opened before anything is trained or written: a bad row of the last stage must not cost the first
        # two, and a run that cannot begin must not be in the way of the next.
        found = [BadRows(self.recipe.max_bad_rate) for _ in self.recipe.stages]
        opened = [open_data(self.recipe, stage, bad) for stage, bad in zip(self.recipe.stages, found, strict=True)]
        for stage, mixture in zip(self.recipe.stages, opened, strict=True):
            if left_out := num_left_out(mixture):
                what = "pairs whose target is a picture are left out: it has no words to rebuild"
                self.folder.say(f"stage {stage.name}: {left_out:,} {what}")
        data = [(mixture, len(bad.rows)) for mixture, bad in zip(opened, found, strict=True)]
        hashes = data_hashes(self.recipe) if self.ranks.is_first else {}
        if resume and self.ranks.is_first:
            self.folder.check_data(hashes)
        model = open_model(self.recipe, self.ranks.device, commit=commit)
        self._check_agreement("data", str([[len(source) for source in mixture.sources] for mixture in opened]))
        self._check_agreement("backbone", str(model.backbone.commit))
        self._check_agreement("checkpoint", str(self.num_steps))
        origin = backbone_origin(self.recipe, model.backbone) if self.ranks.is_first else {}
        if checkpoint is not None and self.ranks.is_first:
            origin = self.folder.check_backbone(checkpoint, origin)
        self.folder.origin = origin
        self.num_bad = self.folder.begin(resume, found, checkpoint, hashes)
        first = 0
        if checkpoint is not None:
            first = checkpoint.stage
            if checkpoint.step == 0:
                load_weights(Trainee(model, self.recipe.stages[0], []), checkpoint)
        with asked_to_stop() as stop:
            for number in range(first, len(self.recipe.stages)):
                here = checkpoint if checkpoint is not None and number == first and checkpoint.step else None
                model = self._run_stage(model, number, data[number], here, stop)
        model.matryoshka = trained_lengths(self.recipe.stages)
        if self.ranks.is_first:
            if on_trained is not None:
                on_trained(self.folder.log)
            told = receipt(self.recipe, self.folder.log.records, hashes, origin)
            try:
                model.save(model_folder, receipt=told)
            except (OSError, SafetensorError) as error:
                message = f"the model could not be written ({error}); the last checkpoint has all that it needs"
                raise TrainingError("E_TRAINING_MODEL", message, where=str(model_folder)) from error
        self.ranks.wait()
        return model, self.folder.log

    def _check_agreement(self, what: str, own: str) -> None:
        """Raises `E_USAGE_RANKS` on all ranks unless all have the same: each would train another model."""
        if not self.ranks.agree(own):
            message = f"the ranks do not have the same {what}: all must be started alike, and see the same files"
            raise UsageError("E_USAGE_RANKS", message)

    def _run_stage(
        self,
        model: EmbeddingModel,
        number: int,
        data: tuple[Mixture, int],
        checkpoint: Checkpoint | None,
        stop: Asked,
    ) -> EmbeddingModel:
        recipe, stage, ranks = self.recipe, self.recipe.stages[number], self.ranks
        mixture, _ = data
        own_limits = model.backbone.grid
        setup = set_up(model, recipe, stage, sharded=recipe.machine.sharding and ranks.count > 1)
        trainee, optimiser = setup.trainee, setup.optimiser
        seed = stage_seed(recipe.seed, stage.name)
        # What is drawn from here on (dropout) differs from rank to rank.
        torch.manual_seed(seed + 1 + ranks.number)
        effects = Effects(stage.name, stage.steps)
        first_step = 0
        if checkpoint is None:
            self.num_bad = 0
        else:
            first_step = checkpoint.step
            load_weights(trainee, checkpoint)
            load_optimiser(trainee, optimiser, checkpoint.optimiser())
            self.folder.restore_random(checkpoint)
            effects.restore(checkpoint.state.get("effects"))
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
                if notice.stop and stop.at_keyboard and step + 1 < stage.steps:
                    self.folder.say("stopping after this step, with a checkpoint; Ctrl-C again ends it at once")
                self._check_bad_rows(stage, step, data)
                optimiser.zero_grad(set_to_none=True)
                tally = backward_step(trainee, pairs, ranks, recipe.machine, seed, passes)
                norm = _norm(nn.utils.clip_grad_norm_(trainee.trained.values(), stage.max_grad_norm))
                first_losses = first_losses or tally.losses
                effects.check(tally)
                check_sane(tally, norm, first_losses, f"step {step} of stage {stage.name}", pairs)
                optimiser.step()
                self.num_steps += 1
                now = time.perf_counter()
                self._record(stage, step, tally, notice, pairs, rate=rate, norm=norm, seconds=now - began)
                began = now
                every = recipe.machine.checkpoint_every
                if step + 1 < stage.steps and (notice.stop or (every and (step + 1) % every == 0)):
                    self.folder.save(number, step + 1, self.num_steps, trainee, optimiser, first_losses, effects)
                if notice.stop and step + 1 < stage.steps:
                    place = f"step {self.num_steps} ({step + 1} of {stage.steps} of stage {stage.name})"
                    raise stop.error(f"asked to stop after {place}; go on with --resume", where=str(self.folder.path))
        model, objectives = self._finish(setup, own_limits, stage)
        if self.on_stage_end is not None:
            self.on_stage_end(stage, model, objectives)
        self.folder.save(number + 1, 0, self.num_steps, Trainee(model, stage, []), None, {}, None)
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
            # The whole model comes beside the shares: what is done with must not lie there too.
            trainee.zero_grad(set_to_none=True)
            setup.optimiser.state.clear()
            split = dict(trainee.named_parameters())
            opened = open_model(self.recipe, self.ranks.device, commit=trainee.model.backbone.commit)
            setup = set_up(opened, self.recipe, stage, sharded=False)
            trainee = setup.trainee
            for name, weight in trainee.named_parameters():
                put(weight.data, whole(split[name]))
        return finished(setup, limits), list(trainee.objectives)  # type: ignore[arg-type]

    def _notice(self, stage: Stage, pairs: EncodedPairs, stop: Asked) -> _Notice:
        """What all ranks must know of each other before a step, in one message."""
        own = [len(pairs.queries), len(pairs.bad), pairs.num_cut, int(stop.is_set())]
        good, bad, num_cut, stops = self.ranks.total(torch.tensor(own)).tolist()
        self.num_bad += bad
        if bad:
            lines = self.ranks.lines(json.dumps(row.to_json()) for row in pairs.bad)
            every = [BadRow(**json.loads(line)) for line in lines]
            self.folder.bad_rows.add(every, stage=stage.name, step=self.num_steps)
        return _Notice(good, bad, num_cut, stops > 0)

    def _check_bad_rows(self, stage: Stage, step: int, data: tuple[Mixture, int]) -> None:
        rate = self.recipe.max_bad_rate
        mixture, refused = data
        # Rows that are left out for their target were read too, when the data was opened.
        read = max((step + 1) * stage.batch_size, len(mixture) + num_left_out(mixture)) + refused
        if rate is not None and (self.num_bad + refused) / read > rate:
            raise TrainingError(
                "E_DATA_BAD_ROWS",
                f"{self.num_bad + refused} rows of about {read} could not be read, more than {rate:.2%}",
                where=str(self.folder.path / BAD_ROWS),
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
        self.folder.log.add(record)
        if self.on_step is not None and self.ranks.is_first:
            self.on_step(stage, record)


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


class Asked(threading.Event):
    """Whether a run was asked to stop, by a signal to this process, and whether at the keyboard."""

    at_keyboard = False

    def error(self, message: str, *, where: str) -> TrainingStoppedError:
        """Returns what says that the run has stopped."""
        kind = TrainingInterruptedError if self.at_keyboard else TrainingStoppedError
        return kind("E_TRAINING_STOPPED", message, where=where)


@contextmanager
def asked_to_stop() -> Iterator[Asked]:
    """Gives an event that SIGTERM and the first Ctrl-C set, with those around it; the second Ctrl-C interrupts.

    Outside the main thread, where no signal arrives, nothing sets it.
    """
    stop = Asked()

    def ask(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT:
            if stop.at_keyboard:
                raise KeyboardInterrupt
            stop.at_keyboard = True
        stop.set()
        if callable(before[signum]) and before[signum] is not signal.default_int_handler:
            before[signum](signum, frame)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # What is ignored stays so: Ctrl-C is not meant for what a shell runs in the background.
    known: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    before = {number: handler for number, handler in known.items() if handler != signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, ask)
        yield stop
    finally:
        for number, handler in before.items():
            # None is one that Python did not set, and cannot set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _norm(norm: Tensor) -> float:
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
