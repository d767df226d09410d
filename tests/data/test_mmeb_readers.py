"""Folders in the exact shapes of MMEB-eval, MMEB_Test_Instruct, MMEB-V2 and MMEB-train, read by the real readers."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cocoa.data.mmeb_eval import read_tasks
from cocoa.data.mmeb_folders import FolderError, find_data
from cocoa.data.mmeb_images import find_mmeb_images
from cocoa.data.mmeb_train import MmebTrain
from cocoa.data.mmeb_v1 import TASKS, prompt_differences
from cocoa.errors import CocoaError, DataError
from cocoa.images import ArchivedImage, image_key, open_rgb
from cocoa.sample import Task

Row = dict[str, Any]
PLACE = "<|image_1|>\n"
COLOURS = ("red", "lime", "blue")


def picture(name: str) -> bytes:
    """A picture whose colour hangs on its name, so that a wrong one is seen."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), COLOURS[sum(name.encode()) % 3]).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, rows: Sequence[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # What macOS leaves beside a file that it has copied.
    (path.parent / f"._{path.name}").write_bytes(b"\0\5\26\7")
    return path


def pack(archive: Path, names: Sequence[str], below: str = "") -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as file:
        for name in names:
            folder, _, last = f"{below}{name}".rpartition("/")
            file.writestr(f"{below}{name}", picture(name))
            for note in (f"{folder}/._{last}", f"__MACOSX/{folder}/._{last}"):
                file.writestr(note, b"\0\5\26\7")


def lay(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(name))
        (folder / name).with_name("._" + Path(name).name).write_bytes(b"\0\5\26\7")


def row_of(name: str, number: int, count: int = 3) -> Row:
    """A row of MMEB-eval with both in one; the right candidate stands first."""
    task = TASKS[name]
    numbers = [number, *(other for other in range(count) if other != number)]
    query = task.query_text(f"text {number}")
    stray = PLACE if "stray_placeholder" in task.quirks else ""
    path = f"{name}/image_{{}}.jpg"
    return {
        "qry_text": stray + query,
        "qry_img_path": path.format(number) if task.layout.query_image else "",
        "tgt_text": [task.target_text(f"label_{other}") for other in numbers],
        "tgt_img_path": [path.format(other) if task.layout.target_image else "" for other in numbers],
    }


def apart(row: Row, name: str) -> Row:
    """The same row in the columns of MMEB_Test_Instruct."""
    task = TASKS[name]
    prompt, _, _ = task.query.partition("{text}")
    quote = '"' if prompt.endswith('"') else ""
    text = row["qry_text"].removeprefix(PLACE).rstrip("\n").removeprefix(prompt.removesuffix('"').rstrip()).lstrip()
    target, hole, _ = task.target.partition("{text}")
    texts = [one.removeprefix(PLACE).rstrip("\n").removeprefix(target.removesuffix('"')) for one in row["tgt_text"]]
    assert text.startswith(quote)
    image = PLACE if row["qry_text"].startswith(PLACE) else ""
    return row | {
        "qry_inst": image + prompt.removesuffix('"').rstrip(),
        "qry_text": text,
        "tgt_inst": PLACE + target.removesuffix('"').rstrip() if target else "",
        "tgt_text": texts if hole else [""] * len(texts),
    }


def image_names(rows: Sequence[Row]) -> list[str]:
    paths = [path for row in rows for path in [row["qry_img_path"], *row["tgt_img_path"]] if path]
    return sorted(set(paths))


FEW = ("ImageNet-1K", "GQA", "WebQA", "VisDial", "MSCOCO_i2t", "CIRR", "MSCOCO", "RefCOCO-Matching")


@pytest.fixture
def rows() -> dict[str, list[Row]]:
    return {name: [row_of(name, number) for number in range(3)] for name in FEW}


def every_image(rows: dict[str, list[Row]]) -> list[str]:
    return [name for one in rows.values() for name in image_names(one)]


