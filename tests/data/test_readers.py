"""Readers give what the files say, and name the file and row of what is wrong."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cocoa.data.image_text_pairs import ImageTextPairs
from cocoa.data.mmeb_eval import MMEB_V1, read_tasks
from cocoa.data.mmeb_folders import FolderError
from cocoa.data.mmeb_side import read_texts, strip_placeholder
from cocoa.data.mmeb_train import MmebTrain
from cocoa.data.tables import find_images, number_rows
from cocoa.errors import CocoaError, DataError
from cocoa.images import ArchivedImage, open_rgb
from cocoa.sample import IMAGE_PLACEHOLDER, Sample

Rows = list[dict[str, Any]]


def write(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return path


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def rows_of(table: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Rows:
    return [row for _, row in number_rows(table, columns, optional)]


def add_images(folder: Path, *names: str, packed: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if packed:
        with zipfile.ZipFile(folder / "images.zip", "w") as archive:
            for name in names:
                archive.writestr(name, picture("red"))
        return
    for name in names:
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(picture("red"))


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json"])
def test_rows_of_every_kind_of_table(tmp_path: Path, suffix: str) -> None:
    rows = [{"a": "x", "b": ["1", "2"], "c": 1}, {"a": "é", "b": [], "c": 2}]
    table = write(tmp_path / f"t{suffix}", rows)
    assert rows_of(table, ["a", "b"], ["c", "d"]) == rows
    assert rows_of(table, ["b"]) == [{"b": ["1", "2"]}, {"b": []}]
    with pytest.raises(DataError) as caught:
        rows_of(table, ["a", "x", "y"])
    assert caught.value.code == "E_DATA_COLUMN"
    assert "missing columns: x, y; present: a, b, c" in str(caught.value)
    assert str(caught.value).startswith(str(table))


def test_a_byte_order_mark_and_blank_lines_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}\n\n')
    assert list(number_rows(tmp_path / "t.jsonl", ["a"])) == [(1, {"a": 1}), (3, {"a": 2})]


@pytest.mark.parametrize(
    ("name", "content", "code", "place"),
    [
        ("t.parquet", b"PAR1 but no table", "E_DATA_READ", ""),
        ("t.parquet", b"", "E_DATA_READ", ""),
        ("t.jsonl", b'{"a": 1}\n{"a": \n', "E_DATA_READ", ":2"),
        ("t.jsonl", b'{"a": 1}\n[1]\n', "E_DATA_READ", ":2"),
        ("t.jsonl", b'{"a": 1}\n{"b": 1}\n', "E_DATA_COLUMN", ":2"),
        ("t.jsonl", b'{"a": "\xff"}\n', "E_DATA_READ", ":1"),
        ("t.jsonl", b'{"a": ' + b"1" * 5000 + b"}\n", "E_DATA_READ", ":1"),
        ("t.json", b'[{"a": "\xff"}]', "E_DATA_READ", ""),
        ("t.json", b"[" + b"1" * 5000 + b"]", "E_DATA_READ", ""),
        ("t.json", b'[{"a": 1}, 2]', "E_DATA_READ", ":2"),
        ("t.jsonl", b"[" * 100_000 + b"\n", "E_DATA_READ", ":1"),
        ("t.json", b'{"a": 1}', "E_DATA_READ", ""),
        ("t.json", b"[1", "E_DATA_READ", ""),
        ("t.csv", b"a\n1\n", "E_DATA_READ", ""),
    ],
)
def test_a_bad_table_has_its_code_and_place(tmp_path: Path, name: str, content: bytes, code: str, place: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        rows_of(tmp_path / name, ["a"])
    assert (caught.value.code, caught.value.where) == (code, f"{tmp_path / name}{place}")


def test_missing_and_empty_tables(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="E_DATA_FILE"):
        rows_of(tmp_path / "no.parquet", ["a"])
    names = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
    (tmp_path / "test").mkdir()
    pq.write_table(pa.table({name: pa.array([], pa.string()) for name in names}), tmp_path / "test" / "GQA.parquet")
    (tmp_path / "test" / "CIRR.jsonl").write_text("\n")
    with pytest.raises(FolderError) as caught:
        read_tasks(tmp_path)
    assert [problem.code for problem in caught.value.problems] == ["E_DATA_EMPTY", "E_DATA_EMPTY"]


def test_images_are_found_in_archive_then_folder(tmp_path: Path) -> None:
    add_images(tmp_path, "a.png", "x/b.png")
    add_images(tmp_path, "a.png", "c.png", packed=False)
    (tmp_path / "d.png").write_bytes(picture("blue"))
    find = find_images(tmp_path)
    assert find("a.png") == find("./a.png") == ArchivedImage(tmp_path / "images.zip", "a.png")
    assert find("x/b.png") == ArchivedImage(tmp_path / "images.zip", "x/b.png")
    assert open_rgb(find("c.png")).getpixel((0, 0)) == (255, 0, 0)
    assert open_rgb(find("d.png")).getpixel((0, 0)) == (0, 0, 255)
    assert find("images/c.png") == (tmp_path / "images" / "c.png").resolve()
    with pytest.raises(CocoaError, match=r"'e.png'.*E_IMAGE_MISSING"):
        find("e.png")


@pytest.mark.parametrize("packed", [True, False])
def test_a_backslash_separates_folders_unless_a_file_has_it_in_its_name(tmp_path: Path, packed: bool) -> None:
    add_images(tmp_path, "x/y/b.png", packed=packed)
    find = find_images(tmp_path)
    assert find("x\\y\\b.png") == find(".\\x/y\\b.png") == find("x/y/b.png")
    write(tmp_path / "t.jsonl", [{"image_path": "x\\y\\b.png", "text": "a b"}])
    assert ImageTextPairs(tmp_path / "t.jsonl")[0].query.images == (find("x/y/b.png"),)
    (tmp_path / "x\\c.png").write_bytes(picture("blue"))
    add_images(tmp_path, "x/c.png", packed=False)
    assert find("x\\c.png") == (tmp_path / "x\\c.png").resolve()


def test_no_image_path_leaves_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture("red"))
    inner = tmp_path / "set"
    add_images(inner, "a.png")
    (inner / "link.png").symlink_to(tmp_path / "secret.png")
    find = find_images(inner)
    for name in ("../secret.png", "x/../../secret.png", str(tmp_path / "secret.png"), "C:\\a.png", "..\\secret.png",
                 "a\0.png", "\\\\host\\a.png", "", ".", "link.png"):  # fmt: skip
        with pytest.raises(DataError) as caught:
            find(name)
        assert caught.value.code == "E_DATA_PATH"


def test_image_text_pairs(tmp_path: Path) -> None:
    add_images(tmp_path, "a.png", "b.png")
    rows = [{"image_path": "a.png", "text": "an a"}, {"image_path": "b.png", "text": f"{IMAGE_PLACEHOLDER}\na b"}]
    for name, key in (("p.parquet", "text"), ("p.jsonl", "caption")):
        renamed = [{"image_path": row["image_path"], key: row["text"]} for row in rows]
        pairs = ImageTextPairs(write(tmp_path / name, renamed))
        assert len(pairs) == len(list(pairs)) == 2  # type: ignore[call-overload]
        assert pairs[0].query.text == IMAGE_PLACEHOLDER + "\n"
        assert pairs[0].query.images == (ArchivedImage(tmp_path / "images.zip", "a.png"),)
        assert pairs[0].target == Sample(text="an a", where=f"{tmp_path / name}:1")
        assert pairs[1].target.text == "a b"
        assert len(ImageTextPairs(tmp_path / name, limit=1)) == 1


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"image_path": "a.png", "text": " \n"}, "E_DATA_EMPTY"),
        ({"image_path": "a.png", "text": None}, "E_DATA_EMPTY"),
        ({"image_path": "a.png", "text": IMAGE_PLACEHOLDER}, "E_DATA_EMPTY"),
        ({"image_path": "", "text": "x"}, "E_DATA_EMPTY"),
        ({"image_path": "no.png", "text": "x"}, "E_IMAGE_MISSING"),
        ({"image_path": "../a.png", "text": "x"}, "E_DATA_PATH"),
        ({"image_path": "a.png", "text": 3}, "E_DATA_TYPE"),
    ],
)
def test_a_bad_pair_names_its_row(tmp_path: Path, row: dict[str, Any], code: str) -> None:
    add_images(tmp_path, "a.png")
    table = write(tmp_path / "p.jsonl", [{"image_path": "a.png", "text": "fine"}, row])
    with pytest.raises(CocoaError) as caught:
        ImageTextPairs(table)
    assert (caught.value.code, caught.value.where) == (code, f"{table}:2")
    assert len(ImageTextPairs(table, limit=1)) == 1


def test_pairs_need_a_text_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"text \(or caption\).*E_DATA_COLUMN"):
        ImageTextPairs(write(tmp_path / "p.jsonl", [{"image_path": "a.png"}]))


TRAIN = {"qry": "q", "qry_image_path": "", "pos_text": "p", "pos_image_path": ""}


@pytest.mark.parametrize("packed", [True, False])
def test_train_folder(tmp_path: Path, packed: bool) -> None:
    add_images(tmp_path, "a.png", "b.png", packed=packed)
    rows = [
        TRAIN | {"qry": f"{IMAGE_PLACEHOLDER}\nstray", "pos_image_path": "a.png"},
        TRAIN | {"qry": f"{IMAGE_PLACEHOLDER}\nkept", "qry_image_path": "b.png", "neg_image_path": "a.png"},
    ]
    write(tmp_path / "train" / "one.jsonl", rows)
    write(tmp_path / "train" / "two.parquet", [TRAIN | {"neg_text": "n", "neg_image_path": ""}])
    pairs = MmebTrain(tmp_path)
    assert len(pairs) == 3
    assert (pairs[0].query.text, pairs[0].query.images) == ("stray", ())
    # An image without a placeholder keeps its text: what places the image comes later.
    assert (pairs[0].target.text, len(pairs[0].target.images)) == ("p", 1)
    assert pairs[0].negatives == ()
    assert (pairs[1].query.text, len(pairs[1].query.images)) == (f"{IMAGE_PLACEHOLDER}\nkept", 1)
    assert [(negative.text, len(negative.images)) for negative in pairs[1].negatives] == [("", 1)]
    assert [negative.text for negative in pairs[2].negatives] == ["n"]
    assert open_rgb(pairs[0].target.images[0]).size == (4, 4)
    assert pairs[2].query.where == f"{tmp_path / 'train' / 'two.parquet'}:1"
    assert pairs.groups == (2, 1)
    assert len(MmebTrain(tmp_path / "train")) == 3
    assert len(MmebTrain(tmp_path / "train" / "one.jsonl")) == 2


def test_a_limit_holds_for_each_train_table(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [TRAIN | {"qry": f"a{number}"} for number in range(3)])
    write(tmp_path / "b.parquet", [TRAIN | {"qry": f"b{number}"} for number in range(2)])
    write(tmp_path / "c.json", [TRAIN | {"qry": "c0"}])
    for limit, groups in ((1, (1, 1, 1)), (2, (2, 2, 1)), (3, (3, 2, 1)), (None, (3, 2, 1))):
        pairs = MmebTrain(tmp_path, limit=limit)
        assert (pairs.groups, len(pairs)) == (groups, sum(groups))
        texts = [pairs[index].query.text for index in range(len(pairs))]
        assert texts == [f"{name}{number}" for name, size in zip("abc", groups, strict=True) for number in range(size)]


@pytest.mark.parametrize(
    ("texts", "images", "expected"),
    [
        ("", "", []),
        (None, None, []),
        ("n", "", [("n", 0)]),
        (["n", "m"], ["", "a.png"], [("n", 0), ("m", 1)]),
        (["n", "m"], "", [("n", 0), ("m", 0)]),
        ('["n", "m"]', '["a.png", ""]', [("n", 1), ("m", 0)]),
        ("[]", ["a.png", "a.png"], [("", 1), ("", 1)]),
        (["", "n"], ["", ""], [("n", 0)]),
        ("[1] is a footnote", "", [("[1] is a footnote", 0)]),
    ],
)
def test_negatives(tmp_path: Path, texts: object, images: object, expected: list[tuple[str, int]]) -> None:
    add_images(tmp_path, "a.png")
    table = write(tmp_path / "t.jsonl", [TRAIN | {"neg_text": texts, "neg_image_path": images}])
    negatives = MmebTrain(table)[0].negatives
    assert [(negative.text, len(negative.images)) for negative in negatives] == expected


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"qry": ""}, "E_DATA_EMPTY"),
        ({"pos_text": f"{IMAGE_PLACEHOLDER}\n"}, "E_DATA_EMPTY"),
        ({"qry": 1}, "E_DATA_TYPE"),
        ({"qry_image_path": "no.png"}, "E_IMAGE_MISSING"),
        ({"qry_image_path": "n" * 5000}, "E_IMAGE_MISSING"),
        ({"qry": "half a \ud83d"}, "E_DATA_TYPE"),
        ({"qry": IMAGE_PLACEHOLDER * 2, "qry_image_path": "a.png"}, "E_DATA_PLACEHOLDER"),
        ({"pos_text": "<|image_2|>", "pos_image_path": "a.png"}, "E_DATA_PLACEHOLDER"),
        ({"pos_image_path": "/etc/passwd"}, "E_DATA_PATH"),
        ({"neg_text": "['n', __import__('os').abort()]"}, "E_DATA_TYPE"),
        ({"neg_text": '["n"'}, "E_DATA_TYPE"),
        ({"neg_text": ["n", 1]}, "E_DATA_TYPE"),
        ({"neg_text": '["n", ' + "1" * 5000 + "]"}, "E_DATA_TYPE"),
        ({"neg_text": ["n", "m"], "neg_image_path": "a.png"}, "E_DATA_LENGTH"),
    ],
)
def test_a_bad_train_row_names_its_row(tmp_path: Path, change: dict[str, Any], code: str) -> None:
    add_images(tmp_path, "a.png")
    table = write(tmp_path / "train" / "t.jsonl", [TRAIN, TRAIN | change])
    with pytest.raises(CocoaError) as caught:
        MmebTrain(tmp_path)
    assert (caught.value.code, caught.value.where) == (code, f"{table}:2")


def test_a_train_folder_without_tables(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="E_DATA_FILE"):
        MmebTrain(tmp_path)


def question(**changes: Any) -> dict[str, Any]:
    return {
        "qry_text": f"{IMAGE_PLACEHOLDER}\nq",
        "qry_img_path": "a.png",
        "tgt_text": ["x", "y"],
        "tgt_img_path": [],
    } | changes


def test_tasks_of_a_set(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    add_images(folder, "a.png", "b.png")
    stray = question(qry_img_path="", tgt_text=["", "t"], tgt_img_path=["a.png", "b.png"])
    write(folder / "test" / "GQA.parquet", [question(), question(tgt_text=["x"], tgt_img_path=[""])])
    write(folder / "test" / "mine.jsonl", [stray])
    entry = {"meta_task": "retrieval", "chance": 0.25, "blind": None}
    (folder / "manifest.json").write_text(json.dumps({"tasks": {"mine": entry}}))
    gqa, mine = read_tasks(folder)
    assert (gqa.name, gqa.meta_task, gqa.chance, gqa.blind) == ("GQA", "vqa", 0.75, None)
    assert [candidate.text for candidate in gqa.questions[0].candidates] == ["x", "y"]
    assert (mine.meta_task, mine.chance) == ("retrieval", 0.25)
    assert (mine.questions[0].query.text, mine.questions[0].query.images) == ("q", ())
    assert [len(candidate.images) for candidate in mine.questions[0].candidates] == [1, 1]
    assert [task.name for task in read_tasks(folder, ["mine"])] == ["mine"]
    assert [task.name for task in read_tasks(tmp_path, ["mine"])] == ["mine"]
    with pytest.raises(DataError, match=r"did you mean 'mine'.*E_DATA_TASK"):
        read_tasks(folder, ["mind"])


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    add_images(tmp_path, "a.png")
    bad = [
        question(qry_img_path="no.png"),
        question(tgt_text=["x"], tgt_img_path=["", ""]),
        question(tgt_text=[], tgt_img_path=[]),
        question(tgt_text=["x", " "]),
        question(qry_text=IMAGE_PLACEHOLDER, qry_img_path=""),
        question(),
        *(question(tgt_text=[""], tgt_img_path=[f"{number}.png"]) for number in range(20)),
        *(question(tgt_text=[""], tgt_img_path=["0.png"]) for number in range(20)),
    ]
    table = write(tmp_path / "test" / "GQA.jsonl", bad)
    other = write(tmp_path / "test" / "CIRR.jsonl", [{"qry_text": "q"}])
    with pytest.raises(DataError) as caught:
        read_tasks(tmp_path)
    text = str(caught.value)
    assert caught.value.code == "E_DATA_FOLDER"
    assert "26 problems" in text
    assert "and 16 more" in text
    assert f"{other}:1: missing columns: qry_img_path, tgt_text, tgt_img_path; present: qry_text" in text
    for row, code in enumerate(("E_IMAGE_MISSING", "E_DATA_LENGTH", "E_DATA_EMPTY", "E_DATA_EMPTY", "E_DATA_EMPTY"), 1):
        assert re.search(rf"{re.escape(str(table))}:{row}\b.*\[{code}\]", text)
    assert f"{table}:6:" not in text


def test_all_lines_that_cannot_be_read_are_said_by_their_numbers_in_the_file(tmp_path: Path) -> None:
    add_images(tmp_path, "a.png")
    good, bad = json.dumps(question()), json.dumps(question(qry_img_path="no.png"))
    table = tmp_path / "test" / "GQA.jsonl"
    table.parent.mkdir()
    table.write_text("\n".join([good, "", "{", good, "", bad, "[1]", '{"qry_text": "q"}', good]))
    with pytest.raises(FolderError) as caught:
        read_tasks(tmp_path)
    assert [(problem.where, problem.code) for problem in caught.value.problems] == [
        (f"{table}:3", "E_DATA_READ"),
        (f"{table}:6", "E_IMAGE_MISSING"),
        (f"{table}:7", "E_DATA_READ"),
        (f"{table}:8", "E_DATA_COLUMN"),
    ]
    table.write_text("\n".join(["", good, "", good]))
    [task] = read_tasks(tmp_path)
    assert [one.query.where for one in task.questions] == [f"{table}:2", f"{table}:4"]


def no_manifest(folder: Path) -> None:
    write(folder / "test" / "mine.jsonl", [question()])


def wrong_meta_task(folder: Path) -> None:
    no_manifest(folder)
    (folder / "manifest.json").write_text('{"tasks": {"mine": {"meta_task": "guessing"}}}')


def wrong_chance(folder: Path) -> None:
    no_manifest(folder)
    (folder / "manifest.json").write_text('{"tasks": {"mine": {"meta_task": "vqa", "chance": 33}}}')


def broken_manifest(folder: Path) -> None:
    no_manifest(folder)
    (folder / "manifest.json").write_text("[]")


def twice(folder: Path) -> None:
    write(folder / "test" / "GQA.jsonl", [question()])
    write(folder / "test" / "GQA.json", [question()])


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (no_manifest, "E_DATA_TASK"),
        (wrong_meta_task, "E_DATA_TASK"),
        (wrong_chance, "E_DATA_READ"),
        (broken_manifest, "E_DATA_READ"),
        (twice, "E_DATA_TASK"),
        (lambda folder: None, "E_DATA_FILE"),
    ],
)
def test_a_bad_set_has_its_code(tmp_path: Path, make: Callable[[Path], None], code: str) -> None:
    add_images(tmp_path, "a.png")
    make(tmp_path)
    with pytest.raises(DataError) as caught:
        read_tasks(tmp_path)
    assert caught.value.code == code
    assert str(tmp_path) in str(caught.value)


def test_mmeb_v1_has_its_36_tasks() -> None:
    counts = {kind: list(MMEB_V1.values()).count(kind) for kind in set(MMEB_V1.values())}
    assert counts == {"classification": 10, "vqa": 10, "retrieval": 12, "grounding": 4}


def test_placeholders_and_lists() -> None:
    assert strip_placeholder(f"{IMAGE_PLACEHOLDER}\nFind: {IMAGE_PLACEHOLDER}x\n") == "Find: x\n"
    assert read_texts('["a"]', "") == ["a"]


def test_open_sets_are_read_with_their_counts(open_sets: Path) -> None:
    lines = (open_sets / "TASKS.md").read_text().splitlines()[2:]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    tasks = {task.name: task for task in read_tasks(open_sets)}
    assert set(tasks) == {row[2] for row in table}
    assert len(tasks) == 29
    train: dict[str, int] = {}
    for _, folder, name, meta_task, num_train, num_test, candidates, chance, blind in table:
        task = tasks[name]
        sizes = [len(one.candidates) for one in task.questions]
        assert (task.meta_task, len(sizes), f"{min(sizes)}-{max(sizes)}") == (meta_task, int(num_test), candidates)
        assert (task.chance, task.blind) == (float(chance), None if blind == "None" else float(blind))
        train[folder] = train.get(folder, 0) + int(num_train)
    for folder, count in train.items():
        assert len(MmebTrain(open_sets / folder)) == count
        pair = ImageTextPairs(open_sets / folder / "pairs_train.parquet", limit=3)[2]
        assert open_rgb(pair.query.images[0]).mode == "RGB"
