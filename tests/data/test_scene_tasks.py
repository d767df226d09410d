"""The generated tasks: MMEB's columns, one right candidate in front, nothing of the tests in training."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from cocoa.data.scene_splits import SceneSplit, draw_scene, has_held_out, unseen_things
from cocoa.data.scene_tasks import write_scene_tasks
from cocoa.data.scenes import Scene
from cocoa.errors import DataError, UsageError

SEED = 7
THINGS = 64
TASKS = ("scene_cls", "scene_vqa", "scene_t2i", "scene_i2t", "scene_grounding")
SPLITS: tuple[SceneSplit, ...] = ("seen", "combo", "unseen")
TESTS = {f"{task}_{split}" for task in TASKS for split in SPLITS} - {"scene_cls_combo"}


def write(folder: Path, seed: int = SEED) -> Path:
    write_scene_tasks(folder, seed=seed, num_train=60, num_test=55, num_things=THINGS)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("scenes") / "made")


def rows(path: Path) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return table


def scene_of(path: str) -> tuple[Scene, int | None]:
    """The scene that a picture's path names, drawn anew, and the item of a crop."""
    found = re.fullmatch(r"(\w+)/(\w+?)_(\d{5})(?:_c(\d))?\.webp", path)
    assert found, path
    split, series, index, item = found.groups()
    scene = draw_scene(SEED, split, series, int(index), num_things=THINGS)  # type: ignore[arg-type]
    return scene, int(item) if item else None


def every_path(made: Path, tables: str) -> set[str]:
    columns = [
        value
        for table in made.glob(tables)
        for row in rows(table)
        for name, value in row.items()
        if name.endswith("_path")
    ]
    return {path for value in columns for path in ([value] if isinstance(value, str) else value) if path}


def test_the_tables_have_mmebs_columns(made: Path) -> None:
    assert {path.stem for path in (made / "train").iterdir()} == set(TASKS)
    assert {path.stem for path in (made / "test").iterdir()} == TESTS
    for table in (made / "train").iterdir():
        schema = pq.read_schema(table)
        names = ["qry", "qry_image_path", "pos_text", "pos_image_path", "neg_text", "neg_image_path"]
        assert schema.names == names and {str(kind) for kind in schema.types} == {"string"}
        assert len(rows(table)) == 60
    for table in (made / "test").iterdir():
        schema = pq.read_schema(table)
        assert schema.names == ["qry_text", "qry_img_path", "tgt_text", "tgt_img_path"]
        assert [str(kind) for kind in schema.types] == ["string"] * 2 + ["list<element: string>"] * 2
        assert len(rows(table)) == 55
    pairs = rows(made / "pairs_test.parquet")
    assert len(pairs) == 100 and set(pairs[0]) == {"image_path", "text", "kind"}
    assert sorted(path.name for path in made.parent.iterdir()) == ["made"]


def test_the_archive_holds_what_the_tables_name(made: Path) -> None:
    wanted = every_path(made, "*/*.parquet") | every_path(made, "*.parquet")
    with zipfile.ZipFile(made / "images.zip") as archive:
        assert sorted(archive.namelist()) == sorted(wanted)
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        for path in sorted(wanted)[::40]:
            scene, item = scene_of(path)
            with Image.open(io.BytesIO(archive.read(path))) as picture:
                assert picture.size == ((84, 84) if item is None else (56, 56))
                if item is None:
                    assert picture.convert("RGB").tobytes() == scene.render().tobytes()


def test_the_manifest_describes_every_table(made: Path) -> None:
    manifest = json.loads((made / "manifest.json").read_text())
    tasks = manifest["tasks"]
    assert set(tasks) == TESTS | set(TASKS)
    for name, entry in tasks.items():
        assert entry["meta_task"] in ("classification", "vqa", "retrieval", "grounding")
        if name in TASKS:
            assert (entry["train"], entry["test"], entry["chance"], entry["blind"]) == (60, 0, None, None)
            continue
        sizes = [len(row["tgt_text"]) for row in rows(made / "test" / f"{name}.parquet")]
        assert (entry["test"], entry["candidates_min"], entry["candidates_max"]) == (55, min(sizes), max(sizes))
        assert entry["chance"] == pytest.approx(sum(1 / size for size in sizes) / len(sizes), abs=1e-4)
        assert (entry["blind"] is None) == (entry["meta_task"] in ("retrieval", "grounding"))
        assert entry["blind"] is None or entry["blind"] < 0.3
    assert [tasks[f"scene_{name}_seen"]["candidates_max"] for name in ("cls", "vqa", "grounding")] == [48, 30, 8]


