"""Bad rows are left out where a policy allows it, listed with file, row and code, and too many are an error."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cocoa.data import tables
from cocoa.data.bad_rows import BadRow, BadRows, fail
from cocoa.data.image_text_pairs import ImageTextPairs
from cocoa.data.mmeb_train import MmebTrain
from cocoa.data.sources import ImageTextPairsSource, MmebTrainSource, Pairs, ScenePairsSource
from cocoa.errors import CocoaError, DataError
from cocoa.sample import IMAGE_PLACEHOLDER

TRAIN = {"qry": "q", "qry_image_path": "", "pos_text": "p", "pos_image_path": ""}


def spell(row: object) -> bytes:
    return json.dumps(row).encode()


BAD_TRAIN = [
    (b'{"qry": ', "E_DATA_READ"),
    (b"[1, 2]", "E_DATA_READ"),
    (b'{"qry": "\xff"}', "E_DATA_READ"),
    (b'{"qry": ' + b"1" * 5000 + b"}", "E_DATA_READ"),
    (b'{"qry": "' + b"x" * 10_000_000 + b'"}', "E_DATA_LINE_TOO_LONG"),
    (spell({"qry": "q"}), "E_DATA_COLUMN"),
    (spell(TRAIN | {"qry": 1}), "E_DATA_TYPE"),
    (spell(TRAIN | {"qry": "\ud83d"}), "E_DATA_TYPE"),
    (spell(TRAIN | {"neg_text": "['n', 'm']"}), "E_DATA_TYPE"),
    (spell(TRAIN | {"pos_text": " "}), "E_DATA_EMPTY"),
    (spell(TRAIN | {"qry_image_path": "no.png"}), "E_IMAGE_MISSING"),
    (spell(TRAIN | {"qry_image_path": "n" * 5000}), "E_IMAGE_MISSING"),
    (spell(TRAIN | {"qry_image_path": "../a.png"}), "E_DATA_PATH"),
    (spell(TRAIN | {"neg_text": ["n", "m"], "neg_image_path": ["a.png"]}), "E_DATA_LENGTH"),
    (spell(TRAIN | {"qry": IMAGE_PLACEHOLDER * 2, "qry_image_path": "a.png"}), "E_DATA_PLACEHOLDER"),
]

BAD_PAIRS = [
    ({"image_path": "a.png", "text": 3}, "E_DATA_TYPE"),
    ({"image_path": ["a.png"], "text": "x"}, "E_DATA_TYPE"),
    ({"image_path": "", "text": "x"}, "E_DATA_EMPTY"),
    ({"image_path": "a.png", "text": None}, "E_DATA_EMPTY"),
    ({"image_path": "a.png", "text": IMAGE_PLACEHOLDER}, "E_DATA_EMPTY"),
    ({"image_path": "a.png"}, "E_DATA_COLUMN"),
    ({"text": "x"}, "E_DATA_COLUMN"),
    ({"image_path": "no.png", "text": "x"}, "E_IMAGE_MISSING"),
    ({"image_path": "/a.png", "text": "x"}, "E_DATA_PATH"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    return tmp_path


def write_lines(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def queries(pairs: Pairs) -> list[str]:
    return [pairs[index].query.text for index in range(len(pairs))]


def targets(pairs: Pairs) -> list[str]:
    return [pairs[index].target.text for index in range(len(pairs))]


def told(bad: BadRows) -> list[tuple[str, str]]:
    return [(row.where, row.code) for row in bad.rows]


def interleave(good: list[bytes], bad: list[bytes]) -> list[bytes]:
    """Returns good rows at lines 1, 3, 5, ... and bad ones at lines 2, 4, 6, ..., and a last good one."""
    return [line for both in zip(good, bad, strict=False) for line in both] + good[len(bad) :]


def test_bad_train_rows_are_left_out_and_listed(folder: Path) -> None:
    good = [spell(TRAIN | {"qry": f"q{number}"}) for number in range(len(BAD_TRAIN) + 1)]
    table = write_lines(folder / "t.jsonl", interleave(good, [line for line, _ in BAD_TRAIN]))
    bad = BadRows(1.0)
    pairs = MmebTrain(table, on_bad=bad.note)
    assert told(bad) == [(f"{table}:{2 * number}", code) for number, (_, code) in enumerate(BAD_TRAIN, 1)]
    assert queries(pairs) == [f"q{number}" for number in range(len(good))]
    assert [pairs[index].query.where for index in range(3)] == [f"{table}:{line}" for line in (1, 3, 5)]
    assert len(pairs) + len(bad.rows) == len(good) + len(BAD_TRAIN)
    assert pairs.groups == (len(good),)
    assert max(len(row.message) for row in bad.rows) <= 500

    alone = MmebTrain(write_lines(folder / "good.jsonl", good))
    assert queries(alone) == queries(pairs) and targets(alone) == targets(pairs)


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_bad_pairs_are_left_out_and_listed(folder: Path, suffix: str) -> None:
    good = [{"image_path": "a.png", "text": f"t{number}"} for number in range(len(BAD_PAIRS) + 1)]
    lines = interleave([spell(row) for row in good], [spell(row) for row, _ in BAD_PAIRS])
    table = folder / f"t.{suffix}"
    table.write_bytes(b"\n".join(lines) if suffix == "jsonl" else b"[" + b",".join(lines) + b"]")
    bad = BadRows(1.0)
    pairs = ImageTextPairs(table, on_bad=bad.note)
    assert told(bad) == [(f"{table}:{2 * number}", code) for number, (_, code) in enumerate(BAD_PAIRS, 1)]
    assert targets(pairs) == [row["text"] for row in good]


def test_bad_parquet_rows_are_left_out_and_listed(folder: Path) -> None:
    names = ["a.png", "no.png", "a.png", None, "a.png"]
    texts = ["t0", "t1", "t2", "t3", " "]
    table = folder / "t.parquet"
    pq.write_table(pa.table({"image_path": names, "caption": texts}), table)
    bad = BadRows(1.0)
    assert targets(ImageTextPairs(table, on_bad=bad.note)) == ["t0", "t2"]
    expected = [(2, "E_IMAGE_MISSING"), (4, "E_DATA_EMPTY"), (5, "E_DATA_EMPTY")]
    assert told(bad) == [(f"{table}:{row}", code) for row, code in expected]


def test_by_default_the_first_bad_row_is_an_error(folder: Path) -> None:
    table = write_lines(folder / "t.jsonl", [spell(TRAIN), b"{", spell(TRAIN | {"qry": ""})])
    for policy in ({}, {"on_bad": fail}, {"on_bad": BadRows(None).note}):
        with pytest.raises(DataError) as caught:
            MmebTrain(table, **policy)  # type: ignore[arg-type]
        assert (caught.value.code, caught.value.where) == ("E_DATA_READ", f"{table}:2")


def test_a_row_is_named_by_its_line_in_the_file(folder: Path) -> None:
    table = write_lines(folder / "t.jsonl", [b"", spell(TRAIN), b"  ", spell(TRAIN | {"qry": ""})])
    bad = BadRows(1.0)
    assert MmebTrain(table, on_bad=bad.note)[0].query.where == f"{table}:2"
    assert told(bad) == [(f"{table}:4", "E_DATA_EMPTY")]


def test_a_limit_counts_good_rows_and_looks_no_further(folder: Path) -> None:
    rows: list[Any] = [{"image_path": "a.png", "text": text} for text in ("t0", "", "t2", "", "t4", "")]
    table = write_lines(folder / "t.jsonl", [*(spell(row) for row in rows), b"{"])
    for limit, texts, lines in ((1, ["t0"], []), (2, ["t0", "t2"], [2]), (9, ["t0", "t2", "t4"], [2, 4, 6, 7])):
        bad = BadRows(1.0)
        assert targets(ImageTextPairs(table, limit=limit, on_bad=bad.note)) == texts
        assert [row.where for row in bad.rows] == [f"{table}:{line}" for line in lines]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("no.jsonl", None, "E_DATA_FILE"),
        ("t.json", b"{", "E_DATA_READ"),
        ("t.json", b"{}", "E_DATA_READ"),
        ("t.parquet", b"PAR1", "E_DATA_READ"),
        ("t.jsonl", b"", "E_DATA_EMPTY"),
        ("t.jsonl", b"a,b\n1,2\n", "E_DATA_EMPTY"),
        ("t.jsonl", b'{"a": 1}\n{"a": 2}\n', "E_DATA_COLUMN"),
        ("t.jsonl", b'{"image_path": "a.png"}\n', "E_DATA_COLUMN"),
        ("t.json", b'[{"a": 1}]', "E_DATA_COLUMN"),
    ],
)
def test_a_bad_file_is_an_error_under_any_policy(folder: Path, name: str, content: bytes | None, code: str) -> None:
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        ImageTextPairs(folder / name, on_bad=BadRows(1.0).note)
    assert (caught.value.code, caught.value.where) == (code, str(folder / name))


def test_a_parquet_table_without_a_column_is_an_error_under_any_policy(folder: Path) -> None:
    for column in ("text", "image_path"):
        table = folder / f"{column}.parquet"
        pq.write_table(pa.table({column: ["a.png"]}), table)
        with pytest.raises(DataError) as caught:
            ImageTextPairs(table, on_bad=BadRows(1.0).note)
        assert (caught.value.code, caught.value.where) == ("E_DATA_COLUMN", str(table))


def test_a_table_of_bad_rows_alone_is_an_error_that_says_the_first(folder: Path) -> None:
    table = write_lines(folder / "t.jsonl", [spell(TRAIN | {"qry": ""}), spell(TRAIN | {"qry": 1})])
    write_lines(folder / "u.jsonl", [spell(TRAIN)])
    bad = BadRows(1.0)
    with pytest.raises(DataError) as caught:
        MmebTrain(folder, on_bad=bad.note)
    assert (caught.value.code, caught.value.where) == ("E_DATA_EMPTY", str(table))
    assert f"{table}:1: neither text nor image [E_DATA_EMPTY]" in caught.value.message
    assert len(bad.rows) == 2


def test_a_long_line_is_passed_over_without_holding_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = 1000
    monkeypatch.setattr(tables, "_LONGEST_LINE", longest)
    row = spell(TRAIN)
    exact = row + b" " * (longest - len(row))
    table = write_lines(folder / "t.jsonl", [exact, b"x" * 20_000_000, exact + b" ", b"x" * 3 * longest, row])
    bad = BadRows(1.0)
    tracemalloc.start()
    pairs = MmebTrain(table, on_bad=bad.note)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000
    assert [pairs[index].query.where for index in range(len(pairs))] == [f"{table}:1", f"{table}:5"]
    assert told(bad) == [(f"{table}:{line}", "E_DATA_LINE_TOO_LONG") for line in (2, 3, 4)]


def test_a_long_last_line_without_an_end_is_a_bad_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_LONGEST_LINE", 1000)
    for length in (1001, 1002, 2001, 5000):
        table = folder / "t.jsonl"
        table.write_bytes(spell(TRAIN) + b"\n" + b"x" * length)
        bad = BadRows(1.0)
        assert len(MmebTrain(table, on_bad=bad.note)) == 1
        assert told(bad) == [(f"{table}:2", "E_DATA_LINE_TOO_LONG")]


def test_sources_pass_the_policy_on(folder: Path) -> None:
    train = write_lines(folder / "t.jsonl", [spell(TRAIN), b"{"])
    captions = write_lines(folder / "p.jsonl", [b"{", spell({"image_path": "a.png", "text": "x"})])
    sources = (MmebTrainSource(path=train), ImageTextPairsSource(path=captions), ScenePairsSource(num_pairs=3))
    bad = BadRows(0.5)
    assert [len(source.build(bad.note)) for source in sources] == [1, 1, 3]
    assert told(bad) == [(f"{train}:2", "E_DATA_READ"), (f"{captions}:1", "E_DATA_READ")]
    for source in sources[:2]:
        with pytest.raises(CocoaError, match="E_DATA_READ"):
            source.build()


@pytest.mark.parametrize(
    ("max_rate", "bad", "total"),
    [(0.0, 0, 0), (0.0, 0, 10), (0.29, 29, 100), (0.07, 7, 100), (0.001, 3, 3000), (0.5, 1, 2), (0.5, 1, 3)],
)
def test_bad_rows_up_to_the_rate_pass_and_one_more_does_not(max_rate: float, bad: int, total: int) -> None:
    rows = BadRows(max_rate)
    for number in range(bad):
        rows.note(DataError("E_DATA_EMPTY", "the text is empty", where=f"t:{number}"))
    rows.check(total)
    rows.note(DataError("E_DATA_EMPTY", "the text is empty", where="t:9"))
    with pytest.raises(DataError) as caught:
        rows.check(max(total, 1))
    assert caught.value.code == "E_DATA_BAD_ROWS"


def test_too_many_bad_rows_are_told_with_counts_rate_and_the_first_three() -> None:
    rows = BadRows(0.01)
    for number in range(1, 6):
        rows.note(DataError("E_DATA_EMPTY", "the text is empty", where=f"t.jsonl:{number}"))
    with pytest.raises(DataError, match=r"5 of 200 rows are bad, 2.500% where 1.000% are allowed") as caught:
        rows.check(200)
    told = [f"t.jsonl:{number}: the text is empty [E_DATA_EMPTY]" in caught.value.message for number in range(1, 6)]
    assert told == [True, True, True, False, False]


def test_a_bad_row_says_its_place_code_and_message() -> None:
    row = BadRow.of(DataError("E_DATA_TYPE", "expected a string"), "t.jsonl:3")
    assert row.to_json() == {"where": "t.jsonl:3", "code": "E_DATA_TYPE", "message": "expected a string"}
    assert str(row) == "t.jsonl:3: expected a string [E_DATA_TYPE]"
