"""Whatever form an input has, each of its rows becomes a vector or a bad row that is named; none kills the job."""

from __future__ import annotations

import io
import json
import os
import resource
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedding import CONTEXT, bad_rows, save_model, texts, write_jsonl, write_tar

from bad_inputs import of_kind
from cocoa.corpus.embeddings import Embeddings
from cocoa.corpus.inputs import Input
from cocoa.corpus.job import embed_corpus
from cocoa.corpus.sources.parquet import ParquetReader
from cocoa.corpus.sources.source import LONGEST_ROW
from cocoa.corpus.tally import RowTally
from cocoa.embedder import Embedder
from cocoa.errors import CocoaError
from cocoa.model import EmbeddingModel
from cocoa.pooling import Pooling
from cocoa.sample import Sample
from making import make_picture


@pytest.fixture(scope="module")
def embedder(tmp_path_factory, tiny) -> Embedder:
    return Embedder.load(save_model(tiny(), tmp_path_factory.mktemp("model") / "model"))


def encoded(seed: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    make_picture(40, 50, seed).save(stream, kind)
    return stream.getvalue()


def ids(embeddings: Embeddings) -> list[str]:
    return embeddings.table()["id"].to_pylist()


def bad(out: Path) -> set[tuple[str, str]]:
    return {(row["id"], row["code"]) for row in bad_rows(out)}


def refused(embedder: Embedder, source: object, out: Path) -> CocoaError:
    with pytest.raises(CocoaError) as caught:
        embed_corpus(embedder, str(source), out)
    return caught.value


def test_every_kind_of_input_gives_the_vectors_of_the_library(embedder, tmp_path):
    pictures = [encoded(number) for number in range(3)]
    words = ["an owl", "", "a dog"]
    items = [{"text": text, "image": picture} for text, picture in zip(words, pictures, strict=True)]
    expected = embedder.encode_document(items)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, picture in enumerate(pictures):
        (folder / f"{number}.png").write_bytes(picture)
    rows = [{"id": str(n), "text": words[n] or None, "image": f"pictures/{n}.png"} for n in range(3)]
    inside = [{"id": str(n), "text": words[n], "image": {"bytes": pictures[n], "path": f"{n}.png"}} for n in range(3)]
    raw = [{"id": n, "text": words[n], "image": pictures[n]} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "paths.parquet")
    pq.write_table(pa.Table.from_pylist(inside), tmp_path / "structs.parquet")
    pq.write_table(pa.Table.from_pylist(raw), tmp_path / "bytes.parquet", row_group_size=2)
    members = [
        (f"{n}.{kind}", value) for n in range(3) for kind, value in (("png", pictures[n]), ("txt", words[n].encode()))
    ]
    sources = [
        write_jsonl(tmp_path / "rows.jsonl", rows),
        *(tmp_path / f"{name}.parquet" for name in ("paths", "structs", "bytes")),
        write_tar(tmp_path / "rows.tar", members),
    ]
    for source in sources:
        embeddings = embed_corpus(embedder, source, tmp_path / f"out-{source.name}", shard_rows=2)
        assert ids(embeddings) == ["0", "1", "2"]
        assert embeddings.table()["text"].to_pylist() == words
        np.testing.assert_allclose(embeddings.vectors(), expected, atol=1e-5)
    # All in one shard the batches are those of the library, and so is every bit.
    whole = embed_corpus(embedder, sources[0], tmp_path / "whole")
    np.testing.assert_array_equal(whole.vectors(), expected)
    assert whole.table()["image"].to_pylist() == [str(folder / f"{n}.png") for n in range(3)]
    alone = embed_corpus(embedder, folder, tmp_path / "alone")
    assert ids(alone) == ["0.png", "1.png", "2.png"]
    np.testing.assert_array_equal(alone.vectors(), embedder.encode_document([{"image": one} for one in pictures]))


def test_columns_of_one_kind_are_kept_and_the_others_are_told(embedder, tmp_path):
    rows = [
        {"id": "a", "text": "x", "price": 1, "brand": "A", "sold": True, "tags": ["no"], "odd": 1, "vector": [1]},
        {"id": "b", "text": "y", "price": 2.5, "brand": None, "sold": False, "odd": "two"},
    ]
    embeddings = embed_corpus(embedder, write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out")
    assert embeddings.columns == {"brand": "string", "price": "float", "sold": "bool"}
    kept = embeddings.table().select(["price", "brand", "sold"]).to_pylist()
    assert kept == [{"price": 1.0, "brand": "A", "sold": True}, {"price": 2.5, "brand": None, "sold": False}]
    notes = " ".join(embeddings.card["input"]["notes"])
    assert "'tags' is not kept" in notes and "int in" in notes and "rows.jsonl:2" in notes
    (tmp_path / "tables").mkdir()
    pq.write_table(pa.table({"text": ["x"], "n": pa.array([1], pa.int8())}), tmp_path / "tables" / "1.parquet")
    pq.write_table(pa.table({"text": ["y"], "n": [2.5], "w": [[1]]}), tmp_path / "tables" / "2.parquet")
    embeddings = embed_corpus(embedder, tmp_path / "tables", tmp_path / "mixed")
    assert embeddings.columns == {"n": "float"}
    # Rows without ids of their own have their file and number.
    assert ids(embeddings) == ["1.parquet:1", "2.parquet:1"]
    assert embeddings.table()["n"].to_pylist() == [1.0, 2.5]


def test_a_column_means_the_same_however_arrow_keeps_it(embedder, tmp_path):
    picture = encoded(0)
    words = pa.array(["an owl", "a dog", "an owl"]).dictionary_encode()
    held = {"id": pa.array(["x", "y", "z"]).dictionary_encode(), "text": words, "kind": words}
    pq.write_table(pa.table(held), tmp_path / "categories.parquet")
    embeddings = embed_corpus(embedder, tmp_path / "categories.parquet", tmp_path / "categories")
    assert ids(embeddings) == ["x", "y", "z"]
    assert embeddings.columns == {"kind": "string"}
    assert embeddings.table()["kind"].to_pylist() == embeddings.table()["text"].to_pylist() == words.to_pylist()
    kinds = [
        (pa.large_binary(), pa.large_string()),
        (pa.binary_view(), pa.string_view()),
        (pa.binary(), pa.null()),
    ]
    expected = embedder.encode_document([{"image": picture}])
    for number, (content, path) in enumerate(kinds):
        fields = {"path": pa.array([None], path), "bytes": pa.array([picture], content)}
        structs = pa.StructArray.from_arrays(list(fields.values()), list(fields))
        for name, column in (("struct", structs), ("plain", fields["bytes"])):
            file = tmp_path / f"{name}{number}.parquet"
            pq.write_table(pa.table({"image": column}), file)
            np.testing.assert_array_equal(embed_corpus(embedder, file, tmp_path / file.stem).vectors(), expected)


def test_a_file_without_a_value_of_a_column_or_without_the_columns_costs_nothing_but_itself(embedder, tmp_path):
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"text": ["a"], "kind": pa.nulls(1)}), tmp_path / "in" / "1.parquet")
    pq.write_table(pa.table({"text": ["b"], "kind": ["owl"]}), tmp_path / "in" / "2.parquet")
    pq.write_table(pa.table({"tags": [["c"], ["d"]]}), tmp_path / "in" / "3.parquet")
    embeddings = embed_corpus(embedder, tmp_path / "in", tmp_path / "out")
    assert embeddings.columns == {"kind": "string"}
    assert embeddings.table()["kind"].to_pylist() == [None, "owl"]
    assert bad(tmp_path / "out") == {("3.parquet:1", "E_DATA_EMPTY"), ("3.parquet:2", "E_DATA_EMPTY")}