def contents(tasks: Sequence[Task]) -> dict[str, Any]:
    """What tasks ask, whatever files it came from."""

    def content(sample: Any) -> tuple[str, list[Any]]:
        return sample.text, [open_rgb(image).getpixel((0, 0)) for image in sample.images]

    return {
        task.name: [(content(one.query), [content(each) for each in one.candidates]) for one in task.questions]
        for task in tasks
    }


def eval_snapshot(folder: Path, rows: dict[str, list[Row]]) -> Path:
    """TIGER-Lab/MMEB-eval as the hub has it: a folder for each task, one zip file, other files beside."""
    for name, table in rows.items():
        write(folder / name / "test-00000-of-00001.parquet", table)
    write(folder / "CIFAR-100" / "test-00000-of-00001.parquet", [row_of("ImageNet-1K", 0)])
    (folder / "README.md").write_text("# MMEB\n")
    (folder / ".gitattributes").write_text("*.zip filter=lfs\n")
    return folder


def test_a_snapshot_of_mmeb_eval(tmp_path: Path, rows: dict[str, list[Row]]) -> None:
    folder = eval_snapshot(tmp_path, rows)
    pack(folder / "images.zip", every_image(rows))
    tasks = {task.name: task for task in read_tasks(folder)}
    assert sorted(tasks) == sorted(FEW)
    for name, task in tasks.items():
        assert (task.meta_task, task.split) == (TASKS[name].meta_task, TASKS[name].split)
        assert (len(task.questions), task.chance) == (3, pytest.approx(1 / 3))
        assert prompt_differences(task) == []
        assert [one.query.text for one in task.questions] == [TASKS[name].query_text(f"text {row}") for row in range(3)]
        assert task.questions[2].candidates[0].text == TASKS[name].target_text("label_2")
        assert bool(task.questions[0].query.images) == TASKS[name].layout.query_image
    image = tasks["CIRR"].questions[1].candidates[0].images[0]
    assert image == ArchivedImage(folder / "images.zip", "CIRR/image_1.jpg")
    table = folder / "GQA" / "test-00000-of-00001.parquet"
    assert tasks["GQA"].questions[1].query.where == f"{table}:2"
    assert [task.name for task in read_tasks(folder, ["imagenet_1k", "mscoco"])] == ["ImageNet-1K", "MSCOCO"]


Lay = Callable[[Path, list[str]], None]
SHAPES: dict[str, Lay] = {
    "unzipped as the instructions say": lambda folder, names: lay(folder / "eval_images", names),
    "loose in images/": lambda folder, names: lay(folder / "images", names),
    "loose beside the tables": lay,
    "a zip file with a folder in it": lambda folder, names: pack(folder / "images.zip", names, "images/"),
    "a zip file of any name": lambda folder, names: pack(folder / "MMEB eval images.zip", names, "MMEB/"),
    "a zip file for each task": lambda folder, names: [
        pack(folder / "images_zip" / f"{task}.zip", [name for name in names if name.startswith(f"{task}/")])
        for task in FEW
    ],  # type: ignore[dict-item, return-value]
    "zip files with bare names": lambda folder, names: [
        pack(
            folder / "images_zip" / f"{task}.zip",
            [name.removeprefix(f"{task}/") for name in names if name.startswith(f"{task}/")],
        )
        for task in FEW
    ],  # type: ignore[dict-item, return-value]
    "half of them in another zip file": lambda folder, names: [
        pack(folder / "images.zip", names[::2]),
        pack(folder / "more.zip", names[1::2]),
    ],  # type: ignore[dict-item, return-value]
    "MMEB-V2's archive, moved up": lambda folder, names: lay(folder / "image-tasks", names),
    "MMEB-V2's archive as it unpacks": lambda folder, names: lay(folder / "image-tasks" / "MMEB", names),
}


@pytest.fixture
def expected(tmp_path: Path, rows: dict[str, list[Row]]) -> dict[str, Any]:
    folder = eval_snapshot(tmp_path / "expected", rows)
    pack(folder / "images.zip", every_image(rows))
    return contents(read_tasks(folder))


