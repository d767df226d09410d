"""A recipe: a whole run as frozen, typed objects, read from YAML; it cannot say a thing that is then not done."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from cocoa.adapters import LoraOptions
from cocoa.data.sources import Source
from cocoa.errors import RecipeError
from cocoa.layouts import LAYOUTS, LayoutName
from cocoa.objectives import ObjectiveOptions
from cocoa.option_errors import closest, explained
from cocoa.options import Options
from cocoa.plain_yaml import parse_yaml
from cocoa.pooling import Pooling
from cocoa.prompts import check_prompts

Count = Annotated[int, Field(gt=0)]


class BackboneOptions(Options):
    """The model that the run starts from, and how large it sees pictures."""

    name: str
    """`nano` (ships with the package), `nano-untrained`, a folder, or a hub id."""
    revision: str | None = None
    """The commit, tag or branch of a hub id; None: its newest. The commit that was read stands in the receipt."""
    min_pixels: Count | None = None
    """Smaller pictures are enlarged to this area; None keeps the backbone's own limit."""
    max_pixels: Count | None = None
    """Larger pictures are shrunk to this area; None keeps the backbone's own limit."""
    attention: Literal["split", "sdpa", "eager"] = "split"
    """`split`: each part of a row is computed against what it may look at, without a square mask; `sdpa` and `eager`:
    the same numbers up to rounding, through a square mask, fused and in plain products."""


class MachineOptions(Options):
    """How a run is computed, not what.

    Without dropout nothing here changes the numbers beyond rounding, except that with `sharding` weights that a step
    does not reach still move by their momentum and `weight_decay`. All of it may change when a run is resumed.
    """

    chunk_tokens: Annotated[int, Field(ge=64)] = 16_384
    """Tokens of one forward pass on one rank, padding included; a larger batch is cut into passes. See `cocoa plan`."""
    pack_tokens: Annotated[int, Field(ge=64)] | None = None
    """Samples share lines of up to this many tokens instead of being padded; None: one sample a line."""
    activation_checkpointing: bool = False
    """Compute each layer again in the backward pass instead of keeping its inside: a third slower, far less memory."""
    sharding: bool = False
    """Split the weights over the ranks (FSDP2) instead of keeping all on each. What is outside the decoder's layers is
    whole on each during a step, and the whole model where a stage begins and ends: see `cocoa plan`."""
    rank_timeout: Annotated[int, Field(gt=0, le=1_000_000)] = 600
    """Seconds that a rank waits for another before the run ends: more than the slowest step, checkpoint or reading of
    tables before the first step takes."""
    workers: Annotated[int, Field(ge=0, le=256)] = 2
    """Threads of each rank that read pictures ahead of the step (and one that prepares the next step); 0: nothing is
    read or prepared ahead."""
    checkpoint_every: Count | None = 500
    """Steps between checkpoints; None: only at the end of each stage."""
    keep_checkpoints: Count = 2
    """The newest checkpoints that are kept."""

    @model_validator(mode="after")
    def _lines_fit(self) -> MachineOptions:
        if self.pack_tokens is not None and self.pack_tokens > self.chunk_tokens:
            raise ValueError(f"pack_tokens {self.pack_tokens} is above chunk_tokens {self.chunk_tokens}")
        return self


