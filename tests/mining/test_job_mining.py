"""From a training set and a model to the same set with hard negatives, none of which is right."""

from __future__ import annotations

import fcntl
import json
import shutil
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cocoa import CocoaError
from cocoa.backbones.nano import load_nano
from cocoa.data.mmeb_train import MmebTrain
from cocoa.images import open_rgb
from cocoa.mining import Window, mine
from cocoa.model import EmbeddingModel
from cocoa.pooling import Pooling
from cocoa.sample import Sample
from cocoa.training.batches import content_key
from picture_files import spoil_member

ALL = Window(max_ratio=None)


def shown(sample):
    """What a sample shows, wherever its pictures lie."""
    return sample.text, tuple(open_rgb(image).tobytes() for image in sample.images)


def mined_rows(out: Path) -> list[tuple]:
    return [
        (shown(pair.query), shown(pair.target), [shown(negative) for negative in pair.negatives])
        for pair in MmebTrain(out)
    ]


def text_rows_of(out: Path) -> list[tuple[str, str, list[str]]]:
    return [(pair.query.text, pair.target.text, [one.text for one in pair.negatives]) for pair in MmebTrain(out)]


@pytest.fixture
def whole_numbers(monkeypatch):
    """Gives every content one of a few vectors of whole numbers: scores are exact, and often equal."""

    def vector(sample) -> np.ndarray:
        numbers = np.random.default_rng(content_key(sample) % 17).integers(-3, 4, 4)
        return np.pad(numbers, (0, 28)).astype(np.float32)

    def embed_all(model, samples):
        return torch.from_numpy(np.stack([vector(sample) for sample in samples]))

    monkeypatch.setattr(EmbeddingModel, "embed_all", embed_all)
    return vector


def slow_negatives(rows, vector_of, window, pool):
    """The allowed window of each row, by loops over lists; `pool` are the rows whose targets may be taken."""
    targets = list(dict.fromkeys(target for _, target in pool))
    found = []
    for query, positive in rows:
        right = [target for other, target in pool + rows if other == query]

        def score(target, query=query):
            return sum(float(a) * float(b) for a, b in zip(vector_of[query], vector_of[target], strict=True))

        ranked = sorted((target for target in targets if target not in right), key=lambda one: -score(one))
        own = score(positive)
        kept = []
        for rank, target in enumerate(ranked, 1):
            is_open = window.first_rank <= rank <= window.last_rank
            is_open &= window.max_score is None or score(target) <= window.max_score
            is_open &= window.margin is None or score(target) <= own - window.margin
            if window.max_ratio is not None:
                is_open &= score(target) <= (own * window.max_ratio if own >= 0 else own * (2 - window.max_ratio))
            if is_open:
                kept.append(target)
        found.append(kept)
    return found