@pytest.mark.parametrize("shape", SHAPES)
def test_images_are_found_in_every_shape(
    tmp_path: Path, rows: dict[str, list[Row]], expected: dict[str, Any], shape: str
) -> None:
    folder = eval_snapshot(tmp_path / "it", rows)
    SHAPES[shape](folder, every_image(rows))
    if shape == "zip files with bare names":
        # Colours hang on names, and these archives name their files otherwise.
        assert {name: len(task) for name, task in contents(read_tasks(folder)).items()} == dict.fromkeys(FEW, 3)
    else:
        assert contents(read_tasks(folder)) == expected


def test_images_may_lie_elsewhere(tmp_path: Path, rows: dict[str, list[Row]], expected: dict[str, Any]) -> None:
    folder = eval_snapshot(tmp_path / "rows", rows)
    lay(tmp_path / "MMEB-V2" / "image-tasks", every_image(rows))
    assert contents(read_tasks(folder, images=tmp_path / "MMEB-V2")) == expected
    assert contents(read_tasks(folder, images=tmp_path / "MMEB-V2" / "image-tasks")) == expected
    with pytest.raises(DataError, match="the folder of the images does not exist"):
        read_tasks(folder, images=tmp_path / "no")


def test_instructions_apart_read_as_rows_with_both_in_one(
    tmp_path: Path, rows: dict[str, list[Row]], expected: dict[str, Any]
) -> None:
    split = {name: [apart(row, name) for row in table] for name, table in rows.items()}
    assert split["GQA"][0]["qry_inst"] == f"{PLACE}Represent the given image with the following question:"
    assert (split["CIRR"][0]["qry_text"], split["MSCOCO"][0]["qry_text"]) == ("text 0", '"text 0"')
    folder = eval_snapshot(tmp_path / "it", split)
    pack(folder / "images.zip", every_image(rows))
    assert contents(read_tasks(folder)) == expected


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_rows_in_one_file_or_in_shards(
    tmp_path: Path, rows: dict[str, list[Row]], expected: dict[str, Any], suffix: str
) -> None:
    for name, table in rows.items():
        for number, row in enumerate(table):
            write(tmp_path / "shards" / name / f"test-0000{number}-of-00003{suffix}", [row])
            write(tmp_path / "converted" / name / "test" / f"000{number}{suffix}", [row])
        write(tmp_path / "whole" / name / f"test{suffix}", table)
        write(tmp_path / "set" / "test" / f"{name}{suffix}", table)
    for shape in ("shards", "converted", "whole", "set"):
        pack(tmp_path / shape / "images.zip", every_image(rows))
        assert contents(read_tasks(tmp_path / shape)) == expected
        [one] = read_tasks(tmp_path / shape, ["GQA"])
        assert contents([one]) == {"GQA": expected["GQA"]}
    assert contents(read_tasks(tmp_path / "shards" / "GQA")) == {"GQA": expected["GQA"]}


def test_pictures_inside_the_parquet_file(tmp_path: Path, rows: dict[str, list[Row]], expected: dict[str, Any]) -> None:
    def record(path: str) -> dict[str, Any] | None:
        return {"bytes": picture(path), "path": None} if path else None

    table = [
        row | {"qry_img_path": record(row["qry_img_path"]), "tgt_img_path": [record(p) for p in row["tgt_img_path"]]}
        for row in rows["CIRR"]
    ]
    write(tmp_path / "CIRR" / "test-00000-of-00001.parquet", table)
    [task] = read_tasks(tmp_path)
    assert contents([task]) == {"CIRR": expected["CIRR"]}
    first, second = (question.candidates for question in task.questions[:2])
    assert image_key(first[1].images[0]) == image_key(second[0].images[0])
    assert first[1] is second[0]