def test_a_column_named_as_a_field_of_another_is_read_alone(embedder, tmp_path):
    table = pa.table({"text": ["a", "b"], "user": [{"name": 1}, {"name": 2}], "user.name": ["x", "y"]})
    pq.write_table(table, tmp_path / "rows.parquet")
    embeddings = embed_corpus(embedder, tmp_path / "rows.parquet", tmp_path / "out")
    assert embeddings.table()["user.name"].to_pylist() == ["x", "y"]


def test_a_column_of_numbers_that_no_index_holds_is_left_out_and_costs_no_row(embedder, tmp_path):
    largest = [1, 2**64 - 1]
    table = pa.table({"id": pa.array(largest, pa.uint64()), "text": ["a", "b"], "hash": pa.array(largest, pa.uint64())})
    pq.write_table(table, tmp_path / "rows.parquet")
    lines = write_jsonl(tmp_path / "rows.jsonl", [{"id": n, "text": "a", "hash": n} for n in largest])
    for source in (tmp_path / "rows.parquet", lines):
        embeddings = embed_corpus(embedder, source, tmp_path / source.suffix)
        assert ids(embeddings) == ["1", str(2**64 - 1)]
        [note] = embeddings.card["input"]["notes"]
        assert "'hash' is not kept" in note and "2^63 - 1" in note


