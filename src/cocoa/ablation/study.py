"""A study as typed, frozen options: arms made of named stages, budgets, seeds, tuning, and what is looked at once.

Every arm is checked as a recipe before anything is trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cocoa.data.held_out import HeldOut
from cocoa.data.sources import ScenePairsSource
from cocoa.errors import RecipeError
from cocoa.options import Options
from cocoa.pooling import Pooling
from cocoa.recipe import (
    BackboneOptions,
    Count,
    MachineOptions,
    Recipe,
    parse_recipe,
    read_described,
    read_options,
    read_yaml,
)

GENERATED = "generated"
"""Paths that begin with this word are of task sets that the study draws for itself."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]


class SceneTasks(Options):
    """A set of tasks over generated scenes, see `write_scene_tasks`."""

    seed: int
    num_train: Annotated[int, Field(ge=12)] = 256
    num_test: Annotated[int, Field(ge=12)] = 200
    num_things: Count = 128


class TaskFolder(Options):
    """Tasks that are scored."""

    path: str
    """A folder in MMEB's format; `generated/NAME` is one of `generated`."""
    only: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The tasks of the folder that count; None: all."""
    held_out: HeldOut | None = None
    """Of validation: its tasks are made of the folder's training rows that are held out, see `held_out_tasks`."""


class Arm(Options):
    """One way of training: named stages, one after another."""

    name: Name
    stages: Annotated[tuple[str, ...], Field(min_length=1)]
    pooling: Pooling = Pooling()
    set: tuple[str, ...] = ()
    """Changes to this arm's recipe, such as `stages.bridge.layout=eos_open`."""
    title: str | None = None
    """What a reader sees; None: the name."""


class Budget(Options):
    """How long arms are trained on labels, and how they are made comparable."""

    name: Name
    set: tuple[str, ...] = ()
    """Changes to every arm's recipe, such as `stages.contrastive.steps=550`."""
    equal: Literal["data", "flops"] = "data"
    """`data`: every arm's last stage is as the recipe says. `flops`: it goes on until the arm has cost as many FLOPs as
    the dearest one."""
    drop: tuple[str, ...] = ()
    """Stages that are left out; an arm with nothing left has no runs."""
    labelled: Count | None = None
    """Labelled pairs that the budget stands for on a few-shot curve."""


