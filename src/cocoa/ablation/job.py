"""Runs a study: tuning first, then every arm, budget and seed once; killed and started again, it goes on.

What is done is what has its record: `tuning/ARM/BUDGET/TRIAL-SEED.json` and `runs/ARM/BUDGET/SEED.json`. A folder of
records alone is enough to go on from: what a missing run needs and is not there is trained again, and nothing else.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean
from typing import Any

from cocoa.ablation.costs import added, cost_of, flops_of
from cocoa.ablation.leaving import leaving
from cocoa.ablation.links import Link, chain_of, places_of, train_link
from cocoa.ablation.records import SCORED, STUDY, Kind, Record, models_of, read_record, read_records, read_study, said
from cocoa.ablation.study import GENERATED, Arm, Budget, Study, TaskFolder, placed
from cocoa.ablation.trials import Standing, Trial
from cocoa.claims import Claims
from cocoa.data.held_out import chosen_tasks
from cocoa.data.scene_tasks import write_scene_tasks
from cocoa.errors import DataError, RecipeError, UsageError
from cocoa.evaluation.runner import Evaluation, evaluate
from cocoa.evaluation.scorer import summarise
from cocoa.failpoints import failpoint
from cocoa.files import remove_folder, sweep, write_file
from cocoa.model import EmbeddingModel, library_versions
from cocoa.probing import probe
from cocoa.recipe import Recipe
from cocoa.sample import Task
from cocoa.training.loop import StepHook


class Job:
    """A study in a folder."""

    def __init__(
        self,
        study: Study,
        out: Path,
        *,
        folder: Path,
        only: Sequence[str] = (),
        on_standing: Callable[[Standing], None] | None = None,
        on_step: StepHook | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.study = study
        self.out = out
        self.folder = folder.resolve()
        self.only = only
        self.data = out.resolve() / GENERATED
        # A link's recipe names its parent's model: wherever the command is given, by one name.
        self.links = out.resolve() / "links"
        self.on_standing = on_standing
        self.on_step = on_step
        self.say = say
        self._places = places_of(self.data, self.folder)
        self._tasks: dict[tuple[TaskFolder, ...], list[Task]] = {}
        self._recipe: dict[tuple[Any, ...], Recipe] = {}
        self._known: dict[Kind, dict[tuple[str, str], Record]] = {}

    def run(self) -> list[dict[str, Any]]:
        """Returns the records of all runs that count, in the order of `runs`, doing what is not done yet.

        With `only`, patterns of ARM/BUDGET/SEED such as `light/*/0`, those runs alone are done and returned, so that
        several machines share a study. Each tunes the arms and budgets of its runs, and no others: machines that share
        by arms tune nothing twice.

        Raises `E_USAGE_OUT` for a folder that is another study's, `E_USAGE_BUSY` while another process works there,
        `E_USAGE_RUN` for a pattern that is no run's; `CocoaError` where a run fails.
        """
        self._check_only()
        self._check_folder()
        with self.alone():
            return self._run()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other processes from writing into the study's folder; raises `E_USAGE_BUSY` while one does."""
        with Claims(self.out) as claims:
            # The kernel takes a claim back from a process that dies, however it dies.
            if not claims.take("study"):
                raise UsageError("E_USAGE_BUSY", "another process is at work on this study", where=str(self.out))
            yield

    def check_begun(self) -> None:
        """Raises `E_USAGE_OUT` unless the folder is this study's, begun before."""
        self._check_folder()
        if not (self.out / STUDY).is_file():
            raise UsageError("E_USAGE_OUT", "no study was begun here", where=str(self.out))

    def _run(self) -> list[dict[str, Any]]:
        self._begin()
        self.draw_sets()
        for trial in self.tuning():
            self._do(trial)
        # All tuning of these runs is over before any of their tests is looked at.
        runs = self.runs()
        for trial in runs:
            self._do(trial)
        self._tell(None)
        return [self.record(trial) for trial in runs]

    def tuning(self) -> list[Trial]:
        """Returns the trials on validation tasks: equally many for every arm and budget that has a wanted run."""
        tuning = self.study.tuning
        if tuning is None:
            return []
        wanted = {(arm.name, budget.name) for arm, budget, _ in self._wanted()}
        return [
            Trial(arm.name, budget.name, seed, self._factors(arm, number), number)
            for seed in tuning.seeds
            for number in range(tuning.trials)
            for arm, budget in self._pairs()
            if (arm.name, budget.name) in wanted
        ]

    def runs(self) -> list[Trial]:
        """Returns the runs that count and are wanted, with the settings that tuning found best; seeds vary slowest.

        All of their tuning must be done.
        """
        return [Trial(arm.name, budget.name, seed, self._best(arm, budget)) for arm, budget, seed in self._wanted()]

    def record(self, trial: Trial) -> dict[str, Any]:
        """Returns the record of a trial that is done."""
        return read_record(self.out / trial.path)

    def recipe(self, trial: Trial) -> Recipe:
        """Returns what a trial trains, its last stage made longer where the budget wants equal FLOPs."""
        budget = next(each for each in self.study.budgets if each.name == trial.budget)
        recipe = self._recipe_of(self.study.arm(trial.arm), budget, trial.seed, trial.factors)
        if budget.equal == "data":
            return recipe
        most = max(self._flops(other) for other, each in self._recipes(trial.seed) if each == budget)
        last = self._chain(recipe)
        more = (most - self._flops(recipe)) / self._step_flops(last)
        stage = last.stage.model_copy(update={"steps": last.stage.steps + round(more)})
        return recipe.model_copy(update={"stages": (*recipe.stages[:-1], stage)})

    # One trial.

    def _do(self, trial: Trial) -> None:
        path = self.out / trial.path
        if path.is_file():
            return
        self._tell(trial)
        with leaving(self.out):
            recipe = self.recipe(trial)
            link = self._chain(recipe)
        found, costs = self._known_of(link, recipe, trial.kind) or self._scored(link, recipe, trial)
        record = {
            "arm": trial.arm,
            "budget": trial.budget,
            "seed": trial.seed,
            "trial": trial.number,
            "factors": dict(trial.factors),
            "versions": library_versions(),
            # Scores of a record that was here, or of an earlier process, say which versions they are of.
            **found,
            "cost": added([cost for cost in costs if cost["counted"]]),
            "links": costs,
            "recipe": recipe.model_dump(mode="json"),
        }
        write_file(path, json.dumps(record, indent=1) + "\n")
        failpoint("run-recorded")

    def _known_of(self, link: Link, recipe: Recipe, kind: Kind) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
        """What a record that was here at the start says of this very model, and of its cost."""
        record = self._known[kind].get((link.address, recipe.pooling.name))
        # What this folder scored itself is said by its own file, with its own logs.
        if record is None or self._score_file(link, recipe, kind).is_file():
            return None
        return {key: record[key] for key in SCORED if key in record}, record["links"]

    def _scored(self, link: Link, recipe: Recipe, trial: Trial) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What a link's model reaches, and costs; trained and looked at once, whichever arms and budgets end in it."""
        kind = trial.kind
        path = self._score_file(link, recipe, kind)
        if not path.is_file():
            for each in link.chain:
                model_folder = train_link(each, self.links, on_step=self.on_step, say=self.say)
            # The model stays as it is: who is asked to stop here looks at it from the start next time.
            with leaving(path):
                model = EmbeddingModel.load(model_folder)
                # The folder may have been made for an arm that pools otherwise, if its stages never read e.
                model.pooling = recipe.pooling
                tasks = self.tasks(kind)
                found = scores(evaluate(model, tasks, name=link.address))
                probes = probe(model, tasks) if kind == "runs" and self.study.probes else None
                found |= {"probes": probes and probes.whole, "layers": probes and probes.layers}
                found["versions"] = library_versions()
                write_file(path, json.dumps(found, indent=1) + "\n")
            failpoint("model-scored")
        model_is_needed = self._goes_on(link) or self._is_pooled_again(link, trial)
        if not model_is_needed and (self.links / link.address / "model").is_dir():
            # Its log and recipe stay.
            remove_folder(self.links / link.address / "model")
        content: dict[str, Any] = json.loads(path.read_text())
        costs = [
            {"link": each.address, "counted": each.counted, **cost_of(each, self.links, self._places)}
            for each in link.chain
        ]
        return content, costs

    def _score_file(self, link: Link, recipe: Recipe, kind: Kind) -> Path:
        folder = "tests" if kind == "runs" else "validation"
        return self.out / "scores" / folder / f"{link.address}-{recipe.pooling.name}.json"

    def _goes_on(self, link: Link) -> bool:
        """Whether any arm has stages behind those of a link."""
        own = [each.stage.name for each in link.chain]
        chains = [
            [*self.study.before, *(name for name in arm.stages if name not in budget.drop)]
            for arm, budget in self._pairs()
        ]
        return any(len(other) > len(own) and other[: len(own)] == own for other in chains)

    def _is_pooled_again(self, link: Link, trial: Trial) -> bool:
        """Whether a trial that is not done ends in the same link, and pools otherwise."""
        pooling = self.study.arm(trial.arm).pooling
        return any(
            other.seed == trial.seed
            and self.study.arm(other.arm).pooling != pooling
            and not (self.out / other.path).is_file()
            and self._chain(self.recipe(other)).address == link.address
            for other in (self.runs() if trial.kind == "runs" else self.tuning())
        )

    def _best(self, arm: Arm, budget: Budget) -> Mapping[str, float]:
        """The factors whose mean score on the validation tasks is best; the first of equal ones."""
        tuning = self.study.tuning
        if tuning is None:
            return {}
        means = []
        for number in range(tuning.trials):
            factors = self._factors(arm, number)
            found = [self.record(Trial(arm.name, budget.name, seed, factors, number)) for seed in tuning.seeds]
            means.append(fmean(each["score"] for each in found))
        return self._factors(arm, means.index(max(means)))

    def _factors(self, arm: Arm, number: int) -> dict[str, float]:
        """What the learning rates of an arm's stages are multiplied by in a trial: 1 in the first."""
        tuning = self.study.tuning
        assert tuning is not None
        if number == 0:
            return dict.fromkeys(arm.stages, 1.0)
        low, high = (math.log(factor) for factor in tuning.factors)
        # Of the stage's name and the trial alone, so that arms share the stages that they have in common.
        return {
            name: float(f"{math.exp(random.Random(f'{name}/{number}').uniform(low, high)):.3g}") for name in arm.stages
        }

    # What the study is made of.

    def _every(self) -> Iterator[tuple[str, tuple[Arm, Budget, int]]]:
        """All runs of the study by name."""
        for seed in self.study.seeds:
            for arm, budget in self._pairs():
                yield f"{arm.name}/{budget.name}/{seed}", (arm, budget, seed)

    def _wanted(self) -> list[tuple[Arm, Budget, int]]:
        """The runs that `only` asks for."""
        patterns = self.only or ("*",)
        return [run for name, run in self._every() if any(fnmatchcase(name, pattern) for pattern in patterns)]

    def _check_only(self) -> None:
        names = [name for name, _ in self._every()]
        for pattern in self.only:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UsageError("E_USAGE_RUN", f"no run is called {pattern}; one is {names[0]}", where="--only")

    def _pairs(self) -> Iterator[tuple[Arm, Budget]]:
        for budget in self.study.budgets:
            for arm in self.study.arms:
                if set(arm.stages) - set(budget.drop):
                    yield arm, budget

    def _recipes(self, seed: int) -> Iterator[tuple[Recipe, Budget]]:
        for arm, budget in self._pairs():
            yield self._recipe_of(arm, budget, seed), budget

    def _recipe_of(self, arm: Arm, budget: Budget, seed: int, factors: Mapping[str, float] | None = None) -> Recipe:
        """The recipe as the study says it; read once, for each run asks for those of all others."""
        key = (arm.name, budget.name, seed, *(factors or {}).items())
        if key not in self._recipe:
            recipe = self.study.recipe(arm, budget, seed, folder=self.folder, data=self.data, factors=factors)
            assert recipe is not None, "arms with nothing left have no trials"
            self._recipe[key] = recipe
        return self._recipe[key]

    def _chain(self, recipe: Recipe) -> Link:
        return chain_of(recipe, num_before=len(self.study.before), places=self._places)

    def _flops(self, recipe: Recipe) -> float:
        own = [each for each in self._chain(recipe).chain if each.counted]
        return sum(each.stage.steps * self._step_flops(each) for each in own)

    def _step_flops(self, link: Link) -> float:
        return flops_of(link.recipe, self.out / "flops", self._places)

    def tasks(self, kind: Kind) -> list[Task]:
        """Returns what runs that count, or tuning, are scored on; its sets must be drawn."""
        folders = self.study.tests if kind == "runs" else self.study.validation
        if folders not in self._tasks:
            found = [
                task
                for each in folders
                for task in chosen_tasks(placed(each.path, self.folder, self.data), each.only, each.held_out)
            ]
            names = Counter(task.name for task in found)
            if twice := [name for name, count in names.items() if count > 1]:
                both = f"two folders of tasks have one called {twice[0]}; name them apart"
                raise RecipeError("E_RECIPE_OPTION", both)
            self._tasks[folders] = found
        return self._tasks[folders]

    # The folder.

    def _check_folder(self) -> None:
        """Raises unless the folder is this study's, or new."""
        path = self.out / STUDY
        if path.is_file():
            if said(read_study(self.out)) != said(self.study):
                raise UsageError(
                    "E_USAGE_OUT",
                    "the folder is of another study, or of this one before it was changed",
                    where=str(path),
                )
            return
        own = (".claims", f".{STUDY}")  # What a process leaves that is killed before it has begun.
        if self.out.exists() and any(not each.name.startswith(own) for each in self.out.iterdir()):
            raise UsageError("E_USAGE_OUT", "folder is not empty and not of a study", where=str(self.out))

    def _begin(self) -> None:
        """Makes the folder this study's, without what a killed process left half written."""
        self._check_folder()
        for folder in {path.parent for path in self.out.rglob(".*.draft")}:
            sweep(folder)
        if not (self.out / STUDY).is_file():
            write_file(self.out / STUDY, json.dumps(said(self.study), indent=1) + "\n")
        self._known = {kind: models_of(read_records(self.out, kind)) for kind in ("runs", "tuning")}

    def draw_sets(self) -> None:
        """Draws the sets that are not there yet, and looks that tests have unlike names and are not tuned on."""
        for name in self.undrawn():
            self.say(f"drawing {name}")
            with leaving(self.data / name):
                write_scene_tasks(self.data / name, **self.study.generated[name].model_dump())
        for folders in (self.study.tests, self.study.validation):
            for each in folders:
                place = placed(each.path, self.folder, self.data)
                if not place.is_dir():
                    raise DataError("E_DATA_FILE", "no such folder of tasks", where=str(place))
        tests = self.tasks("runs")
        if self.study.tuning is not None and _same(tests, self.tasks("tuning")):
            raise RecipeError("E_RECIPE_OPTION", "a question of the tests is among those of the validation tasks")

    def undrawn(self) -> list[str]:
        """Returns the names of generated sets that are not there yet."""
        return [name for name in self.study.generated if not (self.data / name).is_dir()]

    def _tell(self, now: Trial | None) -> None:
        if self.on_standing is None:
            return
        tuning = self.tuning()
        tuned = all((self.out / trial.path).is_file() for trial in tuning)
        expected = len(tuning) + len(self._wanted())
        runs = self.runs() if tuned else []
        done = [trial for trial in (*tuning, *runs) if (self.out / trial.path).is_file()]
        records = [self.record(trial) for trial in done if trial.number is None]
        self.on_standing(Standing(len(done), expected, now, records))


def scores(evaluation: Evaluation) -> dict[str, Any]:
    """Returns each task's hit@1, the means of meta-tasks, and their one number: the mean of all tasks."""
    facts = evaluation.to_dict()
    tasks = {name: {key: task[key] for key in ("meta_task", "hit_at_1")} for name, task in facts["tasks"].items()}
    return {
        "tasks": tasks,
        # A study may ask some of a set's tasks: what that set's own result keeps back then is a mean of its tests here.
        "summary": summarise(zip(evaluation.tasks, evaluation.scores, strict=True)),
        "score": fmean(task["hit_at_1"] for task in tasks.values()),
    }


def _same(tests: Sequence[Task], validation: Sequence[Task]) -> bool:
    seen = {question.query.key for task in validation for question in task.questions if question.query.images}
    return any(question.query.key in seen for task in tests for question in task.questions)