@pytest.mark.parametrize(
    "window",
    [
        Window(),
        Window(negatives=2, first_rank=3, last_rank=9, max_ratio=None),
        Window(negatives=3, max_ratio=0.5, max_score=4),
        Window(negatives=4, max_ratio=None, margin=2, last_rank=12),
        Window(negatives=3, first_rank=2, last_rank=20, max_ratio=None, draw="random", seed=3),
    ],
)
@pytest.mark.parametrize("pool", ["table", "all"])
def test_negatives_are_those_of_plain_loops(model, whole_numbers, write_table, text_rows, tmp_path, window, pool):
    rng = np.random.default_rng(5)
    # Few enough queries and targets that many rows share a query, a target, or both.
    draw = [[(f"find {rng.integers(12)}", f"thing {rng.integers(25)}") for _ in range(40)] for _ in range(2)]
    for number, pairs in enumerate(draw):
        write_table(tmp_path / "set" / "train" / f"t{number}.parquet", text_rows(pairs))
    summary = mine(model, tmp_path / "set", tmp_path / "out", window=window, pool=pool, shard_size=16)
    encode = EmbeddingModel.load(model).backbone.encode
    pairs = MmebTrain(tmp_path / "set")
    vector_of = {one.text: whole_numbers(encode(one)) for pair in pairs for one in (pair.query, pair.target)}
    rows = draw[0] + draw[1]
    # All tables say what is right for a query, whichever is searched.
    right = {query: {target for other, target in rows if other == query} for query, _ in rows}
    expected = []
    for table in draw:
        searched = rows if pool == "all" else table
        for (query, _), kept in zip(table, slow_negatives_of(table, searched, vector_of, window, right), strict=True):
            assert not set(kept) & right[query]
            expected.append(kept)
    found = text_rows_of(tmp_path / "out")
    assert [(query, target) for query, target, _ in found] == rows
    for (_, _, negatives), kept in zip(found, expected, strict=True):
        assert len(negatives) == min(window.negatives, len(kept))
        if window.draw == "top":
            assert negatives == kept[: window.negatives]
        else:
            assert negatives == [target for target in kept if target in negatives]
    assert summary.mined == sum(len(negatives) for _, _, negatives in found)
    assert summary.short_rows == sum(len(negatives) < window.negatives for _, _, negatives in found)
    assert summary.mined > 0
    free = replace(window, max_ratio=None, max_score=None, margin=None)
    unbounded = [
        kept
        for table in draw
        for kept in slow_negatives_of(table, rows if pool == "all" else table, vector_of, free, right)
    ]
    bounded = [len(kept) < min(window.negatives, len(more)) for kept, more in zip(expected, unbounded, strict=True)]
    assert summary.bounded_rows == sum(bounded)


def slow_negatives_of(table, searched, vector_of, window, right):
    """As `slow_negatives`, with the targets of `searched` and what is right by all rows."""
    extra = [(query, target) for query, targets in right.items() for target in targets]
    targets = {target for _, target in searched}
    pool = searched + [(query, target) for query, target in extra if target in targets]
    return slow_negatives(table, vector_of, window, pool)


def test_negatives_of_scenes_are_read_back_and_none_is_right(scenes, tmp_path):
    EmbeddingModel(load_nano(), max_tokens=256).save(tmp_path / "nano")
    train = scenes(tmp_path / "set", 24)
    summary = mine(tmp_path / "nano", train, tmp_path / "out", window=Window(negatives=4, max_ratio=None))
    before, after = MmebTrain(train), mined_rows(tmp_path / "out")
    assert MmebTrain(tmp_path / "out").groups == (24, 24)
    backbone = load_nano()
    for pair, (query, target, negatives) in zip(before, after, strict=True):
        assert (shown(pair.query), shown(pair.target)) == (query, target)
        assert len(set(negatives)) == len(negatives) == 4
        assert target not in negatives
    # Independently: the best four by plain cosines of the model itself.
    opened = EmbeddingModel.load(tmp_path / "nano")
    pairs = [before[number] for number in range(24)]
    queries, targets = opened.encode([one.query for one in pairs]), opened.encode([one.target for one in pairs])
    keys = [content_key(backbone.encode(one.target)) for one in pairs]
    for number, query in enumerate(queries):
        scores = {keys[place]: float(query @ targets[place]) for place in reversed(range(24))}
        del scores[keys[number]]
        best = sorted(scores, key=scores.get, reverse=True)[:4]
        taken = [content_key(backbone.encode(one)) for one in MmebTrain(tmp_path / "out")[number].negatives]
        assert [scores[key] for key in taken] == pytest.approx([scores[key] for key in best], abs=1e-5)
    assert (summary.rows, summary.mined, summary.short_rows, summary.bad) == (48, 192, 0, {})


def test_the_report_says_what_came_of_each_table(model, scenes, tmp_path):
    mine(model, scenes(tmp_path / "set", 12), tmp_path / "out", window=Window(negatives=3, max_ratio=None))
    report = json.loads((tmp_path / "out" / "mining.json").read_text())
    assert report["negatives"] == 3
    assert len(report["model"]) == 64
    for fact in report["tables"].values():
        assert fact["rows"] == 12
        assert fact["mined"] == 36
        assert 0 <= fact["not_first"] <= 1
        for scores in (fact["positive_scores"], fact["negative_scores"]):
            assert -1.001 <= scores["min"] <= scores["p25"] <= scores["median"] <= scores["max"] <= 1.001
    assert report["files"].keys() == {"train/i2t.parquet", "train/t2i.parquet", "job/bad_rows.jsonl"}