@pytest.mark.parametrize("name", sorted(TESTS))
def test_candidate_0_is_the_only_right_one(made: Path, name: str) -> None:
    task = name.rpartition("_")[0]
    for row in rows(made / "test" / f"{name}.parquet"):
        texts, paths = row["tgt_text"], row["tgt_img_path"]
        assert len(texts) == len(paths) > 1
        assert len(set(zip(texts, paths, strict=True))) == len(texts)
        if task == "scene_t2i":
            scene, _ = scene_of(paths[0])
            assert all(thing in row["qry_text"] for thing in scene.names)
            assert not any(set(scene.names) <= set(scene_of(path)[0].names) for path in paths[1:])
            continue
        scene, _ = scene_of(row["qry_img_path"])
        if task == "scene_cls":
            assert scene.names == (texts[0],)
        elif task == "scene_i2t":
            assert all(thing in texts[0] for thing in scene.names) and scene.ground in texts[0]
        elif task == "scene_vqa":
            question = row["qry_text"].split(": ")[1].strip()
            right = {answer for asked, answer in scene.questions() if asked == question}
            assert right & set(texts) == {texts[0]}
        else:
            phrase = row["qry_text"].split('"')[1]
            crops = [scene_of(path) for path in paths]
            assert crops[0] == (scene, dict(scene.expressions())[phrase])
            shown = [(seen.names[item or 0], seen.ground) for seen, item in crops]
            assert shown.count(shown[0]) == 1
            others = len(scene.items) - 1
            assert all(seen == scene for seen, _ in crops[: 1 + others])


def test_training_shows_nothing_that_is_kept_for_tests(made: Path) -> None:
    unseen = set(unseen_things(THINGS))
    for path in every_path(made, "train/*.parquet"):
        assert path.startswith("train/")
        scene, _ = scene_of(path)
        assert not unseen & set(scene.names) and not has_held_out(scene.names)
    texts = [text for table in (made / "train").iterdir() for row in rows(table) for text in row.values()]
    assert not any(re.search(rf"\b{thing}\b", text) for text in texts for thing in unseen)
    for split in SPLITS:
        for path in every_path(made, f"test/*_{split}.parquet"):
            assert path.startswith(f"{split}/")
            scene, _ = scene_of(path)
            assert has_held_out(scene.names) or split != "combo"
            assert (set(scene.names) <= unseen) == (split == "unseen")


def test_only_grounding_has_negatives(made: Path) -> None:
    for task in TASKS:
        for row in rows(made / "train" / f"{task}.parquet"):
            if task != "scene_grounding":
                assert (row["neg_text"], row["neg_image_path"]) == ("", "")
                continue
            (scene, _), (right, item), (wrong, other) = (
                scene_of(row[f"{side}_image_path"]) for side in ("qry", "pos", "neg")
            )
            assert scene == right == wrong and item != other


def test_the_same_seed_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    again, different = write(tmp_path / "again"), write(tmp_path / "different", seed=8)
    files = [path.relative_to(made) for path in sorted(made.rglob("*")) if path.is_file()]
    assert len(files) == len(TASKS) + len(TESTS) + 4
    for file in files:
        assert (again / file).read_bytes() == (made / file).read_bytes(), file
        assert (different / file).read_bytes() != (made / file).read_bytes(), file


def test_nothing_is_overwritten_and_nothing_is_left_half_written(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="E_DATA_EXISTS"):
        write(made)
    with pytest.raises(UsageError, match="num_test"):
        write_scene_tasks(tmp_path / "small", seed=0, num_test=1)

    def fail(picture: Image.Image) -> bytes:
        raise OSError("no space left")

    monkeypatch.setattr("cocoa.data.scene_tasks._webp", fail)
    with pytest.raises(OSError, match="no space"):
        write(tmp_path / "broken")
    assert list(tmp_path.iterdir()) == []