def test_a_picture_inside_a_table_has_no_place_whatever_the_table_calls_it(embedder, tmp_path):
    pictures = [{"bytes": encoded(n), "path": f"{n}.png"} for n in range(2)]
    pq.write_table(pa.table({"image": pictures, "place": [5, 6]}), tmp_path / "rows.parquet")
    embeddings = embed_corpus(embedder, tmp_path / "rows.parquet", tmp_path / "out")
    assert embeddings.table()["image"].to_pylist() == ["", ""]


def test_columns_that_are_named_as_for_training_are_told_rather_than_left_out_in_silence(embedder, tmp_path):
    rows = [{"image_path": "a.png", "text": "an owl", "caption": "a bird"}]
    embeddings = embed_corpus(embedder, write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out")
    [note] = embeddings.card["input"]["notes"]
    assert "'image_path' is kept but not embedded" in note and "'image'" in note
    pq.write_table(pa.table({"image_path": ["a.png"], "caption": ["a bird"]}), tmp_path / "rows.parquet")
    error = refused(embedder, tmp_path / "rows.parquet", tmp_path / "none")
    assert error.code == "E_DATA_COLUMN" and "'image_path'" in error.message and "'caption'" in error.message


def test_columns_that_cannot_keep_their_name_or_are_called_otherwise_here_are_told(embedder, tmp_path):
    rows = [{"file_name": "a.png", "text": "an owl", "vector": 5}]
    embeddings = embed_corpus(embedder, write_jsonl(tmp_path / "metadata.jsonl", rows), tmp_path / "out")
    taken, misnamed = embeddings.card["input"]["notes"]
    assert "'vector' is not kept" in taken
    assert "'file_name' is kept but not embedded" in misnamed and "'image'" in misnamed


def test_a_line_that_cannot_be_read_says_so_and_not_that_its_id_is_missing(embedder, tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [b'{"id": "a", "text": "an owl"}', b"", b"[1]", b'{"id": ', b'{"id": "a\\u0000", "text": "x"}', b""]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    assert ids(embed_corpus(embedder, path, tmp_path / "out")) == ["a"]
    told = [(row["where"].rpartition(":")[2], row["code"], row["message"]) for row in bad_rows(tmp_path / "out")]
    assert told[:2] == [
        ("3", "E_DATA_READ", "the row is not an object"),
        ("4", "E_DATA_READ", "the line is not valid JSON"),
    ]
    assert told[2][:2] == ("5", "E_DATA_ID") and "NUL" in told[2][2]
    path.write_bytes('{"text": "an owl"}\n'.encode("utf-16"))
    error = refused(embedder, path, tmp_path / "none")
    assert error.code == "E_DATA_EMPTY" and "not UTF-8" in error.message


def test_ids_are_strings_or_whole_numbers_and_each_stands_once_in_all_files(embedder, tmp_path):
    write_jsonl(tmp_path / "in" / "a.jsonl", [{"id": 7, "text": "a"}, {"id": "x", "text": "b"}, {"text": "c"}])
    odd = [None, True, 1.5, ["a"], "", "e" * 1025, "a\ud800", 2**70]
    rows = [{"id": "7", "text": "d"}, {"id": "x", "text": "e"}, {"id": "y", "text": "f"}]
    write_jsonl(tmp_path / "in" / "b.jsonl", [*rows, *({"id": value, "text": "g"} for value in odd)])
    embeddings = embed_corpus(embedder, tmp_path / "in", tmp_path / "out", shard_rows=2)
    assert ids(embeddings) == ["7", "x", "y"]
    told = bad_rows(tmp_path / "out")
    assert {row["code"] for row in told} == {"E_DATA_ID"}
    assert len(told) == 3 + len(odd)
    assert [row["id"] for row in told[1:3]] == ["7", "x"]
    assert "a.jsonl:1" in told[1]["message"]


def test_a_tar_is_read_row_by_row_and_what_is_odd_in_it_is_a_bad_row(embedder, tmp_path):
    picture = encoded(1, "JPEG")
    members = [
        ("a/1.jpg", picture),
        ("a/1.json", b'{"price": 3, "id": "not this"}'),
        ("a/2.txt", b"an owl"),
        ("a/2.cls", b"7"),
        ("two.jpg", picture),
        ("two.png", encoded(2)),
        ("../out.txt", b"x"),
        ("/abs.txt", b"x"),
        ("nothing.cls", b"1"),
        ("bad.txt", b"\xff"),
        ("deep.json", b"[" * 100_000),
        ("cut.jpg", picture[:-100]),
        ("a/2.txt", b"again"),
    ]
    embeddings = embed_corpus(embedder, write_tar(tmp_path / "t.tar", members), tmp_path / "out", shard_rows=3)
    assert ids(embeddings) == ["a/1", "a/2"]
    assert embeddings.table()["price"].to_pylist() == [3, None]
    assert embeddings.table()["image"].to_pylist() == [f"{tmp_path}/t.tar!a/1.jpg", ""]
    assert bad(tmp_path / "out") == {
        ("two", "E_DATA_READ"),
        ("../out", "E_DATA_PATH"),
        ("/abs", "E_DATA_PATH"),
        ("nothing", "E_DATA_EMPTY"),
        ("bad", "E_DATA_READ"),
        ("deep", "E_DATA_READ"),
        ("cut", "E_IMAGE_TRUNCATED"),
        ("a/2", "E_DATA_ID"),
    }
    assert {path.name for path in tmp_path.iterdir()} == {"t.tar", "out"}


def test_a_damaged_tar_is_an_error_and_not_a_short_one(embedder, tmp_path):
    path = write_tar(tmp_path / "t.tar", [(f"{n}.txt", b"an owl") for n in range(5)])
    whole = bytearray(path.read_bytes())
    whole[2 * 1024 + 150] ^= 0xFF
    path.write_bytes(whole)
    assert refused(embedder, path, tmp_path / "a").code == "E_DATA_READ"
    path.write_bytes(whole[: 2 * 1024 + 515])
    assert refused(embedder, path, tmp_path / "b").code == "E_DATA_READ"


def test_what_macos_puts_beside_the_members_of_a_tar_is_left_out(embedder, tmp_path):
    members = [("._0.jpg", b"x"), ("0.jpg", encoded(0)), ("._0.txt", b"x"), ("0.txt", b"an owl"), (".DS_Store", b"x")]
    embeddings = embed_corpus(embedder, write_tar(tmp_path / "t.tar", members), tmp_path / "out")
    assert embeddings.table().select(["id", "text", "image"]).to_pylist() == [
        {"id": "0", "text": "an owl", "image": f"{tmp_path}/t.tar!0.jpg"}
    ]
    assert not bad_rows(tmp_path / "out")


def test_a_column_of_a_tar_may_have_any_name(embedder, tmp_path):
    members = [("0.jpg", encoded(0)), ("0.json", b'{"image_place": 5, "place": 6}')]
    embeddings = embed_corpus(embedder, write_tar(tmp_path / "t.tar", members), tmp_path / "out")
    assert embeddings.table().select(["image_place", "place"]).to_pylist() == [{"image_place": 5, "place": 6}]


def test_a_tar_that_ends_before_its_end_or_goes_on_behind_it_is_an_error(embedder, tmp_path):
    one, other = (write_tar(tmp_path / f"{n}.tar", [(f"{n}.txt", b"an owl")]) for n in range(2))
    (tmp_path / "joined.tar").write_bytes(one.read_bytes() + other.read_bytes())
    (tmp_path / "cut.tar").write_bytes(one.read_bytes()[:1024])  # All of its one member, and nothing behind it.
    for name, said in (("joined", "another tar"), ("cut", "no end")):
        error = refused(embedder, tmp_path / f"{name}.tar", tmp_path / name)
        assert error.code == "E_DATA_READ" and said in error.message


def test_a_link_to_a_file_is_the_file_by_the_name_and_in_the_place_of_the_link(embedder, tmp_path):
    kept = tmp_path / "blobs" / "0a1b2c"
    write_jsonl(kept, [{"image": "0.png"}])
    rows = tmp_path / "snapshot" / "rows.jsonl"
    rows.parent.mkdir()
    rows.symlink_to(kept)
    (rows.parent / "0.png").write_bytes(encoded(0))
    embeddings = embed_corpus(embedder, rows, tmp_path / "out")
    assert embeddings.table()["image"].to_pylist() == [str(rows.parent / "0.png")]


def test_the_end_of_a_name_may_be_in_capitals(embedder, tmp_path):
    for name in ("a.jsonl", "B.JSONL"):
        write_jsonl(tmp_path / "in" / name, texts(1) if name == "a.jsonl" else [{"id": "b", "text": "b"}])
    assert ids(embed_corpus(embedder, tmp_path / "in", tmp_path / "out")) == ["b", "row 0"]
    assert ids(embed_corpus(embedder, tmp_path / "in" / "B.JSONL", tmp_path / "one")) == ["b"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("pipe:cat secret", "E_USAGE_INPUT"),
        ("https://example.org/a.tar", "E_USAGE_INPUT"),
        ("nothing.jsonl", "E_DATA_FILE"),
        ("a.tar.gz", "E_DATA_READ"),
        ("a.json", "E_DATA_READ"),
        ("empty", "E_DATA_EMPTY"),
        ("mixed", "E_DATA_READ"),
        ("packed", "E_DATA_READ"),
    ],
)
def test_what_is_no_input_is_refused(embedder, tmp_path, monkeypatch, name, code):
    monkeypatch.chdir(tmp_path)
    for file in ("a.tar.gz", "a.json"):
        (tmp_path / file).write_text("[]")
    (tmp_path / "empty").mkdir()
    write_jsonl(tmp_path / "mixed" / "a.jsonl", texts(1))
    write_tar(tmp_path / "mixed" / "a.tar", [("a.txt", b"a")])
    (tmp_path / "packed").mkdir()
    write_tar(tmp_path / "packed" / "a.tar", [("a.txt", b"a")])
    (tmp_path / "packed" / "b.tar.gz").write_bytes(b"")
    assert refused(embedder, name, tmp_path / "out").code == code


@pytest.mark.parametrize("kind", ["pictures", "tar", "jsonl", "table in a folder"])
def test_an_input_whose_own_path_is_not_utf8_is_refused_at_once(embedder, tmp_path, kind):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "0.png").write_bytes(encoded(0))
    write_tar(folder / "rows.tar", [("0.png", encoded(0))])
    write_jsonl(folder / "rows.jsonl", [{"image": "0.png"}])
    source = {"tar": folder / "rows.tar", "jsonl": folder / "rows.jsonl"}.get(kind, folder)
    if kind == "pictures":
        (folder / "rows.tar").unlink()
        (folder / "rows.jsonl").unlink()
    if kind == "table in a folder":
        source = tmp_path / "tables"
        write_jsonl(source / os.fsdecode(b"caf\xe9.jsonl"), texts(1))
    error = refused(embedder, source, tmp_path / "out")
    assert error.code == "E_DATA_PATH"
    assert str(error).encode().count(b"caf\\udce9") == 1
    assert not (tmp_path / "out").exists()