class Tuning(Options):
    """The same search of learning rates for every arm and budget, on tasks that no result is taken from."""

    trials: Annotated[int, Field(ge=1)]
    """Settings tried; the first is the recipe's own."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    """Seeds that a setting is tried with; none of them is a seed of the study."""
    factors: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.3, 3.0)
    """Each stage's learning rate is multiplied by a number between these, drawn evenly on the logarithm; equal stages
    of all arms draw the same."""


class Study(Options):
    """Arms and budgets, and how often each is run."""

    name: Name
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    backbone: BackboneOptions
    max_tokens: Annotated[int, Field(ge=16)] = 4096
    precision: Literal["float32", "bfloat16"] = "float32"
    machine: MachineOptions = MachineOptions()
    generated: dict[str, SceneTasks] = Field(default={})
    tests: Annotated[tuple[TaskFolder, ...], Field(min_length=1)]
    """Scored once, after all tuning of the runs that are asked for."""
    validation: tuple[TaskFolder, ...] = ()
    """What tuning looks at."""
    before: tuple[str, ...] = ()
    """Stages that every arm begins with, seed by seed; they make the backbone and are not counted as an arm's cost."""
    stages: dict[str, dict[str, Any]]
    """Stages by name, as in a recipe."""
    baseline: str
    """The arm that all others are tested against."""
    contrasts: tuple[tuple[str, str], ...] = ()
    """Pairs of arms that are also tested against each other, such as an arm and its own control."""
    arms: Annotated[tuple[Arm, ...], Field(min_length=2)]
    budgets: Annotated[tuple[Budget, ...], Field(min_length=1)]
    tuning: Tuning | None = None
    probes: bool = False
    """Also measure each run's vectors, see `probing`."""

    @model_validator(mode="after")
    def _says_what_is_done(self) -> Study:
        for kind, names in (("arm", [arm.name for arm in self.arms]), ("budget", [b.name for b in self.budgets])):
            if len(set(names)) < len(names):
                raise ValueError(f"{kind} names must differ: {', '.join(names)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is listed twice")
        if self.baseline not in [arm.name for arm in self.arms]:
            raise ValueError(f"baseline {self.baseline!r} is no arm")
        known = {arm.name for arm in self.arms}
        if wrong := [pair for pair in self.contrasts if len(set(pair)) < 2 or not set(pair) <= known]:
            raise ValueError(f"contrast {' and '.join(wrong[0])} is not of two arms")
        if double := [pair for pair in self.contrasts if self.baseline in pair]:
            raise ValueError(f"contrast {' and '.join(double[0])}: every arm is tested against the baseline anyway")
        own = {name for arm in self.arms for name in arm.stages}
        used = {*self.before, *own}
        if unknown := sorted(used - self.stages.keys()):
            raise ValueError(f"no stage {unknown[0]!r}; known: {', '.join(self.stages)}")
        for budget in self.budgets:
            if unknown := sorted(set(budget.drop) - own):
                raise ValueError(f"budget {budget.name} drops {unknown[0]!r}, which no arm has")
        if idle := sorted(self.stages.keys() - used):
            raise ValueError(f"stage {idle[0]!r} has no effect: no arm has it")
        if (self.tuning is None) != (not self.validation):
            raise ValueError("tuning and validation have an effect only together")
        if any(each.held_out is not None for each in self.tests):
            raise ValueError("tests are tables of their own; held_out is of validation")
        if self.tuning is not None and set(self.tuning.seeds) & set(self.seeds):
            raise ValueError("seeds of tuning must not be seeds of the study")
        return self

    def arm(self, name: str) -> Arm:
        """Returns the arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    def recipe(
        self,
        arm: Arm,
        budget: Budget,
        seed: int,
        *,
        folder: Path,
        data: Path,
        factors: Mapping[str, float] | None = None,
    ) -> Recipe | None:
        """Returns what one run trains, `before` included; None if the budget leaves nothing of the arm.

        `folder` is the study file's, `data` where generated sets lie; `factors` multiply learning rates, by stage.
        Raises `RecipeError` naming the arm and budget.
        """
        names = [*self.before, *(name for name in arm.stages if name not in budget.drop)]
        if len(names) == len(self.before):
            return None
        stages = [{"name": name, **self.stages[name]} for name in names]
        tree = {
            "name": f"{self.name}-{arm.name}",
            "seed": seed,
            "backbone": self.backbone.model_dump(mode="json"),
            "max_tokens": self.max_tokens,
            "precision": self.precision,
            "machine": self.machine.model_dump(mode="json"),
            "pooling": arm.pooling.model_dump(mode="json"),
            "stages": stages,
        }
        dropped = {f"stages.{name}." for name in budget.drop}
        changes = [each for each in (*budget.set, *arm.set) if not each.startswith(tuple(dropped))]
        where = f"study {self.name}: arm {arm.name}, budget {budget.name}"
        try:
            # YAML of JSON is YAML.
            recipe = parse_recipe(
                json.dumps(tree), where=where, folder=folder, changes=changes, places={GENERATED: data}
            )
            self._check(recipe, names)
        except RecipeError as error:
            raise error.at(where) from error
        if not factors:
            return recipe
        tuned = [
            stage.model_copy(update={"learning_rate": stage.learning_rate * factors.get(stage.name, 1.0)})
            for stage in recipe.stages
        ]
        return recipe.model_copy(update={"stages": tuple(tuned)})

    def _check(self, recipe: Recipe, names: Sequence[str]) -> None:
        """Raises unless a recipe's stages are called by `names` and train on nothing that validation holds out."""
        if recipe.prompts:
            said = "prompts has no effect in a study: the rows of its tasks have their words in them"
            raise RecipeError("E_RECIPE_OPTION", said)
        for stage, name in zip(recipe.stages, names, strict=True):
            if stage.name != name:
                # Tuning and links know a stage by its key.
                message = f"stage {name!r} is given the name {stage.name!r}; in a study its key is its name"
                raise RecipeError("E_RECIPE_OPTION", message)
            for each in self.validation:
                if each.held_out is None:
                    continue
                for source in stage.data:
                    # Generated pairs are told apart by their seeds.
                    if not isinstance(source, ScenePairsSource) and source.held_out != each.held_out:
                        said = f"give its data held_out: {each.held_out.model_dump_json()}"
                        message = f"stage {name!r} may train on what is tuned by; {said}"
                        raise RecipeError("E_RECIPE_OPTION", message)


def load_study(path: Path, changes: Sequence[str] = ()) -> Study:
    """Returns the study of a YAML file; `changes` are of its top level: `seeds=[0]`.

    Raises `RecipeError` for a wrong option, and for any arm that is no recipe, before anything is trained.
    """
    text = read_described(path)
    tree = read_yaml(text, "a study is a mapping with name, seeds, stages, arms and budgets", where=str(path))
    if isinstance(tree.get("stages"), list) and "arms" not in tree:
        what = "a recipe, for its stages are a list and it has no arms: `cocoa train` runs it"
        raise RecipeError("E_RECIPE_OPTION", what, where=str(path))
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or key not in Study.model_fields:
            raise RecipeError("E_RECIPE_SET", f"--set takes an option of the study, got {change!r}", where=str(path))
        tree[key] = read_yaml(f"value: {value}", "a value", where=str(path))["value"]
    study = read_options(Study, tree, where=str(path))
    for arm in study.arms:
        for budget in study.budgets:
            study.recipe(arm, budget, 0, folder=path.parent, data=path.parent / GENERATED)
    return study


def placed(path: str, folder: Path, data: Path) -> Path:
    """Returns the place of a path that a study names: a generated set's, or one beside the study file."""
    first, _, rest = path.partition("/")
    return data / rest if first == GENERATED else (folder / path).resolve()
