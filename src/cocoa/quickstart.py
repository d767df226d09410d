"""The whole way in minutes: generated pictures, three ways of training, one table, a search index and a report."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from cocoa.backbones import Encoded
from cocoa.corpus.documents import Document
from cocoa.corpus.index import Index
from cocoa.corpus.shards import embed_documents
from cocoa.data.emoji_sheet import things
from cocoa.data.mmeb_eval import read_tasks
from cocoa.data.scene_pairs import ScenePairs
from cocoa.data.scene_tasks import write_scene_tasks
from cocoa.embedder import Embedder
from cocoa.errors import TrainingStoppedError, UsageError
from cocoa.evaluation.runner import Evaluation, evaluate
from cocoa.files import write_file
from cocoa.layouts import LAYOUTS
from cocoa.model import EmbeddingModel
from cocoa.objectives import MaskedPatch, Objective
from cocoa.recipe import Recipe, Stage, parse_recipe
from cocoa.reconstruction import BridgeReading, read_through_bridge, rebuild_pictures, rebuild_words
from cocoa.report import (
    BridgedWords,
    QuickstartContent,
    RebuiltPicture,
    RebuiltWords,
    Search,
    SearchHit,
    VariantResult,
    quickstart_page,
)
from cocoa.sample import Sample
from cocoa.training.log import RunLog
from cocoa.training.loop import StepHook, train

MARKER = "quickstart.json"
TITLES = {"contrastive_only": "Contrastive only", "cocoa": "CoCoA", "cocoa_plus": "CoCoA-plus"}
VARIANTS = {
    "contrastive_only": ("contrastive",),
    "cocoa": ("warm-up", "bridge", "contrastive"),
    "cocoa_plus": ("free-pairs", "contrastive"),
}
"""The stages of each way: the last one alone, the paper's three, and in place of its first two contrastive learning on
the same unlabelled pairs (docs/study.md)."""
SEARCHED_WITH = "cocoa_plus"
"""The variant that the pictures are embedded and searched with: the one that finds most."""
EXAMPLE = "a palm tree and a turtle on a yellow ground"
"""A search whose answer is among the pictures."""
_NUM_PICTURES = 200
_NUM_SHOWN = 4


def run_quickstart(
    out: Path,
    *,
    changes: Sequence[str] = (),
    num_test: int = 200,
    on_step: StepHook | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Returns what it wrote to `out/results.json`: each variant's summary and cost, and the seconds of it all.

    Also in `out`: `data/` (tasks in MMEB's format), a model folder of each variant, `pictures/`, `index/` (their
    embeddings by `cocoa_plus`), `report.html`. A folder of an earlier quickstart is replaced, any other is refused
    (`E_USAGE_OUT`). `changes` are made to the recipe, `num_test` is the number of questions of each test table.
    """
    began = time.perf_counter()
    _clear(out)
    say("drawing pictures and writing tasks")
    write_scene_tasks(out / "data", seed=0, num_test=num_test)
    tasks = read_tasks(out / "data")
    recipe = parse_recipe(
        (files("cocoa") / "assets" / "quickstart.yaml").read_text(), where="quickstart", folder=out, changes=changes
    )
    views = _Views()
    variants: dict[str, VariantResult] = {}
    results: dict[str, Any] = {}
    for name, wanted in VARIANTS.items():
        stages = tuple(stage for stage in recipe.stages if stage.name in wanted)
        say(f"training {TITLES[name]}")
        variant = recipe.model_copy(update={"name": name, "stages": stages})
        hook = views.look if name == "cocoa" else None
        try:
            model, log = train(
                variant, out / "runs" / name, model_folder=out / name, on_step=on_step, on_stage_end=hook
            )
        except TrainingStoppedError as stop:
            raise type(stop)(stop.code, "asked to stop; the same command begins anew", where=str(out)) from stop
        say(f"evaluating {TITLES[name]}")
        start = time.perf_counter()
        evaluation = evaluate(model, tasks, name=name)
        evaluation.write(out / "runs" / name)
        variants[name] = _variant(name, variant, log, evaluation)
        results[name] = {
            **variants[name].summary,
            "training_seconds": round(sum(variants[name].seconds.values()), 1),
            "evaluation_seconds": round(time.perf_counter() - start, 1),
            "training_steps": sum(stage.steps for stage in stages),
            "labelled_pairs": sum(stage.steps * stage.batch_size for stage in stages if stage.name == "contrastive"),
            "unlabelled_pairs": sum(stage.steps * stage.batch_size for stage in stages if stage.name != "contrastive"),
        }
    say("embedding pictures and searching them")
    searches = _search(out)
    seconds = time.perf_counter() - began
    content = QuickstartContent(
        variants=list(variants.values()),
        layouts=[(stage.name, LAYOUTS[stage.layout], stage.letters) for stage in recipe.stages],
        pictures=views.pictures,
        words=views.words,
        bridged=views.bridged,
        bridge_loss_true=views.after[0],
        bridge_loss_shuffled=views.after[1],
        before_true=views.before[0],
        before_shuffled=views.before[1],
        searches=searches,
        seconds=seconds,
        num_train_pairs=_num_train_pairs(out / "data"),
        hardware=f"{os.cpu_count()} {platform.machine()} cores, torch {torch.__version__}",
    )
    write_file(out / "report.html", quickstart_page(content))
    answer = {
        "variants": results,
        "bridge": {"before": views.before, "after": views.after, "unit": "nats a hidden word, [true, shuffled]"},
        "seconds": round(seconds, 1),
    }
    write_file(out / "results.json", json.dumps(answer, indent=2) + "\n")
    return answer