def test_targets_that_look_the_same_to_the_model_are_one_target(model, write_table, tmp_path, picture):
    images = tmp_path / "set" / "images"
    images.mkdir(parents=True)
    picture(60, 60, 1).save(images / "a.png")
    picture(60, 60, 1).save(images / "a.bmp")  # the same pixels in another file
    picture(60, 60, 2).save(images / "b.png")
    long = " ".join(["word"] * 80)  # the model is cut to 64 tokens
    rows = [
        {"qry": "one", "qry_image_path": "", "pos_text": "", "pos_image_path": "a.png"},
        {"qry": "two", "qry_image_path": "", "pos_text": "", "pos_image_path": "a.bmp"},
        {"qry": "three", "qry_image_path": "", "pos_text": "", "pos_image_path": "b.png"},
        {"qry": "four", "qry_image_path": "", "pos_text": f"{long} ends", "pos_image_path": ""},
        {"qry": "five", "qry_image_path": "", "pos_text": f"{long} differs", "pos_image_path": ""},
    ]
    write_table(tmp_path / "set" / "train" / "t.jsonl", rows)
    mine(model, tmp_path / "set", tmp_path / "out", window=ALL)
    found = [[one["neg_image_path"], one["neg_text"]] for one in map(json.loads, open_lines(tmp_path / "out"))]
    assert [sorted(paths) for paths, _ in found] == [
        ["", "b.png"],
        ["", "b.png"],
        ["", "a.png"],
        ["a.png", "b.png"],
        ["a.png", "b.png"],
    ]
    assert [sum(bool(text) for text in texts) for _, texts in found] == [1, 1, 1, 0, 0]


def open_lines(out: Path, name: str = "t.jsonl") -> list[str]:
    return (out / "train" / name).read_text().splitlines()


def test_negatives_that_are_there_stay_and_count_unless_they_are_right(model, write_table, text_rows, tmp_path):
    rows = text_rows([("one", "cat"), ("one", "dog"), ("two", "owl"), ("two", "fox"), ("three", "cow")])
    for row, texts in zip(rows, [["ant", "dog", "ant", "owl"], "", '["bee"]', None, ["a", "b", "c", "d"]], strict=True):
        row["neg_text"] = texts
    write_table(tmp_path / "set" / "t.jsonl", rows)
    window = Window(negatives=3, max_ratio=None)
    summary = mine(model, tmp_path / "set", tmp_path / "kept", window=window)
    kept = [negatives for _, _, negatives in text_rows_of(tmp_path / "kept")]
    assert kept[0][:2] == ["ant", "owl"]
    assert kept[2][0] == "bee"
    assert kept[4] == ["a", "b", "c", "d"]
    assert [len(set(negatives)) for negatives in kept] == [3, 3, 3, 3, 4]
    assert not {"cat", "dog"} & {*kept[0], *kept[1]}
    assert not {"owl", "fox"} & {*kept[2], *kept[3]}
    assert (summary.kept, summary.dropped, summary.mined) == (2 + 1 + 4, 2, 1 + 3 + 2 + 3)
    mine(model, tmp_path / "set", tmp_path / "new", window=window, keep=False)
    new = [negatives for _, _, negatives in text_rows_of(tmp_path / "new")]
    assert {text for negatives in new for text in negatives} <= {"cat", "dog", "owl", "fox", "cow"}
    assert [len(set(negatives)) for negatives in new] == [3, 3, 3, 3, 3]