class Stage(Options):
    """One layout, a list of objectives, and data."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    layout: LayoutName
    objectives: Annotated[tuple[ObjectiveOptions, ...], Field(min_length=1)]
    data: Annotated[tuple[Source, ...], Field(min_length=1)]
    steps: Count
    batch_size: Count
    """Pairs a step, over all ranks."""
    sub_batch: Annotated[int, Field(ge=2)] | None = None
    """Neighbours that come from one table each; None: plain shuffle (method O11)."""
    adapter: LoraOptions | None = None
    """Train low-rank adapters, merged at the end of the stage; None: train the weights themselves."""
    freeze_vision: bool = False
    """Leave the vision tower as it is; its output is then computed once a step."""
    min_pixels: Count | None = None
    """As in `backbone`, for this stage alone."""
    max_pixels: Count | None = None
    """As in `backbone`, for this stage alone."""
    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate goes to 0 after `warmup_steps`; `constant` stays."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's, of matrices alone: norms, biases, embeddings, the mask token's row and DoRA's lengths do not decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0

    @property
    def reads_queries_once(self) -> bool:
        """Whether light decoders read the vectors of a contrastive objective and need no pass of their own."""
        return {objective.rows for objective in self.objectives} == {"single", "apart"}

    @property
    def letters(self) -> str:
        """What stands in its rows, for a drawing of the layout: A context, e bridge token, B target.

        Where query and target stand in rows of their own it is one of these rows.
        """
        rows = {objective.rows for objective in self.objectives}
        if "closed" in rows:
            return "AABBe"
        if rows <= {"single", "apart"}:
            return "AAe"
        return "AAeBB" if LAYOUTS[self.layout].bridged else "AABB"

    @property
    def rebuilds_target_text(self) -> bool:
        """Whether the stage learns from words of targets alone: a target that is a picture would teach it nothing."""
        return all(
            objective.kind == "bridged_text" or (objective.kind == "masked_text" and objective.roles == ("target",))
            for objective in self.objectives
        )

    @model_validator(mode="after")
    def _has_an_effect(self) -> Stage:
        kinds = [objective.kind for objective in self.objectives]
        if len(set(kinds)) < len(kinds):
            raise ValueError("an objective is listed twice")
        rows = {objective.rows for objective in self.objectives}
        if len(rows - {"single"}) > 1:
            raise ValueError(f"objectives {', '.join(kinds)} need different rows and cannot share a stage")
        if "next_token" in kinds and self.layout != "causal":
            raise ValueError("next_token needs layout causal: under any other the answer is in sight")
        if LAYOUTS[self.layout].bridged and rows <= {"single", "apart"}:
            named = " and ".join(kinds)
            raise ValueError(f"layout {self.layout} has no effect on {named}, with no target text in the rows")
        if LAYOUTS[self.layout].bridged and any(
            objective.kind == "masked_text" and "roles" not in objective.model_fields_set
            for objective in self.objectives
        ):
            raise ValueError(
                f"masked_text under {self.layout} must say where words are hidden: roles: [target] is the paper's, "
                "which rebuilds the target from e; [context, target] hides words of the input too"
            )
        if self.adapter is not None and self.freeze_vision:
            raise ValueError("freeze_vision has no effect with an adapter; say adapter.vision: false")
        if self.sub_batch is not None and self.batch_size % self.sub_batch:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of sub_batch {self.sub_batch}")
        if "contrastive" in kinds and self.batch_size == 1:
            raise ValueError("contrastive has no effect with batch_size 1: there is no other target to tell it from")
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below steps {self.steps}")
        return self


class Recipe(Options):
    """A whole run: a backbone and the stages that change it, one after another."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] = 0
    backbone: BackboneOptions
    max_tokens: Annotated[int, Field(ge=16)] = 4096
    """Longest row; texts are cut to it, pictures never are."""
    pooling: Pooling = Pooling()
    """What the embedding is made of, in every stage and in the model folder."""
    prompts: Annotated[dict[str, str], AfterValidator(check_prompts)] = Field(default_factory=dict)
    """The words that the finished model is asked in, `query/text: "Which shoe is it? {text}"`; those that are not given
    stay MMEB's. Training puts nothing around a row: its own words must stand in it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16`: frozen weights and matrix products in bfloat16; trained weights, norms and losses in float32."""
    max_bad_rate: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Rows that cannot be read are left out and listed in `bad_rows.jsonl`, up to this share of a stage's rows; None:
    the first one ends the run."""
    machine: MachineOptions = MachineOptions()
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _stage_names_differ(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stage names must differ: {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _bridge_tokens_leave_room(self) -> Recipe:
        if self.pooling.tokens >= self.max_tokens:
            raise ValueError(f"pooling.tokens {self.pooling.tokens} must be below max_tokens {self.max_tokens}")
        return self

    def to_yaml(self) -> str:
        """Returns the recipe with every default written out; reading it gives the same recipe."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def differences(one: Recipe, other: Recipe) -> list[str]:
    """Returns the options in which two recipes would give other numbers, as `stages.0.steps: 10, not 20`."""
    how: dict[str, Any] = {"machine": True, "backbone": {"attention"}}
    first, second = (recipe.model_dump(mode="json", exclude=how) for recipe in (one, other))
    return sorted(_differ(first, second, ""))