def test_a_snapshot_in_the_hubs_cache_is_links_to_blobs(tmp_path: Path, rows: dict[str, list[Row]]) -> None:
    cache = tmp_path / "datasets--TIGER-Lab--MMEB-eval"
    snapshot = cache / "snapshots" / "2f06"
    real = eval_snapshot(tmp_path / "real", {"GQA": rows["GQA"]})
    lay(real / "images", image_names(rows["GQA"]))
    (cache / "blobs").mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in real.rglob("*") if path.is_file())):
        blob = path.rename(cache / "blobs" / f"{number:064x}")
        link = snapshot / path.relative_to(real)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    [task] = read_tasks(snapshot, ["GQA"])
    assert open_rgb(task.questions[0].query.images[0]).size == (4, 4)
    (tmp_path / "secret.png").write_bytes(picture("x"))
    (snapshot / "images" / "secret.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match=r"link out of the folder.*E_DATA_PATH"):
        find_mmeb_images([snapshot])("secret.png")


def test_rules_are_chosen_by_name(tmp_path: Path, rows: dict[str, list[Row]]) -> None:
    folder = eval_snapshot(tmp_path, rows | {"ImageNet-R": [row_of("ImageNet-R", 0)]})
    pack(folder / "images.zip", [*every_image(rows), "ImageNet-R/image_0.jpg"])

    def read(rules: list[str] | None) -> tuple[str, str, str]:
        tasks = {
            task.name: task.questions[0] for task in read_tasks(folder, ["WebQA", "MSCOCO", "ImageNet-R"], rules=rules)
        }
        label = tasks["ImageNet-R"].candidates[0].text
        return tasks["WebQA"].query.text[:4], tasks["MSCOCO"].query.text[12:34], label

    assert read(None) == ("Find", "Crop the image to to i", "label_0")
    assert read([]) == ("<|im", "Crop the image to to i", "label_0")
    assert read(["stray_placeholder", "to_to", "snake_case_labels"]) == ("Find", "Crop the image to isol", "label 0")


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path, rows: dict[str, list[Row]]) -> None:
    folder = eval_snapshot(tmp_path, {name: rows[name] for name in ("ImageNet-1K", "CIRR", "WebQA")})
    names = [name for name in every_image(rows) if not name.startswith(("WebQA", "CIRR/image_1"))]
    pack(folder / "images.zip", names)
    lay(folder / "WebQA", ["._image_0.jpg"])
    write(folder / "GQA" / "test-00000-of-00001.parquet", [{"question": "q", "qry_text": "q", "tgt_text": ["a"]}])
    write(folder / "DocVQA" / "test-00000-of-00001.parquet", [row_of("DocVQA", 0) | {"tgt_text": [1], "qry_text": 2}])
    (folder / "OVEN").mkdir()
    (folder / "OVEN" / "test-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(FolderError) as caught:
        read_tasks(folder)
    codes = [problem.code for problem in caught.value.problems]
    assert codes == ["E_DATA_TYPE", "E_DATA_COLUMN", "E_DATA_READ", *["E_IMAGE_MISSING"] * 5]
    said = str(caught.value)
    assert "8 problems (1 E_DATA_TYPE, 1 E_DATA_COLUMN, 1 E_DATA_READ, 5 E_IMAGE_MISSING)" in said
    assert "missing columns: qry_img_path, tgt_img_path; present: question, qry_text, tgt_text" in said
    assert (
        "column qry_text has int64, expected strings; column tgt_text has list<element: int64>, expected lists" in said
    )
    assert "'CIRR/image_1.jpg' is in no zip file and no folder of" in said


def test_missing_shards_are_all_named(tmp_path: Path, rows: dict[str, list[Row]]) -> None:
    write(tmp_path / "GQA" / "test-00001-of-00003.parquet", rows["GQA"])
    write(tmp_path / "CIRR" / "test-00000-of-00002.parquet", rows["CIRR"])
    with pytest.raises(FolderError) as caught:
        read_tasks(tmp_path)
    assert "shards are missing: test-00000-of-00003, test-00002-of-00003" in str(caught.value)
    assert "shards are missing: test-00001-of-00002" in str(caught.value)


def test_an_archive_that_must_be_unpacked_is_named(tmp_path: Path, rows: dict[str, list[Row]]) -> None:
    folder = eval_snapshot(tmp_path, {"GQA": rows["GQA"]})
    (folder / "image-tasks").mkdir()
    (folder / "image-tasks" / "mmeb_v1.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(FolderError, match=r"unpack .*image-tasks/mmeb_v1.tar.gz first.*E_IMAGE_MISSING"):
        read_tasks(folder)


def test_all_unknown_names_are_said_at_once(tmp_path: Path, rows: dict[str, list[Row]]) -> None:
    folder = eval_snapshot(tmp_path, {"GQA": rows["GQA"]})
    with pytest.raises(DataError) as caught:
        read_tasks(folder, ["ok_vqa", "GQ", "gqa"])
    assert "no task 'GQ'; did you mean 'GQA'?" in str(caught.value)
    assert "no task 'OK-VQA'" in str(caught.value)
    assert caught.value.code == "E_DATA_TASK"


def test_paths_never_leave_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture("x"))
    inner = tmp_path / "set"
    pack(inner / "images.zip", ["a.png"])
    find = find_mmeb_images([inner])
    assert open_rgb(find("images/a.png")).size == (4, 4)
    for name in ("../secret.png", "images/../../secret.png", str(tmp_path / "secret.png"), ".."):
        with pytest.raises(DataError) as caught:
            find(name)
        assert caught.value.code == "E_DATA_PATH"
    for name in ("._a.png", "no.png", "__MACOSX/._a.png"):
        with pytest.raises(CocoaError, match="E_IMAGE_MISSING"):
            find(name)


@pytest.mark.parametrize("shape", ["eval_images", "images", "", "images_zip/GQA.zip"])
def test_a_path_may_have_backslashes_in_every_shape(tmp_path: Path, shape: str) -> None:
    if shape.endswith(".zip"):
        pack(tmp_path / shape, ["GQA/Train/1.jpg"])
    else:
        lay(tmp_path / shape, ["GQA/Train/1.jpg"])
    find = find_mmeb_images([tmp_path])
    for name in ("GQA\\Train\\1.jpg", "images\\GQA\\Train\\1.jpg", ".\\images/MMEB\\GQA/Train\\1.jpg"):
        assert find(name) == find("GQA/Train/1.jpg")


def test_a_broken_zip_file_is_named(tmp_path: Path, rows: dict[str, list[Row]]) -> None:
    folder = eval_snapshot(tmp_path, {"GQA": rows["GQA"]})
    (folder / "images.zip").write_bytes(b"PK\3\4 cut short")
    with pytest.raises(FolderError, match=r"images.zip: the archive is not a readable zip file \[E_IMAGE_OPEN\]"):
        read_tasks(folder)


def test_a_manifest_says_more_than_the_table(tmp_path: Path, rows: dict[str, list[Row]]) -> None:
    write(tmp_path / "test" / "mine.parquet", rows["CIRR"])
    pack(tmp_path / "images.zip", image_names(rows["CIRR"]))
    entry = {"meta_task": "retrieval", "split": "ood", "chance": 0.5}
    (tmp_path / "manifest.json").write_text(json.dumps({"tasks": {"mine": entry}}))
    [task] = read_tasks(tmp_path)
    assert (task.meta_task, task.split, task.chance) == ("retrieval", "ood", 0.5)
    (tmp_path / "manifest.json").write_text(json.dumps({"tasks": {"mine": entry | {"split": "dev"}}}))
    with pytest.raises(DataError, match=r"neither 'ind' nor 'ood'.*E_DATA_READ"):
        read_tasks(tmp_path)


def train_row(name: str, number: int, wording: str = "") -> Row:
    return {
        "qry": f"{PLACE}{wording}What is {number}?\n",
        "qry_image_path": f"images/{name}/Train/{number}.jpg",
        "pos_text": f"answer {number}",
        "pos_image_path": "",
    }


def train_snapshot(folder: Path) -> Path:
    """TIGER-Lab/MMEB-train as the hub has it: three wordings of each subset, and a zip file of its images."""
    for name, count in (("A-OKVQA", 3), ("ImageNet_1K", 2), ("WebQA", 1)):
        for split in ("original", "diverse_instruction", "train"):
            table = [train_row(name, number, f"({split}) ") for number in range(count)]
            if name == "WebQA":
                table = [
                    {"qry": f"{PLACE}Find: {split}?\n", "qry_image_path": "", "pos_text": f"{PLACE}Represent: coin\n",
                     "pos_image_path": f"images/{name}/Train/0.jpg", "neg_text": [f"{PLACE}Represent: other\n"],
                     "neg_image_path": [f"images/{name}/Train/1.jpg"]}
                ]  # fmt: skip
            write(folder / name / f"{split}-00000-of-00001.parquet", table)
        pack(folder / "images_zip" / f"{name}.zip", [f"{name}/Train/{number}.jpg" for number in range(4)])
    (folder / "README.md").write_text("# MMEB\n")
    (folder / "dataset_infos.json").write_text("{}")
    return folder


def test_a_snapshot_of_mmeb_train(tmp_path: Path) -> None:
    folder = train_snapshot(tmp_path)
    for split in ("original", "diverse_instruction", "train"):
        pairs = MmebTrain(folder, split=split)
        assert pairs.groups == (3, 2, 1)
        assert pairs[0].query.text == f"{PLACE}({split}) What is 0?\n"
        assert pairs[5].query.text == f"Find: {split}?\n"
        archive = folder / "images_zip" / "A-OKVQA.zip"
        assert pairs[1].query.images == (ArchivedImage(archive, "A-OKVQA/Train/1.jpg"),)
        assert [negative.text for negative in pairs[5].negatives] == [f"{PLACE}Represent: other\n"]
        assert open_rgb(pairs[5].negatives[0].images[0]).size == (4, 4)
    assert MmebTrain(folder)[0].query.text == MmebTrain(folder, split="original")[0].query.text
    assert MmebTrain(folder, limit=1).groups == (1, 1, 1)
    assert MmebTrain(folder, subsets=["imagenet-1k"]).groups == (2,)
    assert MmebTrain(folder / "A-OKVQA").groups == (3,)
    with pytest.raises(DataError, match=r"no task 'GQA'.*E_DATA_TASK"):
        MmebTrain(folder, subsets=["GQA"])
    with pytest.raises(DataError, match=r"there are: diverse_instruction, original, train \[E_DATA_FILE\]"):
        MmebTrain(folder, split="diverse")
    with pytest.raises(DataError, match="E_DATA_FILE"):
        MmebTrain(folder / "A-OKVQA", split="diverse")
    with pytest.raises(DataError, match="E_DATA_FILE"):
        MmebTrain(folder / "nowhere", subsets=["A-OKVQA"])
    table = next((folder / "A-OKVQA").glob("train-*"))
    for choice in ({"subsets": ["A-OKVQA"]}, {"split": "diverse_instruction"}):
        with pytest.raises(DataError, match=r"has no effect on a table \[E_DATA_SUBSET\]"):
            MmebTrain(table, **choice)


def test_a_choice_that_plain_tables_cannot_heed_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / "plain" / f"{name}.parquet", [train_row(name, 0) | {"qry_image_path": ""}])
    assert MmebTrain(tmp_path / "plain").groups == (1, 1)
    for choice in ({"subsets": ["one"]}, {"split": "diverse_instruction"}):
        with pytest.raises(DataError, match=r"has no effect on one folder of tables.*\[E_DATA_SUBSET\]"):
            MmebTrain(tmp_path / "plain", **choice)