def test_equal_jobs_give_equal_files_and_draws_do_not_depend_on_other_tables(
    model, whole_numbers, write_table, text_rows, tmp_path, contents
):
    write_table(tmp_path / "set" / "t.jsonl", text_rows([(f"find {one}", f"thing {one % 40}") for one in range(60)]))
    window = Window(draw="random", max_ratio=None, last_rank=30)
    mine(model, tmp_path / "set", tmp_path / "first", window=window)
    mine(model, tmp_path / "set", tmp_path / "second", window=window)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    write_table(tmp_path / "set" / "a.jsonl", text_rows([(f"look {one}", f"other {one}") for one in range(30)]))
    mine(model, tmp_path / "set", tmp_path / "third", window=window)
    assert open_lines(tmp_path / "third") == open_lines(tmp_path / "first")


# The shapes of a set.


def test_pictures_are_reached_by_the_same_names_from_every_shape(model, scenes, tmp_path):
    loose = scenes(tmp_path / "loose", 6)
    zipped = shutil.copytree(loose, tmp_path / "zipped")
    with zipfile.ZipFile(zipped / "images.zip", "w") as archive:
        for path in sorted((zipped / "images").iterdir()):
            archive.write(path, path.name)
    shutil.rmtree(zipped / "images")
    beside = tmp_path / "beside"
    shutil.copytree(loose / "images", beside)
    shutil.copy(loose / "train" / "t2i.parquet", beside / "t2i.parquet")
    prefixed = tmp_path / "prefixed"
    shutil.copytree(loose / "images", prefixed / "images" / "Scenes")
    table = pq.read_table(loose / "train" / "t2i.parquet").to_pylist()
    for row in table:
        row["pos_image_path"] = f"images/Scenes/{row['pos_image_path']}"
    (prefixed / "Scenes").mkdir()
    for number, part in enumerate((table[:2], table[2:])):
        pq.write_table(pa.Table.from_pylist(part), prefixed / "Scenes" / f"original-0000{number}-of-00002.parquet")
    packed = tmp_path / "packed"
    shutil.copytree(prefixed / "Scenes", packed / "Scenes")
    (packed / "images_zip").mkdir()
    with zipfile.ZipFile(packed / "images_zip" / "Scenes.zip", "w") as archive:
        for path in sorted((loose / "images").iterdir()):
            archive.write(path, path.name)
    expected, vectors = None, tmp_path / "vectors"
    for train in (loose, loose / "train", loose / "train" / "t2i.parquet", zipped, beside, prefixed, packed):
        for copy_images in (False, True):
            out = tmp_path / "out" / f"{train.name}-{copy_images}-{train.parent.name}"
            mine(model, train, out, window=ALL, copy_images=copy_images, vectors=vectors)
            if copy_images:  # must stand alone
                out = out.rename(out.with_name(f"moved-{out.name}"))
                assert not [path for path in out.rglob("*") if path.is_symlink()]
            rows = mined_rows(out)[-6:]
            expected = expected or rows
            assert rows == expected, train
            assert all(len(negatives) == 5 for _, _, negatives in rows)


def test_pictures_in_the_table_are_negatives_too(model, write_table, tmp_path, picture):
    rows = []
    for number in range(4):
        picture(60, 60, number).save(tmp_path / "one.png")
        data = (tmp_path / "one.png").read_bytes()
        image = {"bytes": data, "path": None}
        rows.append({"qry": f"find {number}", "qry_image_path": None, "pos_text": "", "pos_image_path": image})
    table = write_table(tmp_path / "set" / "t.parquet", rows)
    mine(model, table, tmp_path / "out", window=ALL)
    found = mined_rows(tmp_path / "out")
    targets = {target for _, target, _ in found}
    assert all({*negatives} == targets - {target} for _, target, negatives in found)