def test_a_picture_whose_path_is_not_utf8_is_a_bad_row(embedder, tmp_path):
    pictures = tmp_path / os.fsdecode(b"caf\xe9")
    pictures.mkdir()
    (pictures / "0.png").write_bytes(encoded(0))
    rows = write_jsonl(tmp_path / "in" / "rows.jsonl", [{"image": "0.png"}, {"text": "an owl"}])
    (tmp_path / "in" / "images").symlink_to(pictures)
    paths = pa.array([b"caf\xe9.png", b"caf\xe9.png"]).view(pa.string())
    structs = pa.StructArray.from_arrays([pa.array([None, encoded(1)]), paths], ["bytes", "path"])
    pq.write_table(pa.table({"image": structs}), tmp_path / "rows.parquet")
    for source in (rows, tmp_path / "rows.parquet"):
        out = tmp_path / f"out-{source.name}"
        assert ids(embed_corpus(embedder, source, out)) == ["2"]
        assert bad(out) == {("1", "E_DATA_TEXT")}


@pytest.mark.parametrize("case", of_kind("table"), ids=str)
def test_an_odd_table_is_a_bad_row_or_an_error_that_names_the_file(embedder, tmp_path, case):
    path = case.make(tmp_path)
    codes: set[str | None] = set()
    try:
        embed_corpus(embedder, path, tmp_path / "out")
    except CocoaError as error:
        assert path.name in str(error)
        codes = {error.code}
        if error.code == "E_DATA_EMPTY":
            # Where no row is good, the first problem is told in words.
            codes = {error.code, *(word for word in str(error).replace("[", "]").split("]") if word.startswith("E_"))}
    else:
        codes = {row["code"] for row in bad_rows(tmp_path / "out")} or {None}
        assert all(row["where"].startswith(str(path)) for row in bad_rows(tmp_path / "out"))
    assert any(case.is_right(code) for code in codes), codes