def test_one_wording_is_not_given_for_another(tmp_path: Path) -> None:
    write(tmp_path / "GQA" / "original-00000-of-00001.parquet", [train_row("GQA", 0) | {"qry_image_path": ""}])
    for folder in (tmp_path, tmp_path / "GQA"):
        assert MmebTrain(folder).groups == (1,)
        for split in ("diverse_instruction", "train"):
            with pytest.raises(DataError, match=r"there are: original \[E_DATA_FILE\]"):
                MmebTrain(folder, split=split)


def test_train_images_unzipped_as_the_instructions_say(tmp_path: Path) -> None:
    folder = train_snapshot(tmp_path)
    for archive in (folder / "images_zip").glob("*.zip"):
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder / "images")
        archive.unlink()
    assert open_rgb(MmebTrain(folder)[2].query.images[0]).size == (4, 4)


def test_train_shards_are_one_group_with_one_limit(tmp_path: Path) -> None:
    for number in range(3):
        table = [train_row("GQA", 2 * number + place) | {"qry_image_path": ""} for place in range(2)]
        write(tmp_path / "GQA" / f"original-0000{number}-of-00003.parquet", table)
    assert MmebTrain(tmp_path).groups == (6,)
    pairs = MmebTrain(tmp_path, limit=3)
    assert (pairs.groups, pairs[2].target.text) == ((3,), "answer 2")


