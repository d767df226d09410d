"""Generated scenes as a folder in MMEB's format: train and test tables, one image archive, a manifest."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cocoa.data.scene_questions import SCENE_TASKS, Candidate, PictureName, ScenePool, SceneQuestion
from cocoa.data.scene_splits import SceneSplit, all_things
from cocoa.errors import DataError, UsageError
from cocoa.files import write_folder

_TRAIN_COLUMNS = ("qry", "qry_image_path", "pos_text", "pos_image_path", "neg_text", "neg_image_path")
_NUM_MEASURED = 100
_NOTES: dict[SceneSplit, str] = {
    "seen": "things of the training scenes, new scenes",
    "combo": "seen things, each scene with a combination that was held out",
    "unseen": "things that no labelled training scene shows",
}
_MIN_SCENES = 12  # with fewer, a question may find no wrong candidate


def write_scene_tasks(
    folder: Path, *, seed: int, num_train: int = 256, num_test: int = 200, num_things: int = 128, pixels: int = 84
) -> None:
    """Writes the generated tasks to a new folder, which appears only when all of it is there.

    Args:
        folder: where to; it must not exist or be empty.
        seed: the same seed gives the same bytes.
        num_train: labelled scenes a task, for training.
        num_test: scenes a task and test split.
        num_things: how many things the scenes are made of; every fourth of them is unseen in training.
        pixels: width and height of a scene.
    """
    all_things(num_things)
    for option, number in (("num_train", num_train), ("num_test", num_test)):
        if number < _MIN_SCENES:
            raise UsageError("E_USAGE_SCENES", f"{option} is {number}; use {_MIN_SCENES} or more")
    folder = folder.absolute()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise DataError("E_DATA_EXISTS", "is there already; remove it or choose another folder", where=str(folder))
    counts: dict[SceneSplit, int] = {"train": num_train, "measure": _NUM_MEASURED}
    counts |= dict.fromkeys(_NOTES, num_test)
    pools = {split: ScenePool(seed, split, count, num_things, pixels) for split, count in counts.items()}
    with write_folder(folder) as draft:
        _write(draft, pools, {"seed": seed, "num_things": num_things, "pixels": pixels})


class _ImageArchive:
    """A zip of pictures, each stored once, in the order in which the tables first name them."""

    def __init__(self, path: Path, pools: dict[SceneSplit, ScenePool]) -> None:
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)
        self._pools = pools
        self._paths: set[str] = set()

    def add(self, name: PictureName | None) -> str:
        """Returns the picture's path in the archive, '' for none."""
        if name is None:
            return ""
        if name.path not in self._paths:
            self._paths.add(name.path)
            # A fixed date keeps the bytes a function of the content.
            entry = zipfile.ZipInfo(name.path, (1980, 1, 1, 0, 0, 0))
            self._zip.writestr(entry, _webp(self._pools[name.split].render(name)))
        return name.path

    def close(self) -> int:
        """Returns how many pictures the closed archive holds."""
        self._zip.close()
        return len(self._paths)


def _webp(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "WEBP", lossless=True, quality=20, method=0)
    return file.getvalue()


def _write(folder: Path, pools: dict[SceneSplit, ScenePool], settings: dict[str, int]) -> None:
    (folder / "train").mkdir(parents=True)
    (folder / "test").mkdir()
    images = _ImageArchive(folder / "images.zip", pools)
    tasks: dict[str, dict[str, Any]] = {}
    for task in SCENE_TASKS:
        training = task.questions(pools["train"])
        _write_train(
            folder / "train" / f"{task.name}.parquet", training, images, negatives=task.meta_task == "grounding"
        )
        tasks[task.name] = _entry(task.meta_task, "seen things, no held-out combination", training, [])
        for split in task.tests:
            asked = task.questions(pools[split])
            _write_test(folder / "test" / f"{task.name}_{split}.parquet", asked, images)
            tasks[f"{task.name}_{split}"] = _entry(task.meta_task, _NOTES[split], training, asked)
    measured = pools["measure"]
    _write_table(
        folder / "pairs_test.parquet",
        {
            "image_path": [images.add(measured.name("any", index)) for index in range(measured.num_scenes)],
            "text": [measured.caption(index) for index in range(measured.num_scenes)],
            "kind": ["composed"] * measured.num_scenes,
        },
    )
    num_images = images.close()
    manifest = {
        "set": "scenes",
        "tasks": tasks,
        "source": ["Noto Color Emoji"],
        "licence": "OFL-1.1 (drawings)",
        "composed": "all: scenes composed from emoji, text generated",
        "images": num_images,
        "images_zip_bytes": (folder / "images.zip").stat().st_size,
        "pairs_test": measured.num_scenes,
        "settings": settings,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _entry(
    meta_task: str, note: str, training: Sequence[SceneQuestion], asked: Sequence[SceneQuestion]
) -> dict[str, Any]:
    """What the manifest says of one table: a training table is one where nothing is asked."""
    sizes = [len(question.candidates) for question in asked]
    known = bool(asked) and meta_task in ("classification", "vqa")
    return {
        "meta_task": meta_task,
        "note": note,
        "train": 0 if asked else len(training),
        "test": len(asked),
        "candidates_min": min(sizes, default=0),
        "candidates_max": max(sizes, default=0),
        "chance": round(sum(1 / size for size in sizes) / len(sizes), 4) if asked else None,
        "blind": round(_blind(training, asked), 4) if known else None,
    }


def _blind(training: Sequence[SceneQuestion], asked: Sequence[SceneQuestion]) -> float:
    """The hit@1 of answering with the candidate that most often was right for the same question in training.

    A question whose candidates were never right in training counts as a guess among all of them.
    """
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for question in training:
        answers[question.query.text][question.candidates[0].text] += 1
    hits = 0.0
    for question in asked:
        seen = answers[question.query.text]
        # Equally frequent answers share the hit, as a tie broken by chance would.
        most = max(seen[candidate.text] for candidate in question.candidates)
        best = [candidate.text for candidate in question.candidates if seen[candidate.text] == most]
        hits += (question.candidates[0].text in best) / len(best)
    return hits / len(asked)


def _write_train(path: Path, questions: Sequence[SceneQuestion], images: _ImageArchive, *, negatives: bool) -> None:
    rows = []
    for question in questions:
        wrong = question.candidates[1] if negatives else Candidate("")
        cells = [(each.text, images.add(each.picture)) for each in (question.query, question.candidates[0], wrong)]
        rows.append([part for cell in cells for part in cell])
    _write_table(path, {name: [row[column] for row in rows] for column, name in enumerate(_TRAIN_COLUMNS)})


def _write_test(path: Path, questions: Sequence[SceneQuestion], images: _ImageArchive) -> None:
    columns: dict[str, list[Any]] = {"qry_text": [], "qry_img_path": [], "tgt_text": [], "tgt_img_path": []}
    for question in questions:
        columns["qry_text"].append(question.query.text)
        columns["qry_img_path"].append(images.add(question.query.picture))
        columns["tgt_text"].append([candidate.text for candidate in question.candidates])
        columns["tgt_img_path"].append([images.add(candidate.picture) for candidate in question.candidates])
    _write_table(path, columns)


def _write_table(path: Path, columns: dict[str, list[Any]]) -> None:
    pq.write_table(pa.table(columns), path)