def _differ(one: Any, other: Any, place: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from _differ(one.get(key), other.get(key), f"{place}.{key}" if place else key)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (first, second) in enumerate(zip(one, other, strict=True)):
            yield from _differ(first, second, f"{place}.{number}")
    elif one != other:
        yield f"{place}: {one!r}, not {other!r}"


def load_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Returns the recipe of a YAML file, with changes such as `stages.0.steps=10` or `stages.warm-up.steps=10` made.

    A relative `path` of data, or of a backbone that starts with a dot, is meant from the file's folder. Raises
    `RecipeError` naming every wrong key, type or range at once.
    """
    return parse_recipe(read_described(path), where=str(path), folder=path.parent, changes=changes)


def read_described(path: Path) -> str:
    """Returns the text of the file of a recipe or study. Raises `E_RECIPE_FILE` where there is none."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        what = "is a folder; name the YAML file" if path.is_dir() else "no such readable file"
        raise RecipeError("E_RECIPE_FILE", what, where=str(path)) from error


def parse_recipe(
    text: str,
    *,
    where: str = "recipe",
    folder: Path | None = None,
    changes: Sequence[str] = (),
    places: Mapping[str, Path] | None = None,
) -> Recipe:
    """Returns the recipe of a YAML text; see `load_recipe`.

    A `path` of data that begins with a name of `places` lies in that folder and not in `folder`.
    """
    tree = read_yaml(text, "a recipe is a mapping with name, backbone and stages", where=where)
    if "arms" in tree:
        raise RecipeError("E_RECIPE_OPTION", "a study, for it has arms: `cocoa ablate` runs it", where=where)
    for change in changes:
        _change(tree, change)
    if folder is not None:
        _anchor_paths(tree, folder.resolve(), places or {})
    try:
        return read_options(Recipe, tree, where=where)
    except RecipeError as error:
        if not changes:
            raise
        try:
            parse_recipe(text, where=where, folder=folder, places=places)
        except RecipeError:  # The file's own fault, whatever the changes add to it.
            raise error from None
        raise error.at(f"--set {' '.join(changes)}") from None


def read_yaml(text: str, expected: str, *, where: str) -> dict[str, Any]:
    """Returns the mapping of a YAML text, numbers as people write them. Raises `E_RECIPE_YAML` for anything else."""
    tree = parse_yaml(text, where=where)
    if not isinstance(tree, dict):
        raise RecipeError("E_RECIPE_YAML", expected, where=where)
    return tree


Given = TypeVar("Given", bound=Options)


def read_options(kind: type[Given], tree: Any, *, where: str) -> Given:
    """Returns options of a kind from plain data. Raises `RecipeError` naming every wrong key, type or range at once."""
    try:
        # Through JSON, because strict Python mode refuses a list where a tuple stands and a string where a path stands.
        return kind.model_validate_json(json.dumps(tree))
    except TypeError as error:
        raise RecipeError(
            "E_RECIPE_TYPE", f"a value is of a type that recipes do not have: {error}", where=where
        ) from error
    except ValidationError as error:
        raise RecipeError("E_RECIPE_OPTION", "; ".join(explained(error, kind)), where=where) from error


def _change(tree: dict[str, Any], change: str) -> None:
    dotted, equals, value = change.partition("=")
    keys = dotted.split(".")
    if not equals or not all(keys):
        raise RecipeError("E_RECIPE_SET", f"--set takes key.key=value, got {change!r}")
    node: Any = tree
    for depth, key in enumerate(keys):
        if isinstance(node, list):
            names = [item.get("name", item.get("kind")) if isinstance(item, dict) else None for item in node]
            known = [name for name in names if name]
            place = names.index(key) if key in known else int(key) if key.isdecimal() and len(key) < 10 else -1
            if not 0 <= place < len(node):
                raise RecipeError("E_RECIPE_SET", f"--set {dotted}: no {key!r} among {', '.join(known)}")
            index: Any = place
        else:
            index = key
        if not isinstance(node, dict | list):
            raise RecipeError("E_RECIPE_SET", f"--set {dotted}: {keys[depth - 1]!r} has no options in it")
        if depth == len(keys) - 1:
            try:
                node[index] = parse_yaml(value)
            except RecipeError as error:
                raise RecipeError("E_RECIPE_SET", f"--set {dotted}: not YAML: {value[:80]!r}") from error
        elif isinstance(node, dict) and index in _GROUPS:
            # A group of options that all have defaults need not be there to be changed.
            node = node.setdefault(index, {})
        elif isinstance(node, dict) and index not in node:
            raise RecipeError("E_RECIPE_SET", f"--set {dotted}: the recipe has no {key!r}{closest(key, list(node))}")
        else:
            node = node[index]


def _anchor_paths(node: Any, folder: Path, places: Mapping[str, Path]) -> None:
    if isinstance(node, list):
        for item in node:
            _anchor_paths(item, folder, places)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "path" and isinstance(value, str):
                first, _, rest = value.partition("/")
                node[key] = str((places[first] / rest if first in places else folder / value).resolve())
            elif key == "name" and isinstance(value, str) and value.startswith(("./", "../")):
                node[key] = str((folder / value).resolve())
            else:
                _anchor_paths(value, folder, places)


_GROUPS = ("machine", "adapter", "pooling", "prompts")
