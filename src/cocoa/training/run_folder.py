"""The folder of a run: what it must hold before the run begins or goes on, and the checkpoints that it leaves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from torch.optim import Optimizer

from cocoa.claims import CLAIMS, Claims
from cocoa.data.bad_rows import BadRows
from cocoa.errors import UsageError
from cocoa.files import write_file
from cocoa.model import library_versions
from cocoa.recipe import Recipe, differences, parse_recipe
from cocoa.training.checkpoints import (
    Checkpoint,
    clean_up,
    newest_checkpoint,
    optimiser_tensors,
    save_checkpoint,
    set_aside,
)
from cocoa.training.log import BadRowLog, RunLog
from cocoa.training.random_state import RandomState, random_states
from cocoa.training.ranks import Ranks
from cocoa.training.receipt import Hashes, changed_files
from cocoa.training.sanity import Effects
from cocoa.training.trainee import Trainee

Say = Callable[[str], None]
DATA = "data.json"
BAD_ROWS = "bad_rows.jsonl"


class RunFolder:
    """`recipe.yaml`, `data.json`, `metrics.jsonl`, `bad_rows.jsonl` and `checkpoints/` of a run, as one rank sees them.

    The first rank writes, and keeps other runs out until `close`; the others need not see the folder before the run is
    resumed. `say` is told what a person should know.
    """

    def __init__(self, path: Path, recipe: Recipe, ranks: Ranks, say: Say) -> None:
        self.path = path
        self.recipe = recipe
        self.ranks = ranks
        self.say = say
        self.log = RunLog(path / "metrics.jsonl" if ranks.is_first else None)
        self.bad_rows = BadRowLog(path / BAD_ROWS if ranks.is_first else None)
        self.origin: dict[str, str] = {}
        self._claims: Claims | None = None

    def close(self) -> None:
        """Lets other runs in."""
        if self._claims is not None:
            self._claims.close()

    def check_new(self) -> None:
        """Raises `E_USAGE_OUT` unless the folder is new or empty, and can be written to."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError("E_USAGE_OUT", "is not a folder", where=str(self.path))
        # Before hours of data are read; it is made when the run can begin.
        above = next(each for each in (self.path, *self.path.parents) if each.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            what = "not writable" if above.is_dir() else "not a folder"
            raise UsageError("E_USAGE_OUT", f"no run can be written there: {above} is {what}", where=str(self.path))
        if self.path.exists() and any(path.name != CLAIMS for path in self.path.iterdir()):
            hint = ""
            if (self.path / "model").exists():
                hint = "; the run in it is finished"
            elif (self.path / "recipe.yaml").is_file():
                hint = "; --resume goes on with it"
            raise UsageError(
                "E_USAGE_OUT", f"folder is not empty; choose another --out or remove it{hint}", where=str(self.path)
            )

    def find_checkpoint(self) -> Checkpoint | None:
        """Returns the checkpoint to go on from, if there is one. Raises `E_USAGE_RESUME` if this is not that run."""
        saved = self.path / "recipe.yaml"
        if not saved.is_file():
            raise UsageError("E_USAGE_RESUME", "no run to resume: there is no recipe.yaml", where=str(self.path))
        if found := differences(parse_recipe(saved.read_text(), where=str(saved)), self.recipe):
            raise UsageError(
                "E_USAGE_RESUME", f"the run was begun with another recipe: {'; '.join(found)}", where=str(self.path)
            )
        self._keep_others_out()
        if (self.path / "model").exists():
            raise UsageError("E_USAGE_RESUME", "the run is finished: there is a model", where=str(self.path))
        checkpoint, passed = newest_checkpoint(self.path / "checkpoints")
        for reason in passed:
            self.say(f"passed over checkpoint {reason}")
        self.say(f"resuming after step {checkpoint.num_steps}" if checkpoint else "no checkpoint yet: starting again")
        return checkpoint

    def _keep_others_out(self) -> None:
        """Raises `E_USAGE_BUSY` while another run is at work in the folder; the first rank asks for all."""
        if not self.ranks.is_first:
            return
        self._claims = Claims(self.path)
        try:
            alone = self._claims.take("run")
        except OSError:
            self.say("this file system has no locks: nothing keeps another run out of the folder")
            return
        if not alone:
            raise UsageError("E_USAGE_BUSY", "another run is at work in this folder", where=str(self.path))

    def check_data(self, hashes: Hashes) -> None:
        """Raises `E_USAGE_RESUME` if a table is not what it was when the run was begun."""
        path = self.path / DATA
        if not path.is_file():
            self.say("the run does not say what its data was: it is taken to be the same")
            return
        before = json.loads(path.read_text())
        names = {(source, name) for tables in (before, hashes) for source in tables for name in tables[source]}
        changed = [
            str(Path(source) / name) if Path(source).name != name else source
            for source, name in sorted(names)
            if before.get(source, {}).get(name) != hashes.get(source, {}).get(name)
        ]
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            message = f"the data has changed since the run was begun: {', '.join(changed[:3])}{more}"
            raise UsageError("E_USAGE_RESUME", message, where=str(self.path))

    def check_backbone(self, checkpoint: Checkpoint, origin: dict[str, str]) -> dict[str, str]:
        """Returns what the run began from, which its checkpoint says; `origin` is what is there now.

        Raises `E_USAGE_RESUME` if it is another backbone than the checkpoint's weights are of.
        """
        before = checkpoint.backbone
        if changed := changed_files(before, origin):
            message = f"the backbone has changed since the run was begun: {', '.join(changed)}"
            raise UsageError("E_USAGE_RESUME", message, where=self.recipe.backbone.name)
        return before or origin

    def begin(self, resume: bool, found: list[BadRows], checkpoint: Checkpoint | None, hashes: Hashes) -> int:
        """Makes the folder hold a run up to the checkpoint; damaged checkpoints of later steps are set aside.

        `found` are the rows of each stage that were refused when its data was opened, `hashes` what the data is.
        Returns how many rows the stage under way has left out before the checkpoint, over all ranks.
        """
        num_bad = 0
        # Nobody may write before everybody has read.
        self.ranks.wait()
        if self.ranks.is_first:
            if resume:
                num_steps = checkpoint.num_steps if checkpoint else 0
                clean_up(self.path)
                clean_up(self.path / "checkpoints")
                set_aside(self.path / "checkpoints", after=num_steps)
                self.log.go_back(num_steps)
                going_on = self.recipe.stages[checkpoint.stage].name if checkpoint and checkpoint.step else ""
                num_bad = self.bad_rows.go_back(num_steps, going_on)
            else:
                self._keep_others_out()
                self.check_new()  # once more: another run may have begun and ended while the data was read
                write_file(self.path / "recipe.yaml", self.recipe.to_yaml())
            if not (self.path / DATA).is_file():
                write_file(self.path / DATA, json.dumps(hashes, indent=1) + "\n")
            for stage, bad in zip(self.recipe.stages, found, strict=True):
                self.bad_rows.add(bad.rows, stage=stage.name, step=None)
        return self.ranks.most(num_bad)

    def save(
        self,
        stage: int,
        step: int,
        num_steps: int,
        trainee: Trainee,
        optimiser: Optimizer | None,
        first_losses: dict[str, float],
        effects: Effects | None,
    ) -> None:
        """Writes a checkpoint of the state before `step` of a stage (0: the model between two stages)."""
        self.log.sync()
        self.bad_rows.sync()
        # One rank writes, and the ranks of a machine share its memory.
        writes = self.ranks.is_first
        weights = trainee.whole_weights(keep=writes)
        memory = optimiser_tensors(trainee, optimiser, keep=writes) if optimiser else {}
        state = {
            "stage": stage,
            "step": step,
            "num_steps": num_steps,
            "ranks": self.ranks.count,
            "first_losses": first_losses,
            "effects": effects.state if effects is not None else None,
            "random": random_states(self.ranks),
            "recipe": self.recipe.model_dump(mode="json"),
            "backbone": self.origin,
            "versions": library_versions(),
        }
        if writes:
            keep = self.recipe.machine.keep_checkpoints
            save_checkpoint(self.path / "checkpoints", state, weights, memory, keep=keep)
        self.ranks.wait()

    def restore_random(self, checkpoint: Checkpoint) -> None:
        """Sets this rank's random state to the checkpoint's, and says where that cannot be."""
        saved = checkpoint.state["random"]
        if len(saved) != self.ranks.count:
            self.say(f"the run had {len(saved)} ranks and has {self.ranks.count} now: dropout draws anew")
            return
        if checkpoint.state["versions"] != library_versions():
            self.say("library versions have changed since the checkpoint: numbers may differ in the last digits")
        RandomState.read(saved[self.ranks.number], self.ranks.device).restore()