def test_wrong_columns_of_train_tables_are_said_before_a_row_is_read(tmp_path: Path) -> None:
    folder = train_snapshot(tmp_path)
    table = write(folder / "A-OKVQA" / "original-00000-of-00001.parquet", [{"qry": "q", "pos": "p"}])
    with pytest.raises(
        DataError, match=r"missing columns: qry_image_path, pos_text, pos_image_path; present: qry, pos"
    ):
        MmebTrain(folder)
    write(folder / "WebQA" / "original-00000-of-00001.parquet", [{"qry": 1}])
    with pytest.raises(FolderError) as caught:
        MmebTrain(folder)
    assert [problem.code for problem in caught.value.problems] == ["E_DATA_COLUMN", "E_DATA_COLUMN"]
    assert caught.value.problems[0].where == str(table)


@pytest.mark.parametrize(
    ("text", "texts", "image"),
    [
        (pa.string_view(), pa.list_(pa.string_view()), pa.binary_view()),
        (pa.large_string(), pa.large_list(pa.large_string()), pa.large_binary()),
        (pa.dictionary(pa.int32(), pa.string()), pa.list_view(pa.string()), pa.binary()),
        (pa.string(), pa.list_(pa.string(), 1), pa.binary()),
    ],
    ids=["views", "large", "categories", "lists of one length"],
)
def test_strings_lists_and_bytes_are_read_however_arrow_keeps_them(
    tmp_path: Path, text: pa.DataType, texts: pa.DataType, image: pa.DataType
) -> None:
    held = {
        "qry": pa.array(["what"]).cast(text),
        "qry_image_path": pa.array([picture("a")], image),
        "pos_text": pa.array(["a cat"]).cast(text),
        "pos_image_path": pa.nulls(1),
        "neg_text": pa.array([["a dog"]], texts),
    }
    pq.write_table(pa.table(held), tmp_path / "ask.parquet")
    [pair] = MmebTrain(tmp_path / "ask.parquet")
    assert (pair.query.text, pair.query.images, pair.target.text) == ("what", (picture("a"),), "a cat")
    assert [negative.text for negative in pair.negatives] == ["a dog"]