def test_a_picture_in_a_table_is_no_negative_of_json_and_that_is_said_first(
    model, write_table, tmp_path, picture, calls
):
    rows = []
    for number in range(3):
        picture(60, 60, number).save(tmp_path / "one.png")
        image = {"bytes": (tmp_path / "one.png").read_bytes(), "path": None}
        rows.append({"qry": f"find {number}", "qry_image_path": None, "pos_text": "", "pos_image_path": image})
    table = write_table(tmp_path / "set" / "train" / "shown.parquet", rows)
    said = {"qry_image_path": None, "pos_image_path": ""}
    texts = [said | {"qry": f"say {number}", "pos_text": f"it is {number}"} for number in range(3)]
    write_table(tmp_path / "set" / "train" / "said.jsonl", texts)
    with pytest.raises(CocoaError, match=r"where said.jsonl can only name one: write that as Parquet") as caught:
        mine(model, tmp_path / "set", tmp_path / "out", window=ALL, pool="all")
    assert (caught.value.code, caught.value.where) == ("E_DATA_TYPE", f"{table}:1")
    assert not calls and not (tmp_path / "out").exists()
    mine(model, tmp_path / "set", tmp_path / "out", window=ALL)
    assert [len(negatives) for _, _, negatives in mined_rows(tmp_path / "out")] == [2] * 6
    (tmp_path / "set" / "train" / "said.jsonl").unlink()
    write_table(tmp_path / "set" / "train" / "said.parquet", texts)
    mine(model, tmp_path / "set", tmp_path / "all", window=ALL, pool="all")
    assert [len(negatives) for _, _, negatives in mined_rows(tmp_path / "all")] == [5] * 6


def test_other_columns_stay_and_notes_of_column_types_go(model, text_rows, tmp_path):
    rows = [row | {"id": number, "tags": ["x"]} for number, row in enumerate(text_rows([("a", "b"), ("c", "d")]))]
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": "{}", "source": "mine"})
    (tmp_path / "set").mkdir()
    pq.write_table(table, tmp_path / "set" / "t.parquet")
    mine(model, tmp_path / "set", tmp_path / "out", window=ALL)
    found = pq.read_table(tmp_path / "out" / "train" / "t.parquet")
    assert found.column_names == [*table.column_names, "neg_text", "neg_image_path"]
    assert found.select(table.column_names).to_pylist() == table.to_pylist()
    assert found.schema.metadata == {b"source": b"mine"}
    assert found.column("neg_text").to_pylist() == [["d"], ["b"]]


def test_a_name_that_means_two_pictures_is_refused(model, scenes, tmp_path):
    for number in range(2):
        scenes(tmp_path / "sets" / f"s{number}", 3, tables=("i2t", "t2i")[number:][:1], seed=number)
    with pytest.raises(CocoaError, match=r"'000\.png' is .* mine them apart") as caught:
        mine(model, tmp_path / "sets", tmp_path / "out", split="train")
    assert caught.value.code == "E_DATA_PATH"
    assert not (tmp_path / "out").exists()


# Bad rows.


def test_bad_rows_are_left_out_and_listed_up_to_the_rate(model, scenes, tmp_path):
    train = scenes(tmp_path / "set", 20)
    (train / "images" / "003.png").write_bytes(b"no picture")
    Image.new("RGB", (900, 3)).save(train / "images" / "007.png")
    with pytest.raises(CocoaError) as caught:
        mine(model, train, tmp_path / "out", window=ALL)
    assert caught.value.code == "E_IMAGE_OPEN"
    assert "i2t.parquet:4" in str(caught.value)
    with pytest.raises(CocoaError) as caught:
        mine(model, train, tmp_path / "out", window=ALL, max_bad_rate=0.099)
    assert caught.value.code == "E_DATA_BAD_ROWS"
    summary = mine(model, train, tmp_path / "out", window=ALL, max_bad_rate=0.1)
    assert summary.bad == {"E_IMAGE_OPEN": 2, "E_IMAGE_RATIO": 2}
    listed = [json.loads(line) for line in (tmp_path / "out" / "job" / "bad_rows.jsonl").read_text().splitlines()]
    assert [row["where"].rpartition("/")[2] for row in listed] == [
        "i2t.parquet:4",
        "i2t.parquet:8",
        "t2i.parquet:4",
        "t2i.parquet:8",
    ]
    found = MmebTrain(tmp_path / "out")
    assert found.groups == (18, 18)
    assert not [
        image
        for number in range(len(found))
        for negative in found[number].negatives
        for image in negative.images
        if Path(str(image)).name in ("003.png", "007.png")
    ]


