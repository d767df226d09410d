"""A recipe as a chain of links: each is one stage on what stands before it, named by its content.

Arms whose chains begin alike share those links, so a common prefix is trained once. A chain trained link by link gives
the numbers of the whole recipe, because a stage draws from its own seed and a model folder loses nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cocoa.ablation.leaving import STOPPED
from cocoa.ablation.study import GENERATED
from cocoa.errors import TrainingStoppedError
from cocoa.failpoints import failpoint
from cocoa.files import write_file
from cocoa.layouts import LAYOUTS
from cocoa.pooling import Pooling
from cocoa.portable import portable
from cocoa.recipe import Recipe, Stage, differences, parse_recipe
from cocoa.training.loop import StepHook, asked_to_stop, train
from cocoa.training.receipt import data_paths
from cocoa.training.run_folder import DATA


@dataclass(frozen=True)
class Link:
    """One stage as a recipe of its own, after `parent`; `counted` says that it is an arm's own cost.

    Links of equal `address` give equal models. `recipe` still names the first backbone: where the parent's model lies
    is known when it is trained.
    """

    address: str
    recipe: Recipe
    parent: Link | None
    counted: bool

    @property
    def stage(self) -> Stage:
        """The stage."""
        return self.recipe.stages[0]

    @property
    def chain(self) -> list[Link]:
        """The links up to this one, first first."""
        return [*(self.parent.chain if self.parent else []), self]


def chain_of(recipe: Recipe, *, num_before: int, places: Mapping[str, str]) -> Link:
    """Returns the last link of a recipe's chain; its first `num_before` stages are not counted as cost.

    `places` are folders and the names that stand for them in addresses: an address says what is trained, not where.
    """
    link: Link | None = None
    for number, stage in enumerate(recipe.stages):
        pooling = recipe.pooling if _reads_e(stage) else Pooling()
        own = recipe.model_copy(update={"stages": (stage,), "pooling": pooling, "name": stage.name})
        said = own.model_dump(mode="json", exclude={"machine", "name", "prompts"})
        content = json.dumps([link.address if link else None, portable(said, places)], sort_keys=True)
        address = f"{stage.name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
        link = Link(address, own, link, number >= num_before)
    assert link is not None, "a recipe has a stage"
    return link


def train_link(link: Link, links: Path, *, on_step: StepHook | None = None, say: Callable[[str], None]) -> Path:
    """Returns the model folder of a link below `links`, trained now if it is not there; one that was killed goes on.

    Its parent's model must be there. On SIGTERM and Ctrl-C raises `TrainingStoppedError`, with the model if all was
    trained.
    """
    folder = links / link.address
    model = folder / "model"
    if model.is_dir():
        _drop_checkpoints(folder)  # of who was killed before it could
        return model
    recipe = link.recipe
    if link.parent is not None:
        # A folder has no revisions: that of the first backbone is in the parent's weights.
        parent = {"name": str(links / link.parent.address / "model"), "revision": None}
        recipe = recipe.model_copy(update={"backbone": recipe.backbone.model_copy(update=parent)})
    resume = (folder / "recipe.yaml").is_file()
    if resume:
        _take_over(folder, recipe)
    elif folder.exists():
        shutil.rmtree(folder)  # killed before it had begun
    try:
        with asked_to_stop() as stop:
            train(recipe, folder, resume=resume, on_step=on_step, say=say)
    except TrainingStoppedError as error:
        raise stop.error(STOPPED, where=str(folder)) from error
    failpoint("link-trained")
    _drop_checkpoints(folder)
    if stop.is_set():  # In its last step, which a run ends well after; the study does not.
        raise stop.error(STOPPED, where=str(folder))
    return model


def _drop_checkpoints(folder: Path) -> None:
    """Removes a trained link's checkpoints, several times as large as its model."""
    if (folder / "checkpoints").is_dir():
        shutil.rmtree(folder / "checkpoints")


def _take_over(folder: Path, recipe: Recipe) -> None:
    """Makes a begun link name its model and data by where they lie now: its address says that they are the same."""
    begun = parse_recipe((folder / "recipe.yaml").read_text(), where=str(folder / "recipe.yaml"))
    if not differences(begun, recipe):
        return
    if (data := folder / DATA).is_file():
        now = dict(zip(map(str, data_paths(begun)), map(str, data_paths(recipe)), strict=True))
        hashes = json.loads(data.read_text())
        write_file(data, json.dumps({now.get(path, path): tables for path, tables in hashes.items()}, indent=1) + "\n")
    # Last, so that who is killed before it does all of this again.
    write_file(folder / "recipe.yaml", recipe.to_yaml())


def _reads_e(stage: Stage) -> bool:
    rows = {options.rows for options in stage.objectives}
    return LAYOUTS[stage.layout].bridged or bool(rows & {"apart", "single"})


def places_of(data: Path, folder: Path) -> dict[str, str]:
    """Returns the names that stand for folders in addresses and kept records.

    `generated` is the folder `data` of a study's drawn sets, `.` the study file's `folder`, `..` and so on those above.
    """
    folder = folder.resolve()
    above = {str(each): "/".join([".."] * number) for number, each in enumerate(folder.parents, 1) if each.name}
    # Longer names first: the drawn sets may lie beside the study file.
    return {str(data.resolve()): GENERATED, str(folder): ".", **above}