def test_a_missing_train_image_names_its_row(tmp_path: Path) -> None:
    folder = train_snapshot(tmp_path)
    pack(folder / "images_zip" / "ImageNet_1K.zip", ["ImageNet_1K/Train/0.jpg"])
    with pytest.raises(CocoaError) as caught:
        MmebTrain(folder)
    table = folder / "ImageNet_1K" / "original-00000-of-00001.parquet"
    assert (caught.value.code, caught.value.where) == ("E_IMAGE_MISSING", f"{table}:2")


def test_data_are_a_folder_or_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any]] = []

    def snapshot_download(hub_id: str, **options: Any) -> str:
        asked.append((hub_id, options["repo_type"]))
        if hub_id == "no/where":
            raise OSError("401 Client Error\nmore")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert find_data(tmp_path) == tmp_path
    assert find_data("some-folder") == Path("some-folder")
    assert asked == []
    assert find_data("mmeb-v1") == find_data("ziyjiang/MMEB_Test_Instruct") == tmp_path
    assert asked == [("TIGER-Lab/MMEB-eval", "dataset"), ("ziyjiang/MMEB_Test_Instruct", "dataset")]
    with pytest.raises(DataError, match=r"no/where: the data set cannot be downloaded: 401.*; nor is there such"):
        find_data("no/where")