def test_a_damaged_member_of_an_archive_is_a_bad_row_and_is_not_copied(model, scenes, tmp_path):
    train = scenes(tmp_path / "set", 6, tables=("t2i",))
    with zipfile.ZipFile(train / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((train / "images").iterdir()):
            archive.write(path, path.name)
    shutil.rmtree(train / "images")
    spoil_member(train / "images.zip", "003.png")
    for copy_images in (False, True):
        out = tmp_path / f"out-{copy_images}"
        summary = mine(model, train, out, window=ALL, max_bad_rate=0.5, copy_images=copy_images)
        assert summary.bad == {"E_IMAGE_OPEN": 1}
        assert len(mined_rows(out)) == 5


def test_a_table_without_a_good_row_is_an_error(model, scenes, tmp_path):
    train = scenes(tmp_path / "set", 2, tables=("i2t",))
    for path in (train / "images").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(CocoaError, match=r"no row of the table can be used"):
        mine(model, train, tmp_path / "out", max_bad_rate=1.0)


def test_a_lonely_target_has_no_negatives(model, write_table, text_rows, tmp_path):
    write_table(tmp_path / "set" / "t.jsonl", text_rows([("a", "yes"), ("b", "yes")]))
    summary = mine(model, tmp_path / "set", tmp_path / "out", window=ALL)
    assert (summary.mined, summary.short_rows, summary.not_first) == (0, 2, 0.0)
    assert [len(pair.negatives) for pair in MmebTrain(tmp_path / "out")] == [0, 0]


# The folder of a job.


@pytest.fixture
def calls(monkeypatch):
    """Counts what is embedded, by content."""
    counted: Counter[int] = Counter()
    plain = EmbeddingModel.embed_all

    def embed_all(model, samples):
        counted.update(content_key(sample) for sample in samples)
        return plain(model, samples)

    monkeypatch.setattr(EmbeddingModel, "embed_all", embed_all)
    return counted


def test_a_finished_job_does_nothing_and_a_damaged_table_is_written_again(model, scenes, tmp_path, calls, contents):
    train, out, said = scenes(tmp_path / "set", 8), tmp_path / "out", []
    first = mine(model, train, out, shard_size=5)
    assert set(calls.values()) == {1}
    calls.clear()
    whole, times = contents(out), {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert mine(model, train, out, shard_size=5, say=said.append) == first
    assert said == ["finished before: nothing was computed"]
    (out / "train" / "i2t.parquet").write_bytes(b"")
    assert mine(model, train, out, shard_size=5) == first
    assert contents(out) == whole
    assert (out / "train" / "t2i.parquet").stat().st_mtime_ns == times[out / "train" / "t2i.parquet"]
    assert not calls


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"window": Window(negatives=2)}, "negatives is 2, was 7"),
        ({"window": Window(max_score=0.5, seed=4)}, "max_score is 0.5, was None; seed is 4, was 0"),
        ({"pool": "all"}, "pool is 'all', was 'table'"),
        ({"keep": False}, "keep is False, was True"),
        ({"limit": 3}, "tables i2t, t2i are changed"),
    ],
)
def test_another_job_in_the_same_folder_is_refused_with_the_difference(model, scenes, tmp_path, options, said):
    train = scenes(tmp_path / "set", 4)
    mine(model, train, tmp_path / "out")
    with pytest.raises(CocoaError, match="the folder is of another job") as caught:
        mine(model, train, tmp_path / "out", **options)
    assert said in str(caught.value)
    assert caught.value.code == "E_USAGE_OUT"


def test_another_model_or_other_pictures_are_another_job(model, tiny, scenes, tmp_path):
    train = scenes(tmp_path / "set", 4)
    mine(model, train, tmp_path / "out")
    EmbeddingModel(tiny(), layout="causal", max_tokens=64).save(tmp_path / "other")
    with pytest.raises(CocoaError, match="model is"):
        mine(tmp_path / "other", train, tmp_path / "out")
    shutil.copy(train / "images" / "001.png", train / "images" / "002.png")
    with pytest.raises(CocoaError, match=r"tables i2t, t2i are changed \(rows or pictures\)"):
        mine(model, train, tmp_path / "out")