@dataclass
class _Views:
    """What is looked at while the cocoa variant trains: pictures and words it rebuilds, and the bridge's worth."""

    pictures: list[RebuiltPicture] = field(default_factory=list)
    words: list[RebuiltWords] = field(default_factory=list)
    bridged: list[BridgedWords] = field(default_factory=list)
    before: tuple[float, float] = (0.0, 0.0)
    after: tuple[float, float] = (0.0, 0.0)

    def look(self, stage: Stage, model: EmbeddingModel, objectives: list[Objective]) -> None:
        """Looks at the model after a stage."""
        # Seed 7 draws scenes that no stage trains on.
        scenes = ScenePairs(seed=7, num_pairs=128)
        drawn = [scenes[number] for number in range(len(scenes))]
        pairs = [(model.backbone.encode(pair.query), model.backbone.encode(pair.target)) for pair in drawn]
        shown = [picture for pair in drawn[:_NUM_SHOWN] if isinstance(picture := pair.query.images[0], Image.Image)]
        if stage.name == "warm-up":
            painter = next(objective for objective in objectives if isinstance(objective, MaskedPatch))
            triples = rebuild_pictures(model, painter, stage.layout, pairs[:_NUM_SHOWN], seed=7)
            self.pictures = [RebuiltPicture(*triple) for triple in triples]
            read = rebuild_words(model, stage.layout, pairs[:_NUM_SHOWN], rate=0.3, seed=7)
            self.words = [RebuiltWords(*both) for both in zip(shown, read.words, strict=True)]
            own, other = _both_ways(model, pairs)
            self.before = (own.loss, other.loss)
        elif stage.name == "bridge":
            own, other = _both_ways(model, pairs)
            self.after = (own.loss, other.loss)
            others = [picture for pair in drawn[1:] if isinstance(picture := pair.query.images[0], Image.Image)]
            self.bridged = [
                BridgedWords(picture, others[number], own.words[number], other.words[number])
                for number, picture in enumerate(shown)
            ]


def _both_ways(model: EmbeddingModel, pairs: list[tuple[Encoded, Encoded]]) -> tuple[BridgeReading, BridgeReading]:
    own = read_through_bridge(model, pairs, rate=0.7, seed=7, shuffled=False)
    return own, read_through_bridge(model, pairs, rate=0.7, seed=7, shuffled=True)


def _clear(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        if not (out / MARKER).is_file():
            raise UsageError("E_USAGE_OUT", "folder is not empty and not of a quickstart", where=str(out))
        # The marker stays: who is killed here has left a quickstart's folder.
        for path in out.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != MARKER:
                path.unlink()
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / MARKER, json.dumps({"what": "made by cocoa quickstart; a new quickstart replaces it"}) + "\n")


def _variant(name: str, recipe: Recipe, log: RunLog, evaluation: Evaluation) -> VariantResult:
    result = evaluation.to_dict()
    seconds = {
        stage.name: sum(record["seconds"] for record in log.records if record["stage"] == stage.name)
        for stage in recipe.stages
    }
    return VariantResult(name, TITLES[name], result["summary"], result["tasks"], seconds, log.records)


def _num_train_pairs(data: Path) -> int:
    tasks = json.loads((data / "manifest.json").read_text())["tasks"]
    return sum(int(task["train"]) for task in tasks.values())


def _search(out: Path) -> list[Search]:
    """Five searches over fresh pictures: three by caption, one by a word, one by a picture; the index is written."""
    scenes = ScenePairs(seed=8, num_pairs=_NUM_PICTURES)
    documents, captions = [], {}
    (out / "pictures").mkdir()
    for number in range(_NUM_PICTURES):
        pair = scenes[number]
        path = out / "pictures" / f"{number:03}.png"
        picture = pair.query.images[0]
        assert isinstance(picture, Image.Image)
        picture.save(path)
        captions[path.name] = pair.target.text
        documents.append(Document(path.name, Sample(images=(path,)), pair.target.text, str(path.resolve())))
    embedder = Embedder.load(out / SEARCHED_WITH)
    embed_documents(embedder, documents, out / "index")
    index = Index.open(out / "index")
    by_words = [captions["000.png"], captions["001.png"], captions["002.png"], _a_thing(captions["003.png"])]
    example = Image.open(out / "pictures" / "004.png")
    queries: list[tuple[str, Image.Image | None]] = [(words, None) for words in by_words]
    queries.append(("pictures like this one", example))
    found = index.search(embedder, [words if picture is None else picture for words, picture in queries], k=5)
    return [
        Search(
            words,
            picture,
            [SearchHit(Image.open(hit.image).convert("RGB"), hit.score, captions[hit.id]) for hit in hits],
        )
        for (words, picture), hits in zip(queries, found, strict=True)
    ]


def _a_thing(caption: str) -> str:
    return next(f"a {thing}" for thing in sorted(things(), key=len, reverse=True) if thing in caption)