def test_what_would_fill_the_memory_does_not(tmp_path):
    """A Parquet file of a kilobyte that unpacks to 900 MB, one that does so page by page, a line of 100 MB."""
    line = tmp_path / "line.jsonl"
    with line.open("wb") as file:
        file.write(b'{"text": "')
        for _ in range(100):
            file.write(b"a" * 1_000_000)
        file.write(b'"}\n{"text": "after"}\n')
    bomb = next(case for case in of_kind("table") if case.name == "bomb").make(tmp_path)
    assert bomb.stat().st_size < 1000
    plain = pa.table({"text": ["a" * 10_000_000] * 60})
    pq.write_table(plain, tmp_path / "plain.parquet", compression="zstd", use_dictionary=False)
    for path, rows, most in ((line, 2, 60), (bomb, 900, 120), (tmp_path / "plain.parquet", None, 500)):
        process = CONTEXT.Process(target=_read_all, args=(path, rows, most))
        process.start()
        process.join(120)
        assert process.exitcode == 0, path.name


def _read_all(path: Path, rows: int | None, megabytes: int) -> None:
    """Reads an input to the end, or to an error that names it; exits with 1 if it takes more memory than allowed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = Input.find(path)
    listing = path.with_suffix(".listing")
    found.write_listing(listing)
    try:
        with ParquetReader() as reader:
            [source] = found.sources(listing, reader)
            tally = RowTally(1000)
            tally.begin_file()
            source.scan(tally)
            read = sum(1 for part in tally.parts for _ in source.read(part))
        assert rows is None or read == rows
    except CocoaError as error:
        assert rows is None and error.code == "E_DATA_READ" and f"{path.name}:1" in str(error), error
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    sys.exit(0 if here < megabytes * 1024 and children < 600 * 1024 else 1)


def test_a_file_that_kills_its_reader_kills_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b"]}), path)
    with ParquetReader() as reader:
        reader.describe(path)
        reader._process.kill()
        with pytest.raises(CocoaError) as caught:
            reader.describe(path)
        assert caught.value.code == "E_DATA_READ"
        assert reader.describe(path)["rows"] == 2


def test_a_row_of_too_much_text_is_a_bad_one(embedder, tmp_path):
    rows = [{"text": "a" * LONGEST_ROW}, {"text": "a" * (LONGEST_ROW + 1)}, {"text": "a", "more": "b" * LONGEST_ROW}]
    embeddings = embed_corpus(embedder, write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out")
    assert ids(embeddings) == ["1"]
    assert bad(tmp_path / "out") == {("2", "E_DATA_TOO_LONG"), ("3", "E_DATA_TOO_LONG")}


def test_a_picture_that_leaves_no_room_for_all_bridge_tokens_is_a_bad_row(tiny, tmp_path):
    picture = tmp_path / "0.png"
    make_picture(200, 200).save(picture)
    backbone = tiny()
    size = len(backbone.encode(Sample("", (picture,))))
    EmbeddingModel(backbone, max_tokens=size + 1, pooling=Pooling(tokens=2)).save(tmp_path / "model")
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"image": "0.png"}, {"text": "an owl"}])
    embeddings = embed_corpus(Embedder.load(tmp_path / "model"), rows, tmp_path / "out")
    assert ids(embeddings) == ["2"]
    assert bad(tmp_path / "out") == {("1", "E_DATA_TOO_LONG")}


def test_bad_rows_among_good_ones_change_no_bit_of_them(embedder, tmp_path):
    cases = [case for case in of_kind("image", "geometry", "row") if case.code and not case.or_accepted]
    expected: dict[str, object] = {}
    per_file = 25
    for start in range(0, len(cases), per_file):
        good = [{"id": f"{start}-{n}", "text": f"an owl {start} {n}"} for n in range(19 * per_file)]
        (tmp_path / "dirty").mkdir(exist_ok=True)
        dirty: list[dict[str, object]] = []
        for number, row in enumerate(good):
            dirty.append(row)
            if number % 19 == 0 and start + number // 19 < len(cases):
                case = cases[start + number // 19]
                made = case.make(tmp_path / "dirty")
                name = made
                if isinstance(made, bytes):
                    name = f"{case}.png"
                    (tmp_path / "dirty" / name).write_bytes(made)
                dirty.append({"id": str(case), "image": str(name)})
                expected[str(case)] = case
        write_jsonl(tmp_path / "clean" / f"{start:03}.jsonl", good)
        write_jsonl(tmp_path / "dirty" / f"{start:03}.jsonl", dirty)
    clean = embed_corpus(embedder, tmp_path / "clean", tmp_path / "out-clean")
    found = embed_corpus(embedder, tmp_path / "dirty", tmp_path / "out-dirty")
    assert ids(found) == ids(clean)
    assert found.vectors().tobytes() == clean.vectors().tobytes()
    told = {row["id"]: row["code"] for row in bad_rows(tmp_path / "out-dirty")}
    assert told.keys() == expected.keys()
    wrong = {name: code for name, code in told.items() if not expected[name].is_right(code)}
    assert not wrong
    assert (
        len(found) + len(told)
        == found.card["rows"] + found.card["bad_rows"]
        == sum(
            len((tmp_path / "dirty" / f"{start:03}.jsonl").read_text().splitlines())
            for start in range(0, len(cases), per_file)
        )
    )
    assert json.loads((tmp_path / "out-dirty" / "embeddings.json").read_text())["bad_rows"] == len(told)


def test_rows_of_a_large_dictionary_are_read_from_any_place(tmp_path):
    words = [None if number % 7 == 0 else f"word {number % 900}" for number in range(5000)]
    pq.write_table(pa.table({"text": words}), tmp_path / "a.parquet", row_group_size=1700)
    with ParquetReader() as reader:
        for first, rows in ((0, 5000), (4990, 10), (100, 3), (1690, 20), (103, 200)):
            batches = reader.batches(tmp_path / "a.parquet", ["text"], first, rows)
            assert [row["text"] for batch in batches for row in batch.to_pylist()] == words[first : first + rows]