def test_a_picture_that_leaves_no_room_for_all_bridge_tokens_is_a_bad_row(tiny, scenes, tmp_path):
    train = scenes(tmp_path / "set", 4)
    Image.new("RGB", (200, 200)).save(train / "images" / "002.png")
    backbone = tiny()
    size = len(backbone.encode(Sample("", (train / "images" / "002.png",))))
    EmbeddingModel(backbone, max_tokens=size + 1, pooling=Pooling(tokens=2)).save(tmp_path / "model")
    mine(tmp_path / "model", train, tmp_path / "out", max_bad_rate=0.9)
    bad = [json.loads(line) for line in (tmp_path / "out" / "job" / "bad_rows.jsonl").read_text().splitlines()]
    assert {row["code"] for row in bad} == {"E_DATA_TOO_LONG"}


def test_drafts_of_others_in_a_folder_of_vectors_are_left_alone(model, scenes, tmp_path):
    (tmp_path / "runs" / ".index.a1b2.draft").mkdir(parents=True)
    (tmp_path / "runs" / ".0123.npz.a1b2.draft").write_text("half")
    mine(model, scenes(tmp_path / "set", 4), tmp_path / "out", vectors=tmp_path / "runs")
    assert [path.name for path in (tmp_path / "runs").glob(".*")] == [".index.a1b2.draft"]


def test_jobs_with_other_windows_may_share_vectors(model, tiny, scenes, tmp_path, calls):
    train, vectors = scenes(tmp_path / "set", 8), tmp_path / "vectors"
    for number in range(1, 4):
        mine(model, train, tmp_path / f"out{number}", window=Window(negatives=number), vectors=vectors)
    assert set(calls.values()) == {1}
    shutil.copy(train / "images" / "001.png", train / "images" / "002.png")
    mine(model, train, tmp_path / "changed", vectors=vectors)
    assert max(calls.values()) == 2
    calls.clear()
    EmbeddingModel(tiny(), layout="causal", max_tokens=64).save(tmp_path / "other")
    mine(tmp_path / "other", train, tmp_path / "other-model", vectors=vectors)
    assert set(calls.values()) == {1}


def test_a_damaged_shard_is_named(model, scenes, tmp_path):
    train = scenes(tmp_path / "set", 4)
    mine(model, train, tmp_path / "out")
    (tmp_path / "out" / "mining.json").unlink()
    [shard] = (tmp_path / "out" / "job" / "vectors").glob("*.npz")
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(CocoaError, match="remove it to compute it again") as caught:
        mine(model, train, tmp_path / "out")
    assert caught.value.where == str(shard)


def test_a_folder_of_something_else_is_left_alone(model, scenes, tmp_path):
    train = scenes(tmp_path / "set", 2)
    with pytest.raises(CocoaError, match="not of a mining job"):
        mine(model, train, train)
    with pytest.raises(CocoaError, match="not a model folder"):
        mine(train, train, tmp_path / "out")
    (tmp_path / "out" / "job").mkdir(parents=True)
    with (tmp_path / "out" / "job" / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CocoaError, match="another process is at work"):
            mine(model, train, tmp_path / "out")


def test_a_vector_that_is_not_finite_is_an_error_that_names_the_row(model, scenes, tmp_path, monkeypatch):
    train = scenes(tmp_path / "set", 2)
    plain = EmbeddingModel.embed_all
    monkeypatch.setattr(EmbeddingModel, "embed_all", lambda *given: plain(*given) * float("nan"))
    with pytest.raises(CocoaError, match=r"i2t\.parquet:1: the vector is not finite") as caught:
        mine(model, train, tmp_path / "out")
    assert caught.value.code == "E_MODEL_OUTPUT"


def test_progress_counts_every_sample_once(model, scenes, tmp_path):
    told = []
    mine(model, scenes(tmp_path / "set", 9), tmp_path / "out", shard_size=4, on_progress=lambda *at: told.append(at))
    done = [one for one, _ in told]
    assert done == sorted(done)
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1]
